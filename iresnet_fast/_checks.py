"""Checks of arguments shared by `ops` and `reference`: shapes, dtypes and devices, never data (that would synchronise).

Plain Python on metadata, so torch.compile traces through them and they cost a few microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from iresnet_fast import activations as registry
from iresnet_fast.geometry import ConvGeometry


def check_branch(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None = None,
    name: str = "x",
) -> None:
    """Check the stages of a branch against its input; `name` is what the caller calls `x`."""
    n_stages = len(weights)
    if n_stages == 0:
        raise ValueError("weights must hold at least one tensor, got none; pass one weight per stage.")
    for argument, value in (("biases", biases), ("activations", activations), ("parameters", parameters)):
        if value is not None and len(value) != n_stages:
            raise ValueError(
                f"{argument} must have one entry per weight ({n_stages}), got {len(value)}; pad it with "
                f"{repr('identity') if argument == 'activations' else 'None'}."
            )
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a floating point tensor, got {x.dtype}; convert it, e.g. with .float().")
    if x.dim() not in (2, 4):
        raise ValueError(f"{name} must have shape [B, d] or [B, C, H, W], got {tuple(x.shape)}; reshape it.")
    channels = x.shape[1]
    for i in range(n_stages):
        channels = _check_weight(i, weights[i], x, channels, name)
        _check_activation(i, activations[i], weights[i], None if parameters is None else parameters[i], x, name)
        bias = biases[i]
        if bias is not None:
            _check_same("biases", i, bias, name, x)
            if bias.dim() != 1 or bias.shape[0] != channels:
                raise ValueError(
                    f"biases[{i}] must have shape ({channels},), one entry per output of weights[{i}], "
                    f"got {tuple(bias.shape)}; reshape it or pass None."
                )
    if channels != x.shape[1]:
        raise ValueError(
            f"weights[{n_stages - 1}] must have {x.shape[1]} outputs, the channels of {name}, since a branch is "
            f"added to its input, got {channels}; change its first dimension."
        )


def _check_weight(i: int, weight: Tensor, x: Tensor, channels: int, name: str) -> int:
    """Check the weight of stage i and return its number of outputs."""
    _check_same("weights", i, weight, name, x)
    if weight.dim() != x.dim():
        expected = "[out, in]" if x.dim() == 2 else "[out, in, k, k]"
        raise ValueError(
            f"weights[{i}] must have shape {expected} for {name} of shape {tuple(x.shape)}, got {tuple(weight.shape)}; "
            f"reshape one of them."
        )
    if weight.dim() == 4 and (weight.shape[2] != weight.shape[3] or weight.shape[2] % 2 == 0):
        raise ValueError(
            f"weights[{i}] must have a square kernel of odd size, got {tuple(weight.shape[2:])}; "
            f"pad the kernel with zeros."
        )
    if weight.shape[1] != channels:
        source = f"the channels of {name}" if i == 0 else f"the outputs of weights[{i - 1}]"
        raise ValueError(
            f"weights[{i}] must have {channels} inputs, {source}, got {weight.shape[1]}; change its second dimension."
        )
    return weight.shape[0]


def _check_activation(i: int, activation: str, weight: Tensor, parameter: Tensor | None, x: Tensor, name: str) -> None:
    entry = registry.get(activation)
    if entry.pairwise and weight.shape[1] % 2 != 0:
        raise ValueError(
            f"weights[{i}] must have an even number of inputs after {activation}, which works on pairs of channels, "
            f"got {weight.shape[1]}; change the width or the activation."
        )
    if parameter is None:
        return
    if not entry.has_parameter:
        raise ValueError(f"parameters[{i}] must be None since {activation} has no parameter, got a tensor; pass None.")
    _check_same("parameters", i, parameter, name, x)
    if parameter.dim() > 1 or parameter.numel() != 1:
        raise ValueError(
            f"parameters[{i}] must have shape () or (1,), got {tuple(parameter.shape)}; pass one scalar per stage."
        )


def _check_same(argument: str, i: int | None, tensor: Tensor, name: str, x: Tensor) -> None:
    """Check dtype and device of `argument`, or of its entry i, against those of x."""
    if tensor.dtype == x.dtype and tensor.device == x.device:
        return
    # Words are put together only for an error: a check runs on every call of an op.
    argument = argument if i is None else f"{argument}[{i}]"
    if tensor.dtype != x.dtype:
        raise TypeError(
            f"{argument} must have the dtype of {name}, {x.dtype}, got {tensor.dtype}; "
            f"convert it with .to({name}.dtype)."
        )
    raise ValueError(
        f"{argument} must be on the device of {name}, {x.device}, got {tensor.device}; move it with .to({name}.device)."
    )


def check_probe(probe: Tensor, x: Tensor) -> None:
    """Check a probe, shaped like x, or [m, *x.shape] for m probes."""
    _check_same("probe", None, probe, "x", x)
    if probe.shape != x.shape and (probe.shape[1:] != x.shape or probe.shape[0] == 0):
        raise ValueError(
            f"probe must have the shape of x, {tuple(x.shape)}, or [m, *x.shape] for m probes, "
            f"got {tuple(probe.shape)}; draw it with torch.randn_like(x) or an estimator's draw."
        )


def check_coefficients(coefficients: Tensor | Sequence[float], x: Tensor) -> Tensor:
    """Check the coefficients q_k and return them as a tensor [n] or [B, n] of the dtype and on the device of x."""
    if not isinstance(coefficients, Tensor):
        coefficients = torch.tensor(coefficients, dtype=x.dtype, device=x.device)
    shape = tuple(coefficients.shape)
    if len(shape) not in (1, 2) or shape[-1] == 0 or (len(shape) == 2 and shape[0] != x.shape[0]):
        raise ValueError(
            f"coefficients must have shape [n] or [B, n] with n >= 1 terms and B = {x.shape[0]}, got {shape}; "
            f"pass ones for a plain truncation."
        )
    if not coefficients.is_floating_point():
        raise TypeError(
            f"coefficients must be floating point, got {coefficients.dtype}; convert them, e.g. with .to(x.dtype)."
        )
    return coefficients.to(device=x.device, dtype=x.dtype)


def check_gradient(gradient: str) -> None:
    """Check the name of a gradient estimator."""
    if gradient not in ("neumann", "series"):
        raise ValueError(f"gradient must be 'neumann' or 'series', got {gradient!r}; use one of the two.")


def check_lipschitz(lipschitz: float) -> None:
    """Check a Lipschitz constant of a contraction."""
    if not 0.0 <= lipschitz < 1.0:
        raise ValueError(
            f"lipschitz must be in [0, 1), got {lipschitz}; normalise the weights so that the branch is a contraction."
        )


def check_series_tolerance(tol: float | None, lipschitz: float | None) -> None:
    """Check the tolerance of a series, which needs a Lipschitz constant for its bound."""
    if lipschitz is not None:
        check_lipschitz(lipschitz)
    if tol is not None:
        check_tolerance(tol)
        if lipschitz is None:
            raise ValueError(
                "lipschitz must be given when tol is, got None; pass the Lipschitz constant of the branch."
            )


def check_tolerance(tol: float) -> None:
    """Check a tolerance."""
    if not tol > 0.0:
        raise ValueError(f"tol must be positive, got {tol}; pass e.g. 1e-5.")


def check_count(argument: str, value: int, minimum: int) -> None:
    """Check an integer argument with a lower limit."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an integer, got {value!r}; pass an int of at least {minimum}.")
    if value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value}; increase it.")


