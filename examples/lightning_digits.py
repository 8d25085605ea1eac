"""Train a density model of digits with Lightning. The spectral norms follow the weights without any callback.

    python examples/lightning_digits.py --max-steps 500

Needs `pip install lightning`. Prints the bits/dim of the test set, and the largest spectral norm of a layer: it holds
coeff although every step has changed the weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from iresnet_fast import data
from iresnet_fast.models import IResNetFlow, certified_lipschitz


class Density(lightning.LightningModule):
    """A flow as Lightning wants it: what a step computes, and with what it is optimised."""

    def __init__(self, flow: IResNetFlow, learning_rate: float = 5e-3) -> None:
        """Train `flow` with Adam."""
        super().__init__()
        self.flow, self.learning_rate = flow, learning_rate

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Return the mean bits/dim of a batch [[B, 1, 8, 8]]."""
        loss = self.flow.bits_per_dim(batch[0]).mean()
        self.log("bits_per_dim", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Log those of the test set."""
        self.log("test_bits_per_dim", self.flow.bits_per_dim(batch[0]).mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)


@dataclass(frozen=True)
class Result:
    """What a run came to: test bits/dim, and the largest spectral norm of a layer before and after training."""

    bits_per_dim: float
    norm_before: float
    norm_after: float


def train(flow: IResNetFlow, max_steps: int, batch_size: int = 64, show_progress: bool = True) -> Result:
    """Train the flow on scikit-learn's digits, in place."""
    lightning.seed_everything(0, verbose=False)
    digits = data.load("digits")
    flow.initialize(digits.train[:1024])  # ActNorm and the prior start from data
    before = certified_lipschitz(flow).worst_layer
    trainer = lightning.Trainer(
        max_steps=max_steps,
        accelerator="auto",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=show_progress,
    )
    density = Density(flow)
    loader = DataLoader(TensorDataset(digits.train), batch_size, shuffle=True, drop_last=True)
    tests = DataLoader(TensorDataset(digits.test), 360)
    trainer.fit(density, loader)
    (metrics,) = trainer.validate(density, tests, verbose=False)
    return Result(metrics["test_bits_per_dim"], before, certified_lipschitz(flow).worst_layer)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-steps", type=int, default=500, help="steps of 64 samples (default: 500)")
    flow = IResNetFlow.preset("digits")
    result = train(flow, parser.parse_args(arguments).max_steps)
    print(f"test bits/dim: {result.bits_per_dim:.3f}")
    norms = f"{result.norm_before:.5f} before and {result.norm_after:.5f} after"
    print(f"largest spectral norm of a layer, for coeff {flow.config.coeff}: {norms}")


if __name__ == "__main__":
    main()
