"""The steps of a flow as the raw ops take them: a list of numbers, built once for a chain and a kind of input."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from .. import activations as registry
from .._flow_checks import names_of
from .._precision import precision_of
from .._steps import Normalize, Rearrange, Residual, Step

_NORMALIZE, _REARRANGE, _RESIDUAL = range(3)
_LOGDETS = {"none": 0, "series": 1, "exact": 2}


class Precisions(NamedTuple):
    """The precision of products, as `precision_of` returns it, on [B, d] and on [B, C, H, W]."""

    dense: int
    image: int

    @classmethod
    def of(cls, x: Tensor) -> Precisions:
        """Return both for numbers of the kind of x: events may change their shape on the way."""
        own, other = precision_of(x), precision_of(x.new_empty((0,) * (6 - x.dim())))
        return cls(own, other) if x.dim() == 2 else cls(other, own)


@dataclass(frozen=True)
class Program:
    """A chain of steps.

    Attributes:
        numbers: as csrc/torch/flow_program.h reads them.
        activations: names, each once.
        parameters: places, in the list of tensors, of the parameters of activations that have one.
        per_sample: places of those that may differ from sample to sample, biases and factors.
        is_elementwise: whether the kernels know all activations as they are.
        packed: places of the tensors that can have a gradient, in the order of the packed one.
        has_exact: whether any step has an exact log-determinant, for which a GPU has no kernel.
        has_logdet: whether any step adds to the log-determinant; else it is zero and has no gradient.
        ends_with_normalize: whether the last step is a Normalize, of which the backward pass reads z.
    """

    numbers: list[int]
    activations: tuple[str, ...]
    parameters: tuple[int, ...]
    per_sample: tuple[int, ...]
    is_elementwise: bool
    packed: tuple[int, ...]
    has_exact: bool
    has_logdet: bool
    ends_with_normalize: bool


def build_program(steps: tuple[Step, ...], dim: int, precisions: Precisions) -> Program:
    """Return the program of the steps for x of so many dimensions."""
    numbers: list[int] = []
    parameters: list[int] = []
    per_sample: list[int] = []
    packed: list[int] = []
    first = 0
    for step in steps:
        if isinstance(step, Normalize):
            numbers.append(_NORMALIZE)
            packed += [first, first + 1]
        elif isinstance(step, Rearrange):
            numbers += [_REARRANGE, len(step.event_shape), *step.event_shape]
            dim = 1 + len(step.event_shape)
        else:
            entries = [registry.get(name) for name in step.activations]
            precision = precisions.image if dim == 4 else precisions.dense
            numbers += [_RESIDUAL, _LOGDETS.get(step.logdet, -1), precision, len(entries)]
            numbers += [-1 if entry.kernel_id is None else entry.kernel_id for entry in entries]
            numbers += struct.unpack(
                f"{len(entries)}q", struct.pack(f"{len(entries)}d", *(e.constant for e in entries))
            )
            numbers += [len(step.traces), *(stage for place in step.traces for stage in place)]
            n = len(entries)
            parameters += [first + 2 * n + i for i, entry in enumerate(entries) if entry.has_parameter]
            per_sample += [first + kind * n + stage for stage in range(n) for kind in (1, 3)]
            packed += [first + kind * n + stage for stage in range(n) for kind in range(4)]
            packed += range(first + 4 * n, first + step.n_tensors)
        first += step.n_tensors
    return Program(
        numbers,
        names_of(steps),
        tuple(parameters),
        tuple(per_sample),
        all(registry.get(name).kernel_id is not None for name in names_of(steps)),
        tuple(packed),
        any(isinstance(step, Residual) and step.logdet == "exact" for step in steps),
        any(isinstance(step, Normalize) or (isinstance(step, Residual) and step.logdet != "none") for step in steps),
        bool(steps) and isinstance(steps[-1], Normalize),
    )


program_of = lru_cache(maxsize=256)(build_program)  # not for a compiler, which builds its own and would warn


def shapes_of(numbers: Sequence[int], draws: Sequence[Tensor], x: Tensor) -> tuple[tuple[int, ...], int, int]:
    """Return the shape of an event of z, how many numbers are saved for the backward pass, and how many steps keep."""
    event, saved, n_keeping, n_series = tuple(x.shape[1:]), 0, 0, 0
    before, at = None, 0
    while at < len(numbers):
        kind, n_numbers = numbers[at], 1
        if at > 0 and (kind == _RESIDUAL or before == _NORMALIZE):
            saved += x.numel()
        if kind == _REARRANGE:
            n_numbers = 2 + numbers[at + 1]
            event = tuple(numbers[at + 2 : at + n_numbers])
        elif kind == _RESIDUAL:
            n_numbers = 4 + 2 * numbers[at + 3]
            n_numbers += 1 + 2 * numbers[at + n_numbers]
            n_keeping += numbers[at + 1] != _LOGDETS["none"]
            if numbers[at + 1] == _LOGDETS["series"]:
                saved += draws[2 * n_series].numel()
                n_series += 1
        if n_numbers < 1:
            raise ValueError(f"program must have no negative counts, got {list(numbers)}; build it with build_program.")
        before, at = kind, at + n_numbers
    return event, saved, n_keeping
