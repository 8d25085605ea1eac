"""The weights of a file: whether they are such as training leaves, and a model built for them and no larger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

T = TypeVar("T")

# Layers take ten calls of torch for each tensor that they keep, and twice its elements; the rest is leeway.
_CALLS, _SPARE_CALLS = 50, 1_000
_ELEMENTS, _SPARE_ELEMENTS = 10, 1 << 20
_FACTORIES = frozenset(
    (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.arange, torch.randperm)
)
_DTYPES = {torch.float64, torch.float32, torch.bfloat16, torch.float16}
_VECTORS = (".u", ".v")  # the singular vectors of layers, which have length 1
_FLAG = ".initialized"  # of an ActNorm, a bool in older versions
_SIGNS = ".sign"  # of the determinants of invertible maps
_PERMUTATION = ".permutation"  # of the channels, as a matrix; in older versions as their order
_VECTOR_TOLERANCE = 0.1  # of that length: half precision rounds it by less
_NO_NORM = 1e-30  # the squares of smaller weights are zero


def dtype_of(weights: Mapping[str, Tensor]) -> torch.dtype:
    """Return the floating point type that all weights have; raises ValueError if there is none or more than one."""
    dtypes = {value.dtype for value in weights.values() if value.is_floating_point()}
    if len(dtypes) != 1 or not dtypes <= _DTYPES:
        names = sorted(map(str, dtypes))
        raise ValueError(f"weights of one floating point type that models compute in, got {', '.join(names) or 'none'}")
    return dtypes.pop()


def check_weights(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless these can be the weights of a trained model; names and shapes are left to torch.

    Args:
        weights: a state_dict that came from a file.
        own: that of the model they are for.
    """
    for name, value in weights.items():
        expected = own.get(name)
        if expected is not None and not _may_become(expected, name, value):
            raise ValueError(f"{name} of {expected.dtype}, got {value.dtype}")
        if value.dtype in _DTYPES:
            _check_numbers(name, value)
            if name.endswith(_PERMUTATION):
                _check_permutation(name, value)
            if name.endswith(_VECTORS):
                _check_vector(name, value, weights.get(f"{name.rpartition('.')[0]}.weight"))
        elif value.dim() == 1 and not torch.equal(value.sort().values, torch.arange(len(value)).to(value)):
            raise ValueError(f"an order of {len(value)} channels as {name}, got one in which some are missing")


def _may_become(expected: Tensor, name: str, value: Tensor) -> bool:
    """Return whether the type is that of the model, or one that older versions wrote: flags were of others."""
    if value.dtype == expected.dtype:
        return True
    if value.is_floating_point() or value.is_complex():
        return False
    was_whole = name.endswith(_FLAG) or (name.endswith(_PERMUTATION) and value.dim() == 1)
    return was_whole or not expected.is_floating_point()


def _check_numbers(name: str, value: Tensor) -> None:
    if not bool(value.isfinite().all()):
        raise ValueError(f"finite numbers, got others in {name}")
    if name.endswith(_SIGNS) and not bool((value.abs() == 1.0).all()):
        raise ValueError(f"signs as {name}, got other numbers")


def _check_permutation(name: str, matrix: Tensor) -> None:
    if matrix.dim() != 2:
        return  # torch says what shape it must have
    ones = matrix == 1.0
    if not bool((ones | (matrix == 0.0)).all() and (ones.sum(0) == 1).all() and (ones.sum(1) == 1).all()):
        raise ValueError(f"a permutation of channels as {name}, got a matrix that is none")


def _check_vector(name: str, vector: Tensor, weight: Tensor | None) -> None:
    if vector.numel() == 0 or weight is None:
        return
    # A weight of zeros has no singular vectors: the iteration leaves zeros.
    if not bool(vector.any()) and float(weight.abs().max()) < _NO_NORM:
        return
    length = float(torch.linalg.vector_norm(vector.double()))
    if abs(length - 1.0) > _VECTOR_TOLERANCE:
        raise ValueError(f"a singular vector of length 1 as {name}, got one of length {length:.3g}")


def build_for(weights: Mapping[str, Tensor], build: Callable[[], T]) -> T:
    """Return what `build` returns, which may make about as many and as large tensors as the weights are.

    Raises:
        ValueError: it would take more.
    """
    with _Budget(len(weights), sum(value.numel() for value in weights.values())):
        return build()


class _Budget(TorchFunctionMode):
    """Ends the work of this thread inside a with block when it has made too many tensors, or before too large ones."""

    def __init__(self, n_tensors: int, n_elements: int) -> None:
        super().__init__()
        self._calls = _CALLS * n_tensors + _SPARE_CALLS
        self._elements = _ELEMENTS * n_elements + _SPARE_ELEMENTS

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._calls -= 1
        if func in _FACTORIES:
            # On the device without memory the size is known before any is taken.
            options = {name: value for name, value in kwargs.items() if name not in ("device", "generator")}
            self._elements -= func(*args, **options, device="meta").numel()
        if self._calls < 0 or self._elements < 0:
            raise ValueError("a configuration of the size of the weights, got a much larger one")
        return func(*args, **kwargs)
