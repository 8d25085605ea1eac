"""What a flow consists of, from its configuration: preprocessing, scales, fully connected end, prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar, cast

import torch
from torch import nn

from ..nn import (
    ActNorm,
    Affine,
    Dequantize,
    DequantizeSteps,
    Flatten,
    InducedNormBranch,
    InvertibleLinear,
    Logit,
    MultiScale,
    NoisePad,
    Sequential,
    Squeeze,
    Whiten,
)
from ._blocks import Block, estimators_of
from ._branches import flow_branch
from ._signals import SignalAsImage
from .flow_config import FlowConfig
from .prior import DiagonalNormal

Shape = tuple[int, ...]
Layer = TypeVar("Layer", bound=nn.Module)


def preprocessing_of(config: FlowConfig) -> Sequential:
    """Return the transforms from the data to what the residual blocks see."""
    layers: list[nn.Module] = []
    if config.n_levels is not None:
        layers.append(Dequantize(config.n_levels))
    if any(config.dequantize):
        layers.append(_numbers(lambda: DequantizeSteps(config.dequantize)))
    if config.preprocess == "logit":
        layers.append(Logit(config.alpha))
    elif config.preprocess == "center":
        layers.append(_affine((), -0.5))
    elif config.preprocess == "standardize":
        layers.append(_affine(config.event_shape))
    elif config.preprocess == "whiten":
        layers.append(_numbers(lambda: Whiten(torch.zeros(config.n_dims), torch.eye(config.n_dims))))
    if config.noise_channels:
        layers.append(NoisePad(config.noise_channels))
    if config.has_grid and not config.is_image:
        layers.append(SignalAsImage())
    return Sequential(*layers)


def context_preprocessing_of(config: FlowConfig) -> Affine | None:
    """Return what the context goes through before any network sees it."""
    return _affine((config.context_features,)) if config.context_preprocess == "standardize" else None


def prior_of(config: FlowConfig, n_dims: int) -> DiagonalNormal:
    """Return the prior of a latent of so many dimensions."""
    context = config.context_features if config.prior == "conditional" else 0
    return DiagonalNormal(
        n_dims, config.prior != "standard", context_features=context, context_hidden=config.context_hidden
    )


def body_of(config: FlowConfig) -> tuple[Sequential | MultiScale, list[Shape]]:
    """Return the transform from the preprocessed data to the latent [B, d], and the shapes of the latent's pieces."""
    channels, *sizes = config.inner_shape
    shape = event = (channels + config.noise_channels, *sizes)
    scales: list[Sequential] = []
    for i, n_blocks in enumerate(config.blocks):
        last = i + 1 == len(config.blocks)
        layers: list[nn.Module] = []
        if i > 0 or config.squeeze_first:
            squeeze = Squeeze(config.squeeze_factors)
            layers.append(squeeze)
            shape = squeeze.output_shape(shape)
        for j in range(n_blocks):
            first = j == 0 and not any(config.blocks[:i])
            layers += _block_layers(config, shape, config.preactivation and not first, config.hidden)
        if last:
            layers, shape = _end(config, shape, layers)
        scales.append(Sequential(*layers))
        if config.factor_out and not last:
            shape = (shape[0] // 2, *shape[1:])
    if config.factor_out and len(scales) > 1:
        body = MultiScale(scales, event)
        return body, body.latent_shapes
    joined = Sequential(*(layer for scale in scales for layer in scale))
    if len(shape) > 1:
        joined.append(Flatten(shape))
    return joined, [shape]


def _end(config: FlowConfig, shape: Shape, layers: list[nn.Module]) -> tuple[list[nn.Module], Shape]:
    """Return the layers of the last scale with what follows its blocks, and the shape after it."""
    if config.fc_blocks:
        if len(shape) > 1:
            layers.append(Flatten(shape))
            shape = (math.prod(shape),)
        for _ in range(config.fc_blocks):
            layers += _block_layers(config, shape, config.preactivation, config.fc_hidden, at_end=True)
    if config.final_actnorm:
        layers.append(_actnorm(config, shape[0]))
    return layers, shape


def _block_layers(
    config: FlowConfig, shape: Shape, preactivation: bool, hidden: Sequence[int], at_end: bool = False
) -> list[nn.Module]:
    layers: list[nn.Module] = []
    if config.actnorm:
        layers.append(_actnorm(config, shape[0]))
    if config.linear:
        layers.append(InvertibleLinear(shape[0]))
    n_dims = math.prod(shape)
    branch = flow_branch(config, shape, preactivation, hidden, at_end)
    if config.zero_init:
        _zero(cast(nn.ModuleList, branch.layers)[-1])
    lipschitz = branch.inverse_lipschitz(n_dims) if isinstance(branch, InducedNormBranch) else None
    return [*layers, Block(branch, *estimators_of(config, n_dims), config.solver, n_dims, lipschitz)]


def _actnorm(config: FlowConfig, channels: int) -> ActNorm:
    context = config.context_features if config.conditional_actnorm else 0
    return ActNorm(channels, context_features=context, context_hidden=config.context_hidden)


def _zero(layer: nn.Module) -> None:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()


def _affine(shape: Shape, shift: float = 0.0) -> Affine:
    def build() -> Affine:
        one = torch.ones(shape)
        return Affine(one, torch.full_like(one, shift))

    return _numbers(build)


def _numbers(build: Callable[[], Layer]) -> Layer:
    """Return a layer that looks at its numbers when it is built: a meta tensor has none."""
    with torch.device("cpu") if torch.get_default_device().type == "meta" else nullcontext():
        return build()
