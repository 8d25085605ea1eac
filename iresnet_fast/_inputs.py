"""Checks of the tensors that users pass to layers and models, in words about that tensor.

Attribute reads on metadata, so that torch.compile traces through them and a call costs a microsecond. Never the data:
reading them would make a GPU wait.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

_METHODS = {
    torch.float32: ".float()",
    torch.float64: ".double()",
    torch.float16: ".half()",
    torch.bfloat16: ".bfloat16()",
}
_NARROW = (torch.float16, torch.bfloat16, torch.float32)

# Sizes of one sample; None: any.
Event = Sequence[int | None]


def check_tensor(value: object, name: str = "x") -> None:
    """Raise TypeError unless the value is a tensor."""
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got layout {value.layout}; pass {name}.to_dense().")
        if value.is_nested:
            raise TypeError(f"{name} must be a dense tensor, got a nested one; pass {name}.to_padded_tensor(0.0).")
        return
    advice = "pass a tensor"
    given = "it" if " " in name else name  # a description is no argument
    if isinstance(value, (tuple, list)) and any(isinstance(entry, Tensor) for entry in value):
        advice = f"pass its first entry, as in {given}, logdet = layer(...), or torch.stack it"
    elif type(value).__module__ == "numpy":
        kind = "from_numpy" if type(value).__name__ == "ndarray" else "tensor"
        advice = f"pass torch.{kind}({given})"
    elif isinstance(value, (tuple, list, int, float, complex)):
        advice = f"pass torch.tensor({given})"
    elif hasattr(value, "__array__"):
        advice = f"pass torch.from_numpy({given}.to_numpy()), or what else makes a tensor of it"
    raise TypeError(f"{name} must be a torch.Tensor, got {described(value)}; {advice}.")


def check_path(name: str, value: object, example: str, expected: str = "a path") -> None:
    """Raise TypeError unless the value is a path, of text; the sentence ends in what to pass."""
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise TypeError(f"{name} must be {expected}, got {described(value)}; pass {example}.")


def check_module(value: object, name: str = "model") -> None:
    """Raise TypeError unless the value is a module."""
    if isinstance(value, nn.Module):
        return
    advice = "build one and pass that" if isinstance(value, type) else "pass one"
    if not isinstance(value, type) and callable(value):
        advice = "wrap it in one, so that its parameters are found"
    raise TypeError(f"{name} must be a torch.nn.Module, got {described(value)}; {advice}.")


def described(value: object) -> str:
    """Return how to call a value of the wrong type."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value)
    package = kind.__module__.split(".", 1)[0]
    return kind.__name__ if package in ("builtins", "torch", "iresnet_fast") else f"{package}.{kind.__name__}"


def check_samples(x: Tensor, name: str = "x") -> None:
    """Raise ValueError unless x is [B, *event] with one dimension of the event at least."""
    check_tensor(x, name)
    if x.dim() < 2:
        advice = f"add the batch dimension, {name}[None], or that of the event, {name}[:, None]"
        raise ValueError(f"{name} must have shape [B, *event], got {tuple(x.shape)}; {advice}.")


def check_floating(x: Tensor, name: str = "x") -> None:
    """Raise TypeError unless x is a tensor of real floating point numbers."""
    check_tensor(x, name)
    if not x.is_floating_point():
        advice = f"pass {name}.real" if x.is_complex() else f"convert it, e.g. with {name}.float()"
        raise TypeError(f"{name} must be a floating point tensor, got {x.dtype}; {advice}.")


def check_same_kind(x: Tensor, like: Tensor, name: str = "x", owner: str = "layer") -> None:
    """Raise unless x has the dtype and the device of `like`, a tensor of its owner.

    Under autocast the numbers may be narrower or wider than the weights: the layers see to it.
    """
    check_tensor(x, name)
    if x.dtype != like.dtype and not _is_widened(x, like):
        if x.is_complex():
            advice = f"pass {name}.real{_METHODS.get(like.dtype, f'.to({like.dtype})')}"
        else:
            advice = f"pass {name}{_METHODS.get(like.dtype, f'.to({like.dtype})')}"
            if x.dtype in _METHODS:
                advice += f" or convert the {owner} with {_METHODS[x.dtype]}"
        raise TypeError(f"{name} must have the dtype of the {owner}, {like.dtype}, got {x.dtype}; {advice}.")
    if x.device != like.device:
        _refuse_device(x, like, name, owner)


