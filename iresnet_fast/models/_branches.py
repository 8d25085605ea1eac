"""The branches that a flow can be built of, by the name its configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from ..nn import ConditionalBranch, DenseBranch, InducedNormBranch, ResidualBranch

if TYPE_CHECKING:
    from .flow_config import FlowConfig


@dataclass(frozen=True)
class BranchKind:
    """One of them, and which settings of a FlowConfig it can take.

    Attributes:
        build: from the configuration, the shape of an event, the widths between the layers, the activation, and
            whether it also comes first.
        is_chain: whether there is a kernel size for each layer, and not one for all.
        takes_context: whether it can depend on a context.
        scales_whole: whether it can be normalised as a whole.
    """

    build: Callable[[FlowConfig, Sequence[int], Sequence[int], str, bool], nn.Module]
    is_chain: bool = True
    takes_context: bool = False
    scales_whole: bool = False


def _residual(
    config: FlowConfig, shape: Sequence[int], hidden: Sequence[int], activation: str, preactivation: bool
) -> nn.Module:
    widths, options = [shape[0], *hidden, shape[0]], _spectral(config, activation)
    options["preactivation"] = preactivation
    images: dict[str, Any] = {"image_size": tuple(shape[1:])}
    if config.context_features:
        context = config.context_features
        options |= {"hidden_features": config.context_hidden, "mode": config.context_mode}
        if len(shape) == 1:
            return ConditionalBranch.dense(widths, context, **options)
        return ConditionalBranch.conv(widths, config.kernel_sizes, context, **images, **options)
    if len(shape) == 1:
        return ResidualBranch.dense(widths, normalize="branch" if config.normalize == "branch" else "layers", **options)
    return ResidualBranch.conv(widths, config.kernel_sizes, **images, **options)


def _dense(
    config: FlowConfig, shape: Sequence[int], hidden: Sequence[int], activation: str, preactivation: bool
) -> nn.Module:
    options = {"growth": config.growth, "depth": config.depth, **_spectral(config, activation)}
    if len(shape) == 1:
        return DenseBranch.dense(shape[0], **options)
    return DenseBranch.conv(shape[0], kernel_size=config.kernel_sizes[0], image_size=(shape[1], shape[2]), **options)


def _induced(
    config: FlowConfig, shape: Sequence[int], hidden: Sequence[int], activation: str, preactivation: bool
) -> nn.Module:
    widths = [shape[0], *hidden, shape[0]]
    options: dict[str, Any] = {"norm": float(config.norm), "activation": activation, "coeff": config.coeff}
    if len(shape) == 1:
        return InducedNormBranch.dense(widths, **options)
    return InducedNormBranch.conv(widths, config.kernel_sizes, **options)


def _spectral(config: FlowConfig, activation: str) -> dict[str, Any]:
    """Return the options of branches of spectral layers."""
    return {
        "activation": activation,
        "coeff": config.coeff,
        "n_iterations": config.power_iterations,
        "tol": config.power_tolerance,
        "strict": config.normalize == "strict",
    }


BRANCHES = {
    "residual": BranchKind(_residual, takes_context=True, scales_whole=True),
    "dense": BranchKind(_dense, is_chain=False),
    "induced": BranchKind(_induced),
}


def names_with(setting: str) -> str:
    """Return the names of the branches that can take a setting, for messages."""
    return " or ".join(repr(name) for name, kind in BRANCHES.items() if getattr(kind, setting))


def flow_branch(
    config: FlowConfig, shape: Sequence[int], preactivation: bool, hidden: Sequence[int], at_end: bool = False
) -> nn.Module:
    """Return the branch of a block for events of `shape`; those at the fully connected end are chains."""
    kind, activation = BRANCHES[config.branch], config.activation
    if at_end and not kind.is_chain:
        kind, activation = BRANCHES["residual"], "lipswish" if activation == "clipswish" else activation
    return kind.build(config, shape, hidden, activation, preactivation)
