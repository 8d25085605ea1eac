"""What a model makes of its own outputs, and how exact its inverse was."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Reconstruction(NamedTuple):
    """What the inverse makes of a latent, and how far it is from where the latent came from.

    Attributes:
        x: [B, *event_shape].
        z: the latent [B, d].
        error: Euclidean distance [B] of the preprocessed data before and after, measured.
        block_error: [B], the largest error any one block certifies, in the units of its own input; errors of later
            blocks grow by up to 1 / (1 - lipschitz) in those before.
        iterations: [B], evaluations of a branch in all blocks together.
    """

    x: Tensor
    z: Tensor
    error: Tensor
    block_error: Tensor
    iterations: Tensor


class ImageReconstruction(NamedTuple):
    """What the inverse makes of features, and how exact it is.

    Attributes:
        x: [B, *image_shape].
        features: [B, *feature_shape].
        error: largest difference [B] of a pixel, measured; infinite or NaN where an unbounded network diverged.
        block_error: [B], the largest error any one block certifies; of an unbounded one the residual |z - x - g(x)|,
            which certifies nothing.
        iterations: [B], evaluations of a branch in all blocks together.
    """

    x: Tensor
    features: Tensor
    error: Tensor
    block_error: Tensor
    iterations: Tensor
