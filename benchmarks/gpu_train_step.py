"""A training step of a density model on a GPU, ours and in plain torch, replayed from a CUDA graph and eagerly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from baselines import COMPILED, OURS
from gpu_records import EAGER, GRAPH, GpuRecord, origin
from gpu_timing import Implementation, records_of
from graphs import LEAST_SECONDS
from plain_flow import PlainFlow
from precision import BF16, FLOAT32, products_in, untried_algorithms
from torch import Tensor
from train_steps import BASELINES, LEARNING_RATE, OurFlow, TrainStep, agreeing, difference, drawn, plain_results

from iresnet_fast.estimators import RussianRoulette
from iresnet_fast.models import IResNetFlow

# Images that baselines are checked on and that errors are of. After the first batch the gradient of an ActNorm is a
# difference that shrinks with the number of images, while the rounding of what it is the difference of does not: with
# the 64 images of a batch a right baseline could fail the check.
JUDGED = 8
WARM_UP = 8.0  # seconds without which no baseline is begun: cudnn tries its algorithms for each convolution


@dataclass(frozen=True)
class TrainedFlow:
    """A model whose training step is timed.

    Attributes:
        case: its name in the records.
        flow: the model, as `PlainFlow` describes it, in training mode on the device; left alone.
        images: [N, C, H, W], uint8, on the device.
        learning_rate: of its recipe.
        baselines: of train_steps.BASELINES, in the order in which they are tried; short of time, the last goes first.
    """

    case: str
    flow: IResNetFlow
    images: Tensor
    learning_rate: float = LEARNING_RATE
    baselines: Sequence[str] = BASELINES


def run(
    trained: TrainedFlow,
    batch: int,
    precisions: Sequence[str],
    compiled: bool,
    device: str,
    least_seconds: float = LEAST_SECONDS,
    say: Callable[[str], object] = lambda what: None,
    left: Callable[[], float] = lambda: math.inf,
) -> Iterator[GpuRecord]:
    """Yield the records of all implementations, precision by precision.

    Args:
        trained: the model, its images and its baselines.
        batch: images of a step.
        precisions: of `precision.PRECISIONS`; with "bf16" ours runs under autocast, the blocks of baselines on
            tensors of bfloat16.
        compiled: whether to time (iii) with its loss compiled too, which takes minutes.
        device: "cuda", or "cpu" for a try without a GPU.
        least_seconds: of each reading.
        say: told what happens.
        left: returns the seconds that remain; baselines for which they are too few are left out.

    Yields:
        A record of each implementation and way to launch it; of a baseline that was left out, or that in float32 does
        not compute what ours computes, why it was not timed.
    """
    measurement = _Measurement(trained, batch, device, say, left)
    names = (*trained.baselines, COMPILED) if compiled else tuple(trained.baselines)
    for precision in precisions:
        with products_in(precision):
            yield from measurement.records(names, precision, least_seconds)


@dataclass
class _Measurement:
    """One call of `run`."""

    trained: TrainedFlow
    batch: int
    device: str
    say: Callable[[str], object]
    left: Callable[[], float]
    checked: dict[str, Exception | None] = field(default_factory=dict)  # by formula: why it is not what ours computes

    def records(self, names: Sequence[str], precision: str, least_seconds: float) -> list[GpuRecord]:
        """Return the records in one precision, whose switches are set."""
        narrow = precision == BF16
        step = self._step(OurFlow(copy.deepcopy(self.trained.flow)), autocast=narrow)
        implementations = {OURS: Implementation.of(step, self.device)}
        for name in names:
            why_not = self._why_not(name)
            if why_not is not None:
                implementations[name] = _not_timed(why_not)
                continue
            self.say(f"{precision}: warming up {name}")
            # A compilation takes minutes: one, in the memory format in which the same code ran faster.
            both = (torch.contiguous_format, torch.channels_last)
            formats = (implementations["explicit"].memory_format,) if name == COMPILED else both
            implementations[name] = self._fastest(name, formats, narrow)
        self._leave_out_what_takes_too_long(implementations)
        timed = [name for name, one in implementations.items() if one.launches]
        errors = _errors(self.trained.flow, self.trained.images[: min(self.batch, JUDGED)], timed, narrow)
        self.say(f"{precision}: timing")
        about = self._about(precision)
        return records_of(implementations, about, self.device, least_seconds, lambda name, step: errors[name])

    def _why_not(self, name: str) -> Exception | None:
        """Return why a baseline is not timed; None: it is."""
        if self.left() < WARM_UP:
            return _left_out(self.left(), WARM_UP, "its warm-up")
        formula = _formula(name)
        if formula not in self.checked:
            self.say(f"checking {formula}")
            self.checked[formula] = None
            try:
                with products_in(FLOAT32), untried_algorithms():
                    agreeing(self.trained.flow, self.trained.images[: min(self.batch, JUDGED)], formula)
            except RuntimeError as error:
                self.checked[formula] = error
        return self.checked[formula]

    def _fastest(self, name: str, formats: Sequence[torch.memory_format], narrow: bool) -> Implementation:
        """Return a baseline in its fastest format; the memory of the others is free before the next one is built."""
        candidates = [self._baseline(name, memory_format, narrow) for memory_format in formats]
        return min(candidates, key=lambda one: one.quick_us(self.device))

    def _baseline(self, name: str, memory_format: torch.memory_format, narrow: bool) -> Implementation:
        form = {"compiled": name == COMPILED, "dtype": torch.bfloat16 if narrow else None}
        plain = PlainFlow(self.trained.flow, _formula(name), memory_format, **form)
        return Implementation.of(self._step(plain), self.device, memory_format)

    def _step(self, model: Any, autocast: bool = False) -> TrainStep:
        trained = self.trained
        return TrainStep(model, trained.images, self.batch, autocast=autocast, learning_rate=trained.learning_rate)

    def _leave_out_what_takes_too_long(self, implementations: dict[str, Implementation]) -> None:
        """Drop baselines, the last one first, until there is time to time the others; ours always stays."""
        if self.left() == math.inf:
            return
        seconds = {name: one.seconds_to_time(self.device) for name, one in implementations.items()}
        for name in reversed(implementations):
            if name != OURS and sum(seconds.values()) > self.left() and implementations[name].launches:
                implementations[name] = _not_timed(
                    _left_out(self.left(), sum(seconds.values()), "timing it with the others")
                )
                seconds[name] = 0.0

    def _about(self, precision: str) -> dict[str, Any]:
        config, estimator = self.trained.flow.config, self.trained.flow.config.train_estimator
        event = "x".join(map(str, config.event_shape))
        roulette = isinstance(estimator, RussianRoulette)
        return {
            **origin(self.device),
            "case": self.trained.case,
            "subject": f"{type(self.trained.flow).__name__}, {event}, {sum(config.blocks)} blocks, "
            f"{config.hidden[0]} channels" + ", roulette: in a graph baselines compute all its terms" * roulette,
            "batch": self.batch,
            "terms": estimator.n_exact + estimator.n_captured if roulette else estimator.n_terms,
            "mode": "step",
            "precision": precision,
        }


def _formula(name: str) -> str:
    return "explicit" if name == COMPILED else name


def _not_timed(why: Exception) -> Implementation:
    return Implementation(failures=dict.fromkeys((EAGER, GRAPH), why))


def _left_out(left: float, needed: float, what: str) -> Exception:
    return TimeoutError(f"left out: {what} may take {needed:.0f} s, {left:.0f} s were left")


def _errors(flow: IResNetFlow, x: Tensor, names: Iterable[str], narrow: bool) -> dict[str, float | None]:
    """Return the larger relative error of loss and gradients against float64 of ours and of baselines.

    All get what ours draws, and its norms. None: it could not be computed; the times stand without it.
    """
    errors: dict[str, float | None] = dict.fromkeys(names)
    # The series estimates another gradient than all others, ours included.
    for gradient, group in (("neumann", errors.keys() - {"series"}), ("series", errors.keys() & {"series"})):
        with suppress(RuntimeError), untried_algorithms():
            if not group:
                continue
            ours = drawn(flow, x, gradient, autocast=narrow)
            exact = plain_results(PlainFlow(copy.deepcopy(ours.flow).double(), gradient), ours)
            for name in group:
                with suppress(RuntimeError):
                    plain = PlainFlow(ours.flow, _formula(name), dtype=torch.bfloat16 if narrow else None)
                    results = ours.results if name == OURS else plain_results(plain, ours)
                    errors[name] = max(difference(results, exact))
    return errors
