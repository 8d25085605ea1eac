"""The residual blocks of the models: two estimators, one of training and one of evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .._tracing import may_read
from ..estimators import Exact, PowerSeries
from ..nn import ConditionalBranch, DenseBranch, InducedNormBranch, InvertibleResidualBlock, ResidualBranch
from ..nn._inverse import report
from ..nn.block import Estimator
from ..solvers import FixedPoint
from .flow_config import FlowConfig

# The Jacobian costs d products: no more than the ten or twenty terms of a series, or little enough to be sure.
_EXACT_IN_TRAINING = 16
_EXACT_IN_EVALUATION = 64
# Training learns to exploit a short series: an estimate of 5 terms flattered an MNIST model by 0.015 bits/dim, one of
# 10 by nothing that could be measured. 20 also serve coeff = 0.98 (Residual Flows evaluate with 20 and a random few).
_EVALUATION = PowerSeries(n_terms=20)

Step = tuple[Tensor, Tensor]


class Block(InvertibleResidualBlock):
    """An InvertibleResidualBlock that changes its estimator with its mode.

    Args:
        branch: g.
        train_estimator: in training; None: no log-determinant.
        eval_estimator: outside training; None: no log-determinant.
        solver: of the inverse.
        n_dims: number of values in one sample of x.
        lipschitz: as for InvertibleResidualBlock.
    """

    def __init__(
        self,
        branch: nn.Module,
        train_estimator: Estimator | None,
        eval_estimator: Estimator | None,
        solver: FixedPoint,
        n_dims: int,
        lipschitz: float | None = None,
    ) -> None:
        """Build the block; the arguments are those of the class."""
        super().__init__(branch, train_estimator, solver, lipschitz)
        self.train_estimator, self.eval_estimator, self.n_dims = train_estimator, eval_estimator, n_dims
        self._steps: list[Step] | None = None

    def train(self, mode: bool = True) -> Block:
        """Switch the mode, and with it the estimator."""
        super().train(mode)
        self.estimator = self.train_estimator if mode else self.eval_estimator
        return self

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant of the inverse as InvertibleResidualBlock does, zeros without estimator."""
        if self.estimator is not None:
            return super().inverse(z, context)
        if self._steps is None and not may_read(z):
            x = self.solve(z, context)[0]
            return x, x.new_zeros(x.shape[0])
        found = self.certified_inverse(z, context)
        if may_read(z):
            report(found, self.solver, self._known_lipschitz())
        if self._steps is not None:
            self._steps.append((found.iterations, found.error))
        return found.x, found.x.new_zeros(found.x.shape[0])


@contextmanager
def without_logdet(model: nn.Module) -> Iterator[list[Step]]:
    """Leave the log-determinants of all blocks out, and list what their inverses report.

    Yields:
        (iterations [B], certified error [B] in the units of the block's input) of every inverse, as they come.
    """
    steps: list[Step] = []
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    estimators = [block.estimator for block in blocks]
    for block in blocks:
        block.estimator = None
    recorders: list[Any] = [module for module in model.modules() if hasattr(module, "_steps")]
    for recorder in recorders:
        recorder._steps = steps
    try:
        yield steps
    finally:
        for block, estimator in zip(blocks, estimators, strict=True):
            block.estimator = estimator
        for recorder in recorders:
            recorder._steps = None


def estimators_of(config: FlowConfig, n_dims: int) -> tuple[Estimator, Estimator]:
    """Return the estimators of training and evaluation of a block of so many dimensions."""
    train: Estimator = Exact() if n_dims <= _EXACT_IN_TRAINING else PowerSeries(n_terms=10)
    evaluation: Estimator = Exact() if n_dims <= _EXACT_IN_EVALUATION else _EVALUATION
    return (
        train if config.train_estimator is None else config.train_estimator,
        evaluation if config.eval_estimator is None else config.eval_estimator,
    )


def flow_branch(
    config: FlowConfig, shape: Sequence[int], preactivation: bool, hidden: Sequence[int], at_end: bool = False
) -> nn.Module:
    """Return the branch of a block for events of `shape`; those at the fully connected end are never dense."""
    channels = shape[0]
    widths = [channels, *hidden, channels]
    options: dict[str, Any] = {
        "activation": config.activation,
        "coeff": config.coeff,
        "n_iterations": config.power_iterations,
        "tol": config.power_tolerance,
        "strict": config.normalize == "strict",
    }
    if config.branch == "induced":
        known: dict[str, Any] = {"norm": float(config.norm), "activation": config.activation, "coeff": config.coeff}
        if len(shape) == 1:
            return InducedNormBranch.dense(widths, **known)
        return InducedNormBranch.conv(widths, config.kernel_sizes, **known)
    images: dict[str, Any] = {"image_size": tuple(shape[1:])}
    if at_end and config.activation == "clipswish":
        options["activation"] = "lipswish"
    if config.branch == "dense" and not at_end:
        if len(shape) == 1:
            return DenseBranch.dense(channels, config.growth, config.depth, **options)
        return DenseBranch.conv(channels, config.growth, config.depth, config.kernel_sizes[0], **images, **options)
    if config.context_features:
        options |= {"hidden_features": config.context_hidden, "mode": config.context_mode}
        if len(shape) == 1:
            return ConditionalBranch.dense(widths, config.context_features, **options)
        return ConditionalBranch.conv(widths, config.kernel_sizes, config.context_features, **images, **options)
    options["preactivation"] = preactivation
    if len(shape) == 1:
        return ResidualBranch.dense(widths, normalize="branch" if config.normalize == "branch" else "layers", **options)
    return ResidualBranch.conv(widths, config.kernel_sizes, **images, **options)
