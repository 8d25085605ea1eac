"""Whole models, each from a configuration that JSON can hold, with the papers' recipes as named presets."""

from ._report import LogProbReport
from .classifier import IResNetClassifier
from .classifier_config import ClassifierConfig
from .distribution import FlowDistribution
from .flow import IResNetFlow
from .flow_config import FlowConfig
from .hybrid import HybridConfig, HybridIResNet, hybrid_loss
from .lipschitz import BlockLipschitz, LipschitzTable, certified_lipschitz
from .prior import DiagonalNormal
from .reconstruction import ImageReconstruction, Reconstruction
from .residual_flow import IDenseNet, ResidualFlow

__all__ = [
    "BlockLipschitz",
    "ClassifierConfig",
    "DiagonalNormal",
    "FlowConfig",
    "FlowDistribution",
    "HybridConfig",
    "HybridIResNet",
    "IDenseNet",
    "IResNetClassifier",
    "IResNetFlow",
    "ImageReconstruction",
    "LipschitzTable",
    "LogProbReport",
    "Reconstruction",
    "ResidualFlow",
    "certified_lipschitz",
    "hybrid_loss",
]