def check_choice(argument: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of the choices."""
    if value not in choices:
        names = ", ".join(map(repr, choices))
        raise ValueError(f"{argument} must be one of {names}, got {value!r}; use one of them.")


def check_weights(weights: Sequence[Tensor]) -> None:
    """Check tensors of any floating point dtype on one device, in a few microseconds for a whole model."""
    device = weights[0].device if weights else None
    if all(dtype.is_floating_point for dtype in {weight.dtype for weight in weights}):
        for i, weight in enumerate(weights):
            if weight.device != device:
                raise ValueError(
                    f"weights[{i}] must be on the device of weights[0], {device}, got {weight.device}; "
                    f"call once for each device."
                )
        return
    for i, weight in enumerate(weights):
        _check_floating(i, weight)


def _check_floating(i: int, weight: Tensor) -> None:
    if not weight.is_floating_point():
        raise TypeError(f"weights[{i}] must be a floating point tensor, got {weight.dtype}; convert it.")


def check_spectral(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
) -> None:
    """Check the weights, vectors and geometries of a list of layers."""
    for argument, value in (("us", us), ("vs", vs), ("geometry", geometry)):
        if len(value) != len(weights):
            raise ValueError(f"{argument} must have one entry per weight ({len(weights)}), got {len(value)}; add them.")
    for i, (weight, place) in enumerate(zip(weights, geometry, strict=True)):
        _check_floating(i, weight)
        u_shape, v_shape = _vector_shapes(i, weight, place)
        for argument, vector, expected in (("us", us[i], u_shape), ("vs", vs[i], v_shape)):
            _check_same(argument, i, vector, f"weights[{i}]", weight)
            if tuple(vector.shape) != expected:
                raise ValueError(
                    f"{argument}[{i}] must have shape {expected} for weights[{i}] of shape {tuple(weight.shape)}, "
                    f"got {tuple(vector.shape)}; draw it again with that shape."
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
        _check_same("companions", i, companion, f"weights[{i}]", weights[i])
        if companion.shape != shorter.shape:
            raise ValueError(
                f"companions[{i}] must have the shape of {name}[{i}], the shorter vector, {tuple(shorter.shape)}, "
                f"got {tuple(companion.shape)}; start with zeros."
            )
    check_count("n_iterations", n_iterations, 1)
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
    values = [float(coeff)] * n_layers if isinstance(coeff, (int, float)) else [float(c) for c in coeff]
    if len(values) != n_layers:
        raise ValueError(
            f"coeff must be one float or {n_layers}, one per layer, got {len(values)}; pass one per layer."
        )
    for value in values:
        if not value > 0.0:
            raise ValueError(f"coeff must be positive, got {value}; pass e.g. 0.9.")
    return values
