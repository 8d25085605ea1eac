"""The flows of two later papers: the same model, other configurations."""

from __future__ import annotations

from .flow import IResNetFlow
from .flow_presets import DENSENETS, RESIDUAL_FLOWS


class ResidualFlow(IResNetFlow):
    """IResNetFlow with the recipes of Residual Flows (arXiv 1906.02735): Russian roulette, LipSwish, coeff 0.98.

    `toy` has the 100 blocks of its two-dimensional densities; `mnist`, `cifar10`, `imagenet32`, `imagenet64` and
    `celebahq256` are its image models.
    """

    _table = RESIDUAL_FLOWS


class IDenseNet(IResNetFlow):
    """IResNetFlow with the recipes of i-DenseNet (arXiv 2102.02694): dense branches, CLipSwish, learnt concatenation.

    `cifar10`, `imagenet32`, and `cifar10_small` with four blocks a scale; `toy` is a small one for two dimensions.
    """

    _table = DENSENETS
