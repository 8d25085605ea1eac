"""Checks of arguments shared by `ops` and `reference`: shapes, dtypes and devices, never data (that would synchronise).

Plain Python on metadata, so torch.compile traces through them and they cost a few microseconds.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iresnet_fast import activations as registry
from iresnet_fast._inputs import check_floating, check_tensor, described
from iresnet_fast._traces import MOST_TERMS

_MOST_WIDTH = 1 << 31  # the kernels count channels in 32 bits


def check_branch(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
    name: str = "x",
) -> None:
    """Check the stages of a branch against its input; `name` is what the caller calls `x`."""
    check_floating(x, name)
    check_list("weights", weights, "tensors")
    n_stages = len(weights)
    if n_stages == 0:
        raise ValueError("weights must hold at least one tensor, got none; pass one weight per stage.")
    check_list("activations", activations, "names")
    check_list("biases", biases, "tensors or None")
    lists = (("biases", biases), ("activations", activations), ("parameters", parameters), ("factors", factors))
    for argument, value in lists:
        if value is not None and len(value) != n_stages:
            raise ValueError(
                f"{argument} must have one entry per weight ({n_stages}), got {len(value)}; pad it with "
                f"{repr('identity') if argument == 'activations' else 'None'}."
            )
    if x.dim() not in (2, 4):
        raise ValueError(f"{name} must have shape [B, d] or [B, C, H, W], got {tuple(x.shape)}; reshape it.")
    _check_first(x, weights, registry.get(activations[0]).expansion, name)
    channels = x.shape[1]
    for i in range(n_stages):
        entry = registry.get(activations[i])
        channels = _check_weight(i, weights[i], x, channels * entry.expansion, name)
        bias, parameter = biases[i], None if parameters is None else parameters[i]
        factor = None if factors is None else factors[i]
        if parameter is not None:
            _check_parameter(i, entry, parameter, x, name)
        if bias is not None:
            check_same("biases", i, bias, name, x)
            if bias.dim() != 1 or bias.shape[0] != channels:
                _check_spread("biases", i, bias, channels, x)
        if factor is not None:
            check_same("factors", i, factor, name, x)
            _check_spread("factors", i, factor, weights[i].shape[1], x)
    if channels != x.shape[1]:
        raise ValueError(
            f"weights[{n_stages - 1}] must have {x.shape[1]} outputs, the channels of {name}, since a branch is "
            f"added to its input, got {channels}; change its first dimension."
        )


def check_list(argument: str, value: object, entries: str) -> None:
    """Check that an argument is a list and not one of its entries."""
    if isinstance(value, (str, Tensor)) or not hasattr(value, "__len__"):
        advice = "pass [None] for one stage" if value is None else "put it in []"
        raise TypeError(f"{argument} must be a list of {entries}, got {described(value)}; {advice}.")


def _check_first(x: Tensor, weights: Sequence[Tensor], expansion: int, name: str) -> None:
    """Check x against the first weight: where they differ, and the weights agree, it is x that is wrong."""
    first = weights[0]
    check_tensor(first, "weights[0]")
    if x.dtype != first.dtype and all(getattr(weight, "dtype", None) == first.dtype for weight in weights):
        raise TypeError(
            f"{name} must have the dtype of the weights, {first.dtype}, got {x.dtype}; convert one of them, e.g. with "
            f"{name}.to(weights[0].dtype)."
        )
    if x.device != first.device and all(getattr(weight, "device", None) == first.device for weight in weights):
        raise ValueError(
            f"{name} must be on the device of the weights, {first.device}, got {x.device}; move one of them, e.g. with "
            f"{name}.to(weights[0].device)."
        )
    if first.dim() in (2, 4) and (x.dim() != first.dim() or x.shape[1] * expansion != first.shape[1]):
        channels = first.shape[1] // expansion
        expected = f"[B, {channels}]" if first.dim() == 2 else f"[B, {channels}, H, W]"
        raise ValueError(
            f"{name} must have shape {expected} for weights[0] of shape {tuple(first.shape)}, got {tuple(x.shape)}; "
            f"change one of them."
        )


def _check_weight(i: int, weight: Tensor, x: Tensor, channels: int, name: str) -> int:
    """Check the weight of stage i and return its number of outputs."""
    check_same("weights", i, weight, name, x)
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
        raise ValueError(
            f"weights[{i}] must have {channels} inputs, the outputs of weights[{i - 1}], got {weight.shape[1]}; "
            f"change its second dimension."
        )
    return weight.shape[0]


def _check_spread(argument: str, i: int, tensor: Tensor, channels: int, x: Tensor) -> None:
    """Check the shape of a bias or a factor of each sample."""
    of_samples = (x.shape[0], channels)
    shapes: list[tuple[int, ...]] = [of_samples] if x.dim() == 2 else [of_samples, (*of_samples, *x.shape[2:])]
    if tuple(tensor.shape) in shapes:
        return
    own = "one entry per output" if argument == "biases" else "one entry per sample and input"
    if argument == "biases":
        shapes.insert(0, (channels,))
    raise ValueError(
        f"{argument}[{i}] must have shape {shapes[0]}, {own} of weights[{i}]"
        f"{''.join(f', or {shape}' for shape in shapes[1:])}, got {tuple(tensor.shape)}; reshape it or pass None."
    )


def _check_parameter(i: int, entry: registry.Activation, parameter: Tensor, x: Tensor, name: str) -> None:
    if not entry.has_parameter:
        raise ValueError(f"parameters[{i}] must be None since {entry.name} has no parameter, got a tensor; pass None.")
    check_same("parameters", i, parameter, name, x)
    if parameter.dim() > 1 or parameter.numel() != 1:
        raise ValueError(
            f"parameters[{i}] must have shape () or (1,), got {tuple(parameter.shape)}; pass one scalar per stage."
        )


def check_same(argument: str, i: int | None, tensor: Tensor, name: str, x: Tensor) -> None:
    """Check dtype and device of `argument`, or of its entry i, against those of x."""
    if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
        check_tensor(tensor, argument if i is None else f"{argument}[{i}]")
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
    check_same("probe", None, probe, "x", x)
    if probe.shape != x.shape and (probe.shape[1:] != x.shape or probe.shape[0] == 0):
        raise ValueError(
            f"probe must have the shape of x, {tuple(x.shape)}, or [m, *x.shape] for m probes, "
            f"got {tuple(probe.shape)}; draw it with torch.randn_like(x) or an estimator's draw."
        )


def check_coefficients(coefficients: Tensor | Sequence[float], x: Tensor) -> Tensor:
    """Check the coefficients q_k and return them as a tensor [n] or [B, n] of the dtype and on the device of x."""
    if not isinstance(coefficients, Tensor):
        check_list("coefficients", coefficients, "numbers")
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


def check_exact_terms(value: int, minimum: int) -> None:
    """Check the number of first terms of a series that are exact."""
    name = "n_terms" if minimum else "exact_terms"
    check_count(name, value, minimum)
    if value > MOST_TERMS:
        raise ValueError(f"{name} must be at most {MOST_TERMS}, got {value}; pass {MOST_TERMS}.")


def check_number(argument: str, value: object, example: str) -> None:
    """Check that an argument is a number, of whatever size."""
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or hasattr(value, "__float__")):
        got = repr(value) if isinstance(value, (str, bool)) else described(value)
        raise TypeError(f"{argument} must be a number, got {got}; pass e.g. {example}.")


def check_flag(argument: str, value: object) -> None:
    """Check a switch: a word like "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {value!r}; pass one of them.")


