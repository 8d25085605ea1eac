"""Invertible residual networks with fast kernels.

`ops` holds the functional API, `reference` the same functions in plain torch, `nn` the layers built on them;
`estimators` and `solvers` are the objects a layer is given for its log-determinant and its inverse, `activations` is
the registry of nonlinearities. `certify` bounds norms and Lipschitz constants from both sides. `models` are whole flows
and classifiers, `data` reads what they are trained on, `training` trains, evaluates and saves them, and `likelihood`
converts between nats and bits per dimension.
"""

from . import activations, certify, data, estimators, likelihood, models, nn, ops, reference, solvers, training
from ._version import __version__

__all__ = [
    "__version__",
    "activations",
    "certify",
    "data",
    "estimators",
    "likelihood",
    "models",
    "nn",
    "ops",
    "reference",
    "solvers",
    "training",
]
