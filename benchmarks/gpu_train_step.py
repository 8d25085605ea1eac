"""A training step of a density model on a GPU, ours and in plain torch, replayed from a CUDA graph and eagerly."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from baselines import COMPILED, OURS
from gpu_records import EAGER, GRAPH, GpuRecord, origin
from gpu_timing import Implementation, records_of
from graphs import LEAST_SECONDS
from plain_flow import PlainFlow
from precision import BF16, FLOAT32, products_in
from torch import Tensor
from train_steps import BASELINES, OurFlow, TrainStep, agreeing, difference, drawn, plain_results

from iresnet_fast.models import IResNetFlow


def run(
    flow: IResNetFlow,
    images: Tensor,
    batch: int,
    precisions: Sequence[str],
    compiled: bool,
    device: str,
    least_seconds: float = LEAST_SECONDS,
    say: Callable[[str], object] = lambda what: None,
) -> Iterator[GpuRecord]:
    """Yield the records of all implementations, precision by precision.

    Args:
        flow: a model as `PlainFlow` describes it, in training mode on the device; left alone.
        images: [N, 1, H, W], uint8, on the device.
        batch: images of a step.
        precisions: of `precision.PRECISIONS`; with "bf16" ours runs under autocast, the blocks of baselines on
            tensors of bfloat16.
        compiled: whether to time (iii) with its loss compiled too, which takes minutes.
        device: "cuda", or "cpu" for a try without a GPU.
        least_seconds: of each reading.
        say: told what happens.

    Yields:
        A record of each implementation and way to launch it; of a baseline that in float32 does not compute what ours
        computes, why it was not timed.
    """
    names = (*BASELINES, COMPILED) if compiled else BASELINES
    refused: dict[str, Exception] = {}
    with products_in(FLOAT32):
        for name in BASELINES:
            say(f"checking {name}")
            try:
                agreeing(flow, images[:batch], name)
            except RuntimeError as error:
                refused[name] = error
    if COMPILED in names and "explicit" in refused:
        refused[COMPILED] = refused["explicit"]
    for precision in precisions:
        with products_in(precision):
            yield from _measure(flow, images, batch, precision, names, refused, device, least_seconds, say)


def _measure(
    flow: IResNetFlow,
    images: Tensor,
    batch: int,
    precision: str,
    names: Sequence[str],
    refused: Mapping[str, Exception],
    device: str,
    least_seconds: float,
    say: Callable[[str], object],
) -> list[GpuRecord]:
    narrow, x = precision == BF16, images[:batch]
    step = TrainStep(OurFlow(copy.deepcopy(flow)), images, batch, autocast=narrow)
    implementations = {OURS: Implementation.of(step, device)}
    errors = dict(zip((OURS, "neumann"), _errors(flow, x, "neumann", narrow), strict=True))
    for name in names:
        if name in refused:
            implementations[name] = Implementation(failures=dict.fromkeys((EAGER, GRAPH), refused[name]))
            continue
        say(f"{precision}: warming up {name}")
        # A compilation takes minutes: one, in the memory format in which the same code ran faster.
        both = (torch.contiguous_format, torch.channels_last)
        formats = (implementations["explicit"].memory_format,) if name == COMPILED else both
        form = {"compiled": name == COMPILED, "dtype": torch.bfloat16 if narrow else None}
        gradient = "explicit" if name == COMPILED else name
        candidates = [
            Implementation.of(
                TrainStep(PlainFlow(flow, gradient, memory_format, **form), images, batch), device, memory_format
            )
            for memory_format in formats
        ]
        implementations[name] = min(candidates, key=lambda one: one.quick_us(device))
        errors[name] = _errors(flow, x, gradient, narrow)[1]
    say(f"{precision}: timing")
    about = _about(flow, batch, precision, device)
    return records_of(implementations, about, device, least_seconds, lambda name, step: errors[name])


def _errors(flow: IResNetFlow, x: Tensor, name: str, narrow: bool) -> tuple[float | None, float | None]:
    """Return the larger relative error of loss and gradients against float64, of ours and of a baseline.

    All get the noise, the probes and the norms of ours. None: it could not be computed; the times stand without it.
    """
    try:
        return _compared(flow, x, name, narrow)
    except RuntimeError:
        return None, None


def _compared(flow: IResNetFlow, x: Tensor, name: str, narrow: bool) -> tuple[float, float]:
    ours = drawn(flow, x, name, autocast=narrow)
    exact = plain_results(PlainFlow(copy.deepcopy(ours.flow).double(), name), ours)
    plain = PlainFlow(ours.flow, name, dtype=torch.bfloat16 if narrow else None)
    return max(difference(ours.results, exact)), max(difference(plain_results(plain, ours), exact))


def _about(flow: IResNetFlow, batch: int, precision: str, device: str) -> dict[str, Any]:
    config = flow.config
    event = "x".join(map(str, config.event_shape))
    return {
        **origin(device),
        "case": "mnist flow",
        "subject": f"IResNetFlow, {event}, {sum(config.blocks)} blocks, {config.hidden[0]} channels",
        "batch": batch,
        "terms": config.train_estimator.n_terms,
        "mode": "step",
        "precision": precision,
    }
