"""A branch as a function of all tensors it is made of, as `reference.implicit` takes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ._hooks import without_backward_hooks
from ._layer import BUFFERS, SpectralLayer
from .spectral import effective_weights, normalized_as


def explicit_branch(
    branch: nn.Module, layers: Sequence[SpectralLayer], context: Any
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Return g(x, *tensors), and the tensors: normalised weights, parameters, buffers and a context that is a tensor.

    Args:
        branch: any module.
        layers: those of its spectral layers whose weights are normalised here, once.
        context: its second argument; None: it takes none.
    """
    weights = effective_weights(layers) if layers else []
    theirs = {
        f"{name}.{own}".lstrip(".")
        for name, module in branch.named_modules()
        if any(module is layer for layer in layers)
        for own in ("weight", *BUFFERS)
    }
    named = {
        name: tensor for name, tensor in chain(branch.named_parameters(), branch.named_buffers()) if name not in theirs
    }
    n, extra = len(weights), (context,) if isinstance(context, Tensor) else ()

    def g(x: Tensor, *tensors: Tensor) -> Tensor:
        others = dict(zip(named, tensors[n:], strict=False))
        arguments = (x, *(tensors[n + len(named) :] or (() if context is None else (context,))))
        with normalized_as(layers, tensors[:n]), without_backward_hooks():
            gx: Tensor = torch.func.functional_call(branch, others, arguments)
        return gx

    return g, (*weights, *named.values(), *extra)
