"""Checks of the arguments of the functions on weights and their singular vectors: metadata only, as `_checks`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import check_count, check_list, check_number, check_same
from ._inputs import check_tensor
from .geometry import ConvGeometry


def check_weights(weights: Sequence[Tensor]) -> None:
    """Check tensors of any floating point dtype on one device, in a few microseconds for a whole model."""
    check_list("weights", weights, "tensors")
    if all(isinstance(dtype, torch.dtype) and dtype.is_floating_point for dtype in _dtypes(weights)):
        device = weights[0].device if weights else None
        for i, weight in enumerate(weights):
            if weight.device != device:
                raise ValueError(
                    f"weights[{i}] must be on the device of weights[0], {device}, got {weight.device}; "
                    f"call once for each device."
                )
        return
    for i, weight in enumerate(weights):
        _check_floating(i, weight)


def _dtypes(weights: Sequence[Tensor]) -> set[object]:
    return {getattr(weight, "dtype", None) for weight in weights}


def _check_floating(i: int, weight: Tensor) -> None:
    check_tensor(weight, f"weights[{i}]")
    if not weight.is_floating_point():
        raise TypeError(f"weights[{i}] must be a floating point tensor, got {weight.dtype}; convert it.")


def check_spectral(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
) -> None:
    """Check the weights, vectors and geometries of a list of layers."""
    for argument, value in (("weights", weights), ("us", us), ("vs", vs), ("geometry", geometry)):
        check_list(argument, value, "geometries" if argument == "geometry" else "tensors")
        if len(value) != len(weights):
            raise ValueError(f"{argument} must have one entry per weight ({len(weights)}), got {len(value)}; add them.")
    if all(map(_are_vectors_of_matrix, weights, us, vs, geometry)):
        return
    for i, (weight, place) in enumerate(zip(weights, geometry, strict=True)):
        _check_floating(i, weight)
        u_shape, v_shape = _vector_shapes(i, weight, place)
        for argument, vector, expected in (("us", us[i], u_shape), ("vs", vs[i], v_shape)):
            check_same(argument, i, vector, f"weights[{i}]", weight)
            if tuple(vector.shape) != expected:
                raise ValueError(
                    f"{argument}[{i}] must have shape {expected} for weights[{i}] of shape {tuple(weight.shape)}, "
                    f"got {tuple(vector.shape)}; draw it again with that shape."
                )


def _are_vectors_of_matrix(weight: Tensor, u: Tensor, v: Tensor, place: ConvGeometry | None) -> bool:
    """Whether all is right with a matrix [out, in], its u and its v: the commonest layer, in a microsecond."""
    if place is not None or not isinstance(weight, Tensor) or not isinstance(u, Tensor) or not isinstance(v, Tensor):
        return False
    if not weight.layout == u.layout == v.layout == torch.strided or weight.is_nested or weight.dim() != 2:
        return False
    kind = weight.dtype, weight.device
    return (
        (*u.shape, *v.shape) == weight.shape
        and kind[0].is_floating_point
        and u.dim() == 1
        and kind == (u.dtype, u.device) == (v.dtype, v.device)
    )


def check_lanczos(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    companions: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
    n_iterations: int,
    tol: float,
    seed: int | Tensor,
) -> None:
    """Check the arguments of lanczos_norm."""
    check_spectral(weights, us, vs, geometry)
    if len(companions) != len(weights):
        raise ValueError(
            f"companions must have one entry per weight ({len(weights)}), got {len(companions)}; add zeros."
        )
    for i, (u, v, companion) in enumerate(zip(us, vs, companions, strict=True)):
        name, shorter = ("vs", v) if v.numel() <= u.numel() else ("us", u)
        check_same("companions", i, companion, f"weights[{i}]", weights[i])
        if companion.shape != shorter.shape:
            raise ValueError(
                f"companions[{i}] must have the shape of {name}[{i}], the shorter vector, {tuple(shorter.shape)}, "
                f"got {tuple(companion.shape)}; start with zeros."
            )
    check_count("n_iterations", n_iterations, 1)
    check_number("tol", tol, "3e-4")
    if not tol >= 0.0:
        raise ValueError(f"tol must not be negative, got {tol}; pass e.g. 3e-4, or 0.0 to take all n_iterations.")
    if not isinstance(seed, Tensor):
        if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
            raise TypeError(f"seed must be an integer of 64 bits or a tensor of one, got {seed!r}; pass e.g. 0.")
    elif seed.dtype != torch.int64 or seed.numel() != 1 or (weights and seed.device != weights[0].device):
        raise ValueError(
            f"seed must be an int64 tensor of one element on the device of weights[0], got {seed.dtype} of shape "
            f"{tuple(seed.shape)} on {seed.device}; pass an int or convert it."
        )


def _vector_shapes(i: int, weight: Tensor, place: ConvGeometry | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Check the weight of one layer and return the shapes its u and v must have."""
    shape = tuple(weight.shape)
    if place is None:
        if len(shape) not in (2, 4) or shape[2:] not in ((), (1, 1)):
            raise ValueError(
                f"weights[{i}] must have shape [out, in] or [out, in, 1, 1] when geometry[{i}] is None, got {shape}; "
                f"pass a ConvGeometry for a convolution."
            )
        return (shape[0],), (shape[1],)
    if not isinstance(place, ConvGeometry):
        raise TypeError(f"geometry[{i}] must be a ConvGeometry or None, got {place!r}; pass one of them.")
    return place.vector_shapes(shape, f"weights[{i}]", f"geometry[{i}]")


def check_coeff(coeff: float | Sequence[float], n_layers: int) -> list[float]:
    """Check the target norms and return one per layer."""
    if isinstance(coeff, str) or not hasattr(coeff, "__iter__"):
        check_number("coeff", coeff, "0.9")
    values = [float(coeff)] * n_layers if isinstance(coeff, (int, float)) else [float(c) for c in coeff]
    if len(values) != n_layers:
        raise ValueError(
            f"coeff must be one float or {n_layers}, one per layer, got {len(values)}; pass one per layer."
        )
    for value in values:
        if not value > 0.0:
            raise ValueError(f"coeff must be positive, got {value}; pass e.g. 0.9.")
    return values
