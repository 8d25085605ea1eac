"""How a call goes through the parts of a model: handed on, so that nothing about a call is kept on a module."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_samples, described
from .._keys import mixed, sample_keys
from ._fsdp import Shardable
from ._transform import takes_context

if TYPE_CHECKING:
    from ._survey import Survey

# Evaluations of a branch [B] int64, and a bound of the error [B] in the units of the block's input.
Step = tuple[Tensor, Tensor]


# The base in which the places of a part in the containers around it are the digits of one number. Parts up to three
# deep have a number each; of deeper ones it is taken modulo 2^64, and hardly ever two are the same.
_PLACES = 1_000_003


class _SampleKeys:
    """Keys of the samples of a call, hashed when one of its parts first draws a number."""

    def __init__(self, sample: Tensor, seed: int) -> None:
        self._sample, self._seed, self.n = sample, seed, sample.shape[0]
        self._keys: Tensor | None = None

    def of(self, path: tuple[int, ...]) -> Tensor:
        if self._keys is None:
            self._keys = mixed(sample_keys(self._sample), self._seed)
        number = 0
        for index in path:
            number = (number * _PLACES + index + 1) % 2**64
        return mixed(self._keys, number) if path else self._keys

    def rows(self, rows: Tensor) -> _SampleKeys:
        return _SampleKeys(self._sample[rows], self._seed)


@dataclass(frozen=True)
class Call:
    """One call of a transform: a container hands it on to those of its parts that have `takes_call = True`.

    Attributes:
        logdet: whether the log-determinant is wanted; a block that need not compute it returns zeros.
        survey: what asks each block for several estimates; None: nobody does.
    """

    _sample_keys: _SampleKeys
    logdet: bool = True
    _path: tuple[int, ...] = ()
    survey: Survey | None = None

    @classmethod
    def of(cls, x: Tensor, seed: int = 0, logdet: bool = True) -> Call:
        """Return the call of the outermost transform, on x [B, *event]; one with another seed draws other numbers.

        Raises:
            ValueError: x has no dimension beside the batch, or seed is negative.
            TypeError: x is no tensor, or seed no integer.
        """
        check_samples(x)
        _checks.check_seed("seed", seed)
        return cls(_SampleKeys(x, seed), logdet)

    @classmethod
    def given(cls, call: Call | None, x: Tensor) -> Call:
        """Return the call that forward was given for x, or if it is None that of x alone.

        Raises:
            ValueError: it is the call of another number of samples.
            TypeError: it is no call.
        """
        if call is None:
            return cls.of(x)
        if not isinstance(call, Call):
            raise TypeError(f"call must be an nn.Call or None, got {described(call)}; pass nn.Call.of(x).")
        if call._sample_keys.n != x.shape[0]:
            raise ValueError(
                f"call must be that of the {x.shape[0]} samples of x, got one of {call._sample_keys.n}; pass "
                f"nn.Call.of(x)."
            )
        return call

    def part(self, index: int) -> Call:
        """Return the call of a part: each has keys of its own."""
        return Call(self._sample_keys, self.logdet, (*self._path, index), self.survey)

    def rows(self, rows: Tensor) -> Call:
        """Return the call of some of the samples, which draw what they draw among all; `rows` are their places [n]."""
        return replace(self, _sample_keys=self._sample_keys.rows(rows))

    def surveyed(self, survey: Survey) -> Call:
        """Return the call that asks each block for the estimates of a survey."""
        return replace(self, survey=survey)

    def keys(self) -> Tensor:
        """Return the keys of the samples [B], int64 below 2^32, of which numbers are drawn outside training.

        They are functions of the bits of each sample of x, of the seed and of the place of this part in the model: of
        nothing else in the batch.
        """
        return self._sample_keys.of(self._path)


class DeferredInverse(NamedTuple):
    """The inverse of a transform, its log-determinant left for whoever wants it.

    Attributes:
        x: [B, *event].
        logdet: from the call at x, of the whole inverse, to log|det dx/dz| [B]. So the numbers drawn for it are those
            that forward draws at x. `not_kept` if nobody wants it: then no block keeps what it would need.
        steps: what the residual blocks report.
    """

    x: Tensor
    logdet: Callable[[Call], Tensor]
    steps: tuple[Step, ...] = ()


def not_kept(call: Call) -> Tensor:
    """Stand for a log-determinant that was not asked for."""
    raise AssertionError("the log-determinant of this inverse was not asked for")


class Solution(NamedTuple):
    """The inverse without its log-determinant.

    Attributes:
        x: [B, *event], differentiable.
        iterations: [B] int64, evaluations of a branch in all blocks together.
        error: [B], the largest error that any one block certifies, in the units of its own input; of a block without a
            bound the residual |z - x - g(x)|, which certifies nothing.
    """

    x: Tensor
    iterations: Tensor
    error: Tensor

    @classmethod
    def of(cls, found: DeferredInverse) -> Solution:
        """Sum up what the blocks report."""
        n = found.x.shape[:1]
        error = torch.zeros(n, dtype=torch.promote_types(found.x.dtype, torch.float32), device=found.x.device)
        iterations = torch.zeros(n, dtype=torch.int64, device=found.x.device)
        for more, certified in found.steps:
            error, iterations = torch.maximum(error, certified), iterations + more
        return cls(found.x, iterations, error)


class TakesCall(Shardable):
    """A transform whose forward takes a `call`, and which may have a `deferred_inverse`.

    Attributes:
        takes_call: whether forward takes a call; a subclass with another forward says so by its signature.
        defers_logdet: whether `deferred_inverse` does what `inverse` does; not if a class overrides that alone.
    """

    takes_call = True
    defers_logdet = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Look at what the subclass defines, or has from its bases in their order."""
        cls.takes_call = "call" in inspect.signature(cls.forward).parameters
        deferred, inverse = (_owner(cls, name) for name in ("deferred_inverse", "inverse"))
        cls.defers_logdet = deferred is not None and (inverse is None or issubclass(deferred, inverse))
        super().__init_subclass__(**options)  # which may wrap methods


def apply_part(part: nn.Module, x: Tensor, context: Any, call: Call) -> tuple[Tensor, Tensor]:
    """Return what a transform makes of x; it gets the context and the call if it takes them."""
    options = {"call": call} if _takes_call(part) else {}
    z, logdet = part(x, context, **options) if takes_context(part) else part(x, **options)
    return z, logdet


def invert_part(part: nn.Module, z: Tensor, context: Any, logdet: bool) -> DeferredInverse:
    """Return the inverse of a transform; one that cannot leave the log-determinant for later has it computed."""
    module: Any = part
    arguments = (z, context) if takes_context(part) else (z,)
    if isinstance(part, TakesCall) and part.defers_logdet and "inverse" not in part.__dict__:
        deferred: DeferredInverse = module.deferred_inverse(*arguments, logdet=logdet)
        return deferred
    x, known = module.inverse(*arguments)
    return DeferredInverse(x, (lambda call: known) if logdet else not_kept)


def _owner(cls: type, name: str) -> type | None:
    """Return the class that a method is of."""
    return next((owner for owner in cls.__mro__ if name in owner.__dict__), None)


def _takes_call(part: nn.Module) -> bool:
    """Whether forward takes a call: wrappers may pass on the attributes of a part, but not all arguments."""
    if not getattr(part, "takes_call", False):
        return False
    if isinstance(part, TakesCall) and "forward" not in part.__dict__:
        return True
    parameters = inspect.signature(part.forward).parameters
    return "call" in parameters or any(known.kind is known.VAR_KEYWORD for known in parameters.values())
