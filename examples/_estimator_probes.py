"""Estimators whose noise is compared: those of the package, and two of the literature that are measured here only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from iresnet_fast import ops
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.models import IResNetFlow
from iresnet_fast.nn import InvertibleResidualBlock

TERMS = 20  # of every series


@dataclass(frozen=True)
class Orthogonal(PowerSeries):
    """n_probes orthogonal directions, uniform among all such, from the QR decomposition of a Gaussian matrix."""

    def draw(self, x: Tensor, *others: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return probes of torch's global generator and the coefficients."""
        n, d = x.shape[0], x[0].numel()
        directions = torch.linalg.qr(torch.randn(n, d, self.n_probes, dtype=x.dtype))[0]
        return _as_probes(directions * d**0.5, x), torch.ones(self.n_terms, dtype=x.dtype)


@dataclass(frozen=True)
class HutchPlusPlus(PowerSeries):
    """Hutch++ (arXiv 2010.09649) on the whole series f(J) as one matrix: tr f = tr Q' f Q + tr P f P, P = I - Q Q'.

    Half of the n_probes are the columns of Q, the other half Rademacher probes of the second trace. Q is an orthonormal
    basis of (J')^k S, S of signs, and J^k the first power that is not exact: any Q is unbiased, this one takes k
    products where f(J) S would take all of the series, and f(J) is J^k times a matrix that is near a multiple of I.
    All are scaled so that the mean over the probes, which the op takes, is the sum of the two traces.
    """

    branch: Any = None

    def draw(self, x: Tensor, *others: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Return probes of torch's global generator for the block's input x, and the coefficients."""
        half = self.n_probes // 2
        signs = torch.randn(half, *x.shape, dtype=x.dtype).sign().flatten(0, 1)
        weights, biases, activations, parameters, _ = self.branch.as_stages(x)
        with torch.enable_grad():
            u = x.detach().repeat(half, *[1] * (x.dim() - 1)).requires_grad_()
            g = ops.branch(u, [weight.detach() for weight in weights], biases, activations, parameters)
            for _ in range(1 + int(self.exact_terms)):
                (signs,) = torch.autograd.grad(g, u, signs, retain_graph=True)
        basis = torch.linalg.qr(signs.view(half, len(x), -1).permute(1, 2, 0))[0]
        rest = torch.randn(len(x), x[0].numel(), half, dtype=x.dtype).sign()
        rest = rest - basis @ (basis.mT @ rest)
        directions = torch.cat((basis * (2.0 * half) ** 0.5, rest * 2.0**0.5), 2)
        return _as_probes(directions, x), torch.ones(self.n_terms, dtype=x.dtype)


def _as_probes(directions: Tensor, x: Tensor) -> Tensor:
    """Return directions [B, d, m] as probes [m, *x.shape]."""
    return directions.permute(2, 0, 1).reshape(-1, *x.shape).contiguous()


# Returns the estimator of a block, from the block, the number of exact terms and the number of the draw.
Make = Callable[[Any, Any, int], PowerSeries]


def kinds(n_dims: int) -> dict[str, tuple[int, Make]]:
    """Return the kinds of probes with how many each takes and its estimators; several: 4, or d if that is less."""
    several = min(4, n_dims)

    def series(n_probes: int, probe: str = "rademacher") -> tuple[int, Make]:
        return n_probes, lambda block, exact, draw: PowerSeries(
            TERMS, n_probes, probe, eval_seed=draw, exact_terms=exact
        )

    return {
        "Rademacher": series(1),
        "Gaussian": series(1, "gaussian"),
        f"{several} Rademacher": series(several),
        f"{several} orthogonal": (several, lambda block, exact, _: Orthogonal(TERMS, several, exact_terms=exact)),
        f"Hutch++, {several}": (
            several,
            lambda block, exact, _: HutchPlusPlus(TERMS, several, exact_terms=exact, branch=block.branch),
        ),
    }


def blocks_of(model: IResNetFlow) -> list[Any]:
    """Return the residual blocks of a model."""
    return [module for module in model.modules() if isinstance(module, InvertibleResidualBlock)]


@contextmanager
def evaluated_with(model: IResNetFlow, make: Callable[[Any], Any]) -> Iterator[None]:
    """Evaluate with the estimators that `make` returns for the blocks.

    Where an estimator looks at the branch, a hook has each block called by itself, with its input at hand: else those
    in a row are one op, and draw before any of them is computed.
    """
    blocks = blocks_of(model)
    before = [block.eval_estimator for block in blocks]
    handles = []
    for block in blocks:
        block.eval_estimator = make(block)
        if isinstance(block.eval_estimator, HutchPlusPlus):
            handles.append(block.register_forward_pre_hook(lambda block, args: None))
    yield
    for block, estimator in zip(blocks, before, strict=True):
        block.eval_estimator = estimator
    for handle in handles:
        handle.remove()
