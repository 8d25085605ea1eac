"""Whether a compiler, a transform of torch.func or a CUDA graph looks on, and what then must not be done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _capture
from ._torch_private import is_traced, is_transformed, sees_transforms


def is_eager() -> bool:
    """Whether neither a compiler nor a transform of torch.func looks on."""
    return not (torch.compiler.is_compiling() or is_transformed())


def under_transforms() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is at work, outside compiled graphs.

    Then `requires_grad` does not tell whether a derivative is wanted, and a kernel must not see the tensors.
    """
    return not torch.compiler.is_compiling() and sees_transforms()


def may_read(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be looked at: not inside a transform, or while a graph is being made."""
    return not torch.compiler.is_compiling() and not sees_transforms() and _capture.of(tensor) is None


def all_are_done(going: Tensor) -> bool:
    """Whether it can be told that no sample goes on, in any member of a vmap."""
    if is_traced() or _capture.of(going) is not None:
        return False
    return not bool(torch.func.debug_unwrap(going).any())


def constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Return the values with the dtype and on the device of `like`.

    On a GPU they are filled in there: a copy from the host would wait for it, and cannot be captured in a CUDA graph.
    """
    if not like.is_cuda and _capture.of(like) is None:
        return like.new_tensor(values)
    if len(set(values)) == 1:
        return like.new_full((len(values),), values[0])
    return torch.stack([like.new_full((), value) for value in values])


def drawn_from(generator: torch.Generator | None) -> dict[str, Any]:
    """Return the keyword argument of a draw: none for torch's own generator, which compiled code must not name.

    Functions of torch that are given a generator, be it None, take no sizes that a compiler holds as symbols, as it
    does those of the second batch size that it sees. Inductor then draws numbers of its own, as it does for dropout.
    """
    return {} if generator is None else {"generator": generator}
