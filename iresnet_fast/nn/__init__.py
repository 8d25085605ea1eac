"""Layers: spectrally normalised linear maps, residual branches of them, and the invertible block."""

from .block import InvertibleResidualBlock
from .branch import ResidualBranch
from .conv import SpectralConv2d
from .linear import SpectralLinear
from .spectral import update_spectral_norm

__all__ = [
    "InvertibleResidualBlock",
    "ResidualBranch",
    "SpectralConv2d",
    "SpectralLinear",
    "update_spectral_norm",
]
