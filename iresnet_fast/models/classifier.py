"""The classifier whose features lead back to the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._inputs import check_data, check_same_kind, check_shape
from ..nn import ActNorm, InjectivePad, ResidualBranch, Sequential, Squeeze
from ..nn._call import Solution
from ..nn._transform import check_range, output_shape
from ._blocks import Block
from ._head import PooledHead
from ._norms import GroupsNorms
from ._plain import Border, UnboundedBlock
from ._presets import Presets, check_config
from .classifier_config import CLASSIFIERS, ClassifierConfig
from .reconstruction import ImageReconstruction


class IResNetClassifier(Presets[ClassifierConfig], GroupsNorms):
    """Classifier of images with invertible features (i-ResNet, arXiv 1811.00995).

    A border, a squeeze and zero channels widen the image, injectively; then scales of ActNorm and residual blocks; a
    pooled head makes the logits. No log-determinant is computed. With coeff None the blocks are ordinary residual
    blocks of the same shapes: `invert` then tries the same fixed-point iteration, and warns where it fails.

    Args:
        config: everything; `IResNetClassifier.preset(name, **changes)` builds one that has a name.

    Attributes:
        feature_shape: (C, H, W) of the features.
    """

    _table = CLASSIFIERS

    def __init__(self, config: ClassifierConfig) -> None:
        """Build the model; the argument is that of the class."""
        GroupsNorms.__init__(self)
        check_config(config, ClassifierConfig)
        self.config = config
        self.body = _body(config)
        channels, height, width = output_shape(self.body, config.image_shape)
        self.feature_shape = (channels, height, width)
        self.head = PooledHead(channels, config.n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [B, n_classes].

        Args:
            x: [B, *image_shape], of integers below n_levels, or of floating point as the residual blocks see it.

        Raises:
            ValueError: x does not fit.
        """
        logits: Tensor = self.head(self.features(x))
        return logits

    def features(self, x: Tensor) -> Tensor:
        """Return the features [B, *feature_shape], before the head; arguments and errors as in `forward`."""
        check_data(x, self.config.image_shape, self.head.linear.weight)
        if not x.is_floating_point():
            x = self.scaled(x)
        with self._grouped_norms():
            features: Tensor = self.body(x)[0]
        return features

    def scaled(self, x: Tensor) -> Tensor:
        """Return images of whole numbers of any dtype as the residual blocks see them, in [-1/2, 1/2].

        Raises:
            ValueError: the model has no n_levels, or x has values that are none.
        """
        check_data(x, self.config.image_shape, self.head.linear.weight)
        n_levels = self.config.n_levels
        if n_levels is None:
            raise ValueError(
                f"x must be of floating point for a classifier whose n_levels is None, got {x.dtype}; set n_levels, or "
                f"pass x / (n_levels - 1) - 0.5."
            )
        check_range(x, 0, n_levels - 1, f"pass images of whole numbers below {n_levels}")
        return x.to(self.head.linear.weight.dtype) / (n_levels - 1) - 0.5

    def invert(self, features: Tensor) -> Tensor:
        """Return the images [B, *image_shape] of features [B, *feature_shape].

        Features that belong to no image lead to one after their padding, no longer zero, is dropped. Warns if a block
        was not inverted.

        Raises:
            ValueError: the features do not fit.
        """
        return self.solve(features).x

    def solve(self, features: Tensor) -> Solution:
        """Return what `invert` does with the iterations and the largest error of a block; errors as there."""
        check_same_kind(features, self.head.linear.weight, "features", "model")
        check_shape(features, self.feature_shape, "features", "model")
        with self._grouped_norms():
            return self.body.solve(features)

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> ImageReconstruction:
        """Return the images after x -> features -> x, and how exact that was; errors as in `forward`."""
        check_data(x, self.config.image_shape, self.head.linear.weight)
        x = x if x.is_floating_point() else self.scaled(x)
        features = self.features(x)
        again, iterations, block_error = self.solve(features)
        error = (again - x).abs().flatten(1).amax(1)
        return ImageReconstruction(again, features, error, block_error, iterations)


def _body(config: ClassifierConfig) -> Sequential:
    shape: tuple[int, ...] = config.image_shape
    layers: list[nn.Module] = [Border(config.border)] if config.border else []
    n_blocks = 0
    for i, (count, hidden) in enumerate(zip(config.blocks, config.hidden, strict=True)):
        if i > 0 or config.squeeze_first:
            layers.append(Squeeze())
        if i == 0 and config.padding_channels:
            layers.append(InjectivePad(config.padding_channels))
        shape = output_shape(Sequential(*layers), config.image_shape)
        for _ in range(count):
            if config.actnorm:
                layers.append(ActNorm(shape[0]))
            layers.append(_block(config, shape, hidden, config.preactivation and n_blocks > 0))
            n_blocks += 1
    return Sequential(*layers)


def _block(config: ClassifierConfig, shape: tuple[int, ...], hidden: int, preactivation: bool) -> nn.Module:
    channels = [shape[0], hidden, hidden, shape[0]]
    if config.coeff is None:
        image_size = (shape[1], shape[2])
        return UnboundedBlock(
            channels, config.kernel_sizes, image_size, config.activation, preactivation, config.solver
        )
    branch = ResidualBranch.conv(
        channels,
        config.kernel_sizes,
        (shape[1], shape[2]),
        config.activation,
        config.coeff,
        preactivation,
        n_iterations=config.power_iterations,
        tol=config.power_tolerance,
        strict=config.strict,
    )
    return Block(branch, None, None, config.solver, math.prod(shape))
