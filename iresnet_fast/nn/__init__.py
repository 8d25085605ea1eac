"""Layers: spectrally normalised maps, residual branches of them, the invertible block, and what flows put around it."""

from ._call import Call
from ._freshness import watch_optimizers
from .activation import Activation
from .actnorm import ActNorm
from .affine import Affine
from .block import InvertibleResidualBlock
from .branch import ResidualBranch
from .conditional_branch import ConditionalBranch
from .conv import SpectralConv2d
from .dense_branch import DenseBranch
from .dequantize import Dequantize
from .dequantize_steps import DequantizeSteps
from .flatten import Flatten
from .induced_norm import InducedNormConv2d, InducedNormLinear, induced_norm
from .induced_norm_branch import InducedNormBranch
from .injective_pad import InjectivePad
from .invertible_linear import InvertibleLinear
from .linear import SpectralLinear
from .logit import Logit
from .masked_branch import MaskedBranch, Masks
from .multiscale import MultiScale
from .noise_pad import NoisePad
from .parametrized_branch import ParametrizedBranch
from .permutation import Permutation
from .sequential import Sequential
from .spectral import shard_spectral_norms, update_spectral_norm
from .squeeze import Squeeze
from .whiten import Whiten

watch_optimizers()

__all__ = [
    "ActNorm",
    "Activation",
    "Affine",
    "Call",
    "ConditionalBranch",
    "DenseBranch",
    "Dequantize",
    "DequantizeSteps",
    "Flatten",
    "InducedNormBranch",
    "InducedNormConv2d",
    "InducedNormLinear",
    "InjectivePad",
    "InvertibleLinear",
    "InvertibleResidualBlock",
    "Logit",
    "MaskedBranch",
    "Masks",
    "MultiScale",
    "NoisePad",
    "ParametrizedBranch",
    "Permutation",
    "ResidualBranch",
    "Sequential",
    "SpectralConv2d",
    "SpectralLinear",
    "Squeeze",
    "Whiten",
    "induced_norm",
    "shard_spectral_norms",
    "update_spectral_norm",
]
