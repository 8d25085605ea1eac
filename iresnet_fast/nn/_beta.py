"""The learnable beta of LipSwish: a parameter of one element, in earlier versions a scalar."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from .. import activations as registry
from ._tensors import placed_like

# The parameter, or what pruning and parametrisations keep in its place, below the prefixes of the modules around it.
_BETA = re.compile(r"(?:.*\.)?beta(?:_\d+)?(?:_orig|_mask|\.original\d*)?")


def initial_beta(device: Any, dtype: Any) -> nn.Parameter:
    """Return a new parameter [1]: torch's fully_shard takes no scalars."""
    return nn.Parameter(torch.full((1,), registry.LIPSWISH_INITIAL_BETA, device=device, dtype=dtype))


def with_one_element(name: str, value: Any) -> Any:
    """Return what was saved under a name such as "branch.beta_1": a scalar that is a beta as one element."""
    is_scalar = isinstance(value, Tensor) and value.dim() == 0 and _BETA.fullmatch(name) is not None
    return value.reshape(1) if is_scalar else value


class HasBeta(nn.Module):
    """A module that may have betas, and takes those of states and pickles of earlier versions."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state; a parameter stays the one that an optimizer of the same pickle holds."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # of torch
        for name, own in (*self._parameters.items(), *self._buffers.items()):
            if own is not None and own.dim() == 0:
                own.data = with_one_element(name, own.data)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name, value in state_dict.items():
            one = with_one_element(name, value) if name.startswith(prefix) else value
            if one is not value:
                own = self._parameters.get(name[len(prefix) :])
                state_dict[name] = one if own is None else placed_like(own, one)  # torch leaves a scalar whole
        super()._load_from_state_dict(state_dict, prefix, *others)