def check_same_device(x: Tensor, like: Tensor, name: str = "x", owner: str = "layer") -> None:
    """Raise ValueError unless x is a tensor on the device of `like`, a tensor of its owner."""
    check_tensor(x, name)
    if x.device != like.device:
        _refuse_device(x, like, name, owner)


def _refuse_device(x: Tensor, like: Tensor, name: str, owner: str) -> NoReturn:
    advice = f"pass {name}.to({str(like.device)!r})"
    if x.is_meta or like.is_meta:
        advice = f"give the {owner} numbers with to_empty and load_state_dict" if like.is_meta else "pass numbers"
    raise ValueError(f"{name} must be on the device of the {owner}, {like.device}, got {x.device}; {advice}.")


def _is_widened(x: Tensor, like: Tensor) -> bool:
    device = x.device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return False
    return x.dtype in _NARROW and like.dtype in _NARROW


def check_channels(x: Tensor, channels: int, name: str = "x") -> None:
    """Raise ValueError unless x is [B, channels, ...]."""
    check_tensor(x, name)
    if x.dim() < 2 or x.shape[1] != channels:
        event = (channels,) if x.dim() < 3 else (channels, None, None)
        raise ValueError(
            f"{name} must have shape [B, {channels}] or [B, {channels}, H, W], got {tuple(x.shape)}; "
            f"{_advice(x, event, name, 'layer')}."
        )


def check_shape(x: Tensor, event: Event, name: str = "x", owner: str = "layer") -> None:
    """Raise ValueError unless x is [B, *event]; sizes that are None may be any."""
    check_tensor(x, name)
    shape = x.shape
    if len(shape) != len(event) + 1 or any(e is not None and e != s for e, s in zip(event, shape[1:], strict=True)):
        sizes = ", ".join([str(size) if size is not None else "HW"[i - 1] for i, size in enumerate(event)])
        raise ValueError(f"{name} must have shape [B, {sizes}], got {tuple(shape)}; {_advice(x, event, name, owner)}.")


def check_data(x: Tensor, event: Event, like: Tensor, name: str = "x") -> None:
    """Raise unless x is data [B, *event] for a model of the kind of `like`, or whole numbers of any dtype."""
    check_shape(x, event, name, "model")
    if x.is_floating_point() or x.is_complex():
        check_same_kind(x, like, name, "model")
    elif x.is_quantized:
        raise TypeError(f"{name} must be data or whole numbers, got {x.dtype}; pass {name}.dequantize().")
    else:
        check_same_device(x, like, name, "model")


def _advice(x: Tensor, event: Event, name: str, owner: str) -> str:
    """Return what to do about a wrong shape: the commonest reasons first."""
    shape = tuple(x.shape)
    if _fits(shape, event):
        return f"add the batch dimension, {name}[None]"
    if len(event) == 3 and len(shape) in (3, 4) and _fits((shape[-1], *shape[-3:-1]), event):
        order = "2, 0, 1" if len(shape) == 3 else "0, 3, 1, 2"
        return f"move its channels to the front, {name}.permute({order}){'[None]' * (len(shape) == 3)}"
    sizes = [size for size in event if size is not None]
    if len(sizes) == len(event) and shape and math.prod(shape[1:]) == math.prod(sizes):
        return f"reshape it with {name}.reshape(-1, {', '.join(map(str, sizes))})"
    return f"reshape it or build the {owner} for it"


def _fits(shape: Sequence[int], event: Event) -> bool:
    return len(shape) == len(event) and all(e is None or e == s for e, s in zip(event, shape, strict=True))


def check_labels(labels: Tensor, n: int, n_classes: int | None = None) -> None:
    """Raise unless labels are [n] integers; of how many classes is for the advice."""
    check_tensor(labels, "labels")
    if labels.shape != (n,):
        advice = "pass one number for each sample"
        if labels.dim() == 2 and labels.shape[0] == n and n_classes == labels.shape[1]:
            advice = "pass labels.argmax(1) of one-hot rows"
        raise ValueError(f"labels must have shape {(n,)}, got {tuple(labels.shape)}; {advice}.")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, the numbers of classes, got {labels.dtype}; pass labels.long().")
