"""Invertible residual networks with fast kernels.

`ops` holds the functional API, `reference` the same functions in plain torch, `nn` the layers built on them;
`estimators` and `solvers` are the objects a layer is given for its log-determinant and its inverse, `activations` is
the registry of nonlinearities.
"""

from . import activations, estimators, nn, ops, reference, solvers
from ._version import __version__

__all__ = ["__version__", "activations", "estimators", "nn", "ops", "reference", "solvers"]