def check_sizes(argument: str, value: Sequence[int]) -> tuple[int, ...]:
    """Check the sizes of an event and return them as a tuple."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise TypeError(f"{argument} must hold the sizes of one sample, got {value!r}; pass e.g. (3, 32, 32) or (2,).")
    sizes = tuple(value)
    for size in sizes:
        check_count(f"every size of {argument}", size, 1)
    return sizes


def check_image_size(value: int | Sequence[int]) -> tuple[int, int]:
    """Check the (height, width) of images, or one number for both, and return both."""
    return check_pair("image_size", value, "32 or (28, 28)")


def check_pair(argument: str, value: int | Sequence[int], example: str) -> tuple[int, int]:
    """Check (height, width), or one number for both, and return both."""
    try:
        sizes: Any = value if hasattr(value, "__len__") else (value, value)
        height, width = sizes
        if isinstance(height, bool) or isinstance(width, bool):
            raise TypeError
        return operator.index(height), operator.index(width)
    except (TypeError, ValueError):  # of another number of sizes
        raise TypeError(
            f"{argument} must be one integer or (height, width), got {value!r}; pass e.g. {example}."
        ) from None


def check_lipschitz(lipschitz: float) -> None:
    """Check a Lipschitz constant of a contraction."""
    check_number("lipschitz", lipschitz, "0.9")
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
    check_number("tol", tol, "1e-5")
    if not tol > 0.0:
        raise ValueError(f"tol must be positive, got {tol}; pass e.g. 1e-5.")


def check_count(argument: str, value: int, minimum: int) -> None:
    """Check an integer argument with a lower limit."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an integer, got {value!r}; pass an int of at least {minimum}.")
    if value < minimum:
        raise ValueError(f"{argument} must be at least {minimum}, got {value}; increase it.")


def check_seed(argument: str, value: int) -> None:
    """Check a seed: torch takes 64 bits, and of more the rest would be lost."""
    check_count(argument, value, 0)
    if value >= 1 << 64:
        raise ValueError(f"{argument} must be below 2^64, got {value}; pass a smaller one.")


def check_width(argument: str, value: object) -> None:
    """Check a number of features or channels, of whatever integer type torch takes."""
    try:
        width = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{argument} must be an integer, got {value!r}; pass e.g. 64.") from None
    if width < 0:
        raise ValueError(f"{argument} must not be negative, got {width}; pass e.g. 64.")
    if width >= _MOST_WIDTH:
        raise ValueError(f"{argument} must be less than {_MOST_WIDTH}, got {width}; pass e.g. 64.")


def check_choice(argument: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of the choices."""
    if value not in choices:
        names = ", ".join(map(repr, choices))
        raise ValueError(f"{argument} must be one of {names}, got {value!r}; use one of them.")
