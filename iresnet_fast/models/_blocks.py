"""The residual blocks of the models: two estimators, one of training and one of evaluation."""

from __future__ import annotations

from torch import nn

from ..estimators import Exact, PowerSeries
from ..nn import InvertibleResidualBlock
from ..nn.block import Estimator
from ..solvers import FixedPoint
from .flow_config import FlowConfig

# The Jacobian costs d products: no more than the ten or twenty terms of a series, or little enough to be sure.
_EXACT_IN_TRAINING = 16
_EXACT_IN_EVALUATION = 64
# Training learns to exploit a short series: an estimate of 5 terms flattered an MNIST model by 0.015 bits/dim, one of
# 10 by nothing that could be measured. 20 also serve coeff = 0.98 (Residual Flows evaluate with 20 and a random few).
_EVALUATION = PowerSeries(n_terms=20)


class Block(InvertibleResidualBlock):
    """An InvertibleResidualBlock whose estimator is that of its mode.

    To change that of the other mode set, for instance, `block.eval_estimator = Exact()`.

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

    @property
    def estimator(self) -> Estimator | None:
        """The estimator of the mode the block is in; one that is set here is that of this mode."""
        return self.train_estimator if self.training else self.eval_estimator

    @estimator.setter
    def estimator(self, estimator: Estimator | None) -> None:
        if self.training:
            self.train_estimator = estimator
        else:
            self.eval_estimator = estimator


def estimators_of(config: FlowConfig, n_dims: int) -> tuple[Estimator, Estimator]:
    """Return the estimators of training and evaluation of a block of so many dimensions."""
    train: Estimator = Exact() if n_dims <= _EXACT_IN_TRAINING else PowerSeries(n_terms=10)
    evaluation: Estimator = Exact() if n_dims <= _EXACT_IN_EVALUATION else _EVALUATION
    return (
        train if config.train_estimator is None else config.train_estimator,
        evaluation if config.eval_estimator is None else config.eval_estimator,
    )
