"""Residual flows with the interface of scikit-learn: a density, and a detector of outliers."""

from .density import ResidualFlowDensity
from .outlier import ResidualFlowOutlier

__all__ = ["ResidualFlowDensity", "ResidualFlowOutlier"]
