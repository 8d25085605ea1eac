"""Invertible residual networks with fast kernels.

`ops` holds the functional API, `reference` the same functions in plain torch, `nn` the layers built on them;
`estimators` and `solvers` are the objects a layer is given for its log-determinant and its inverse, `activations` is
the registry of nonlinearities. `certify` bounds norms and Lipschitz constants from both sides. `models` are whole flows
and classifiers, `data` reads what they are trained on, `training` trains, evaluates and saves them, `sklearn` gives
them the interface of scikit-learn, and `likelihood` converts between nats and bits per dimension.

What is above the layers is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import activations, estimators, likelihood, nn, ops, reference, solvers
from ._version import __version__

if TYPE_CHECKING:
    from . import certify, data, models, training
    from . import sklearn as sklearn  # not in __all__: a star takes what needs no more than torch

_LATER = ("certify", "data", "models", "sklearn", "training")

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


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
