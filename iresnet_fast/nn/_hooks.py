"""What hangs on modules that kernels pass by: hooks that make tensors are run, all others ask for a call."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from .._torch_private import has_hooks, has_hooks_of_all_modules

# Hooks of torch that compute a tensor of their module before each of its calls, whatever the input is.
_MAKERS = (BasePruningMethod, SpectralNorm, WeightNorm)

_quiet = threading.local()


class Skippable(nn.Module):
    """A module whose output may be computed without calling it, if nothing hangs on it that a call would do."""

    @staticmethod
    def plain_forward() -> Callable[..., Any]:
        """Return the forward of the class, which subclasses and instances may replace."""
        raise NotImplementedError

    def why_no_kernels(self) -> str | None:
        """Return what a call does that kernels with the tensors of the module would not, for messages; or None."""
        if self._has_own_forward():
            return "has a forward of its own"
        return "has hooks" if sees_activations(self) else None

    def may_remake_tensors(self) -> bool:
        """Whether a call may set the tensors of the module in a way that `make_tensors` does not know."""
        if self._has_own_forward():
            return True
        return bool(self._forward_pre_hooks) and not all(map(_is_known, self._forward_pre_hooks.values()))

    def _has_own_forward(self) -> bool:
        kind = type(self)
        own_forward = kind.forward is not self.plain_forward() or "forward" in self.__dict__
        return own_forward or kind.__call__ is not nn.Module.__call__

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy as copy.deepcopy does, also a parametrised module, which torch does not let anybody ask for its state.

        What pruning has made belongs to a graph, which no copy has; it is made anew at the next call.
        """
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        kind = type(self).__mro__[1] if parametrize.is_parametrized(self) else type(self)
        state = kind.__getstate__(self) if hasattr(kind, "__getstate__") else self.__dict__
        restore: Callable[[Any], None] = twin.__setstate__
        restore(copy.deepcopy({name: _without_graph(value) for name, value in state.items()}, memo))
        return twin

    def _get_backward_hooks(self) -> Any:
        return ([], []) if _is_quiet() else super()._get_backward_hooks()  # type: ignore[no-untyped-call]

    def _get_backward_pre_hooks(self) -> Any:
        return [] if _is_quiet() else super()._get_backward_pre_hooks()  # type: ignore[no-untyped-call]


def sees_activations(module: nn.Module) -> bool:
    """Whether hooks of a module, or of all modules, may see or change activations or their gradients."""
    if not has_hooks(module):
        return False
    if has_hooks_of_all_modules() or module._backward_hooks or module._backward_pre_hooks:
        return True
    return not all(map(_is_known, (*module._forward_pre_hooks.values(), *module._forward_hooks.values())))


def make_tensors(module: nn.Module) -> None:
    """Compute what pruning and torch's older normalisations would before a call of the module."""
    if module._forward_pre_hooks:
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _MAKERS):
                hook(module, ())


@contextmanager
def without_backward_hooks() -> Iterator[None]:
    """Leave out backward hooks of our modules: products with a Jacobian are no backward pass that they ask for."""
    before = _is_quiet()
    _quiet.flag = True
    try:
        yield
    finally:
        _quiet.flag = before


def has_backward_hooks(branch: nn.Module) -> bool:
    """Whether hooks of backward passes hang on modules of a branch."""
    return has_hooks_of_all_modules() or any(
        module._backward_hooks or module._backward_pre_hooks for module in branch.modules()
    )


def _is_known(hook: Any) -> bool:
    """Whether it only sees to the tensors of its module: fully_shard gathers and frees them."""
    owner = type(getattr(hook, "__self__", None))
    return isinstance(hook, _MAKERS) or owner.__module__.startswith("torch.distributed.fsdp")


def _without_graph(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) and value.grad_fn is not None else value


def _is_quiet() -> bool:
    return getattr(_quiet, "flag", False)
