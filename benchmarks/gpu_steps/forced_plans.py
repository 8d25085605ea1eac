"""The ways of running a chain that calibrate compares: resident plans and the layered way, forced and modelled."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from plan_fit import Constants
from step import ROOT

sys.path.insert(0, str(ROOT / "tests"))
from simt.chain_cases import Problem
from simt.chain_cases import run as run_chain
from simt.plans import NOT_SHARED, TRANSPOSED, PlanRequest
from simt.resident import BF16, FULL, LAYERED, TF32, Choice, Shape

TERMS = 10
PRECISIONS = {"float32": FULL, "tf32": TF32, "bf16": BF16}
# In the order of what is worth most: each kind of branch once; those that only the layered way serves or where it
# competes are among the first. Then other batches of the small ones.
SHAPES = [
    Shape((2, 128, 128, 128, 2), 1000),
    Shape((12, 512, 512, 12), 64, (3, 1, 3), (16, 16)),
    Shape((64, 512, 512, 64), 1000),
    Shape((4, 32, 32, 4), 256, (3, 1, 3), (14, 14)),
    Shape((48, 128, 128, 48), 64, (3, 1, 3), (8, 8)),
    Shape((43, 128, 128, 43), 1000),
    Shape((192, 512, 512, 192), 64, (3, 1, 3), (4, 4)),
    Shape((16, 64, 64, 16), 64, (3, 1, 3), (16, 16)),
    Shape((784, 512, 512, 784), 1000),
    Shape((64, 256, 64), 4096),
    Shape((12, 64, 12), 512, (3, 3), (8, 8)),
    Shape((16, 64, 64, 16), 64, (3, 1, 3), (7, 7)),
    Shape((48, 512, 512, 48), 64, (3, 1, 3), (8, 8)),
    *(Shape((2, 128, 128, 128, 2), batch) for batch in (100, 4000, 500)),
    *(Shape((4, 32, 32, 4), batch, (3, 1, 3), (14, 14)) for batch in (32, 600, 128)),
    *(Shape((43, 128, 128, 43), batch) for batch in (200, 3000)),
    *(Shape((6, 64, 64, 6), batch) for batch in (500, 5000)),
    Shape((16, 64, 64, 16), 256, (3, 1, 3), (7, 7)),
    Shape((64, 256, 64), 500),
    Shape((12, 64, 12), 64, (3, 3), (8, 8)),
    Shape((3, 16, 16, 3), 128, (3, 1, 3), (16, 16)),
]
CHOICES = [LAYERED, *(Choice(items, 0, w, d) for items in (1, 2, 4, 8, 16, 32, 64) for w in (0, 1) for d in (0, 1))]


class Forced(NamedTuple):
    """A shape, a precision and a way of running a chain of it."""

    shape: Shape
    precision: str
    choice: Choice
    words: str
    request: PlanRequest

    @property
    def group(self) -> tuple[Shape, str]:
        """What the model chooses a way for."""
        return self.shape, self.precision


def candidates(shapes: Sequence[Shape], card: str, library: Any) -> Iterator[Forced]:
    """Yield the layered way, and every resident plan that differs from the others, of each shape and precision."""
    # Shape by shape: what there is no time for is shapes, not precisions.
    for shape in shapes:
        for precision, number in PRECISIONS.items():
            seen = set()
            for choice in CHOICES:
                request = PlanRequest(shape, card, TRANSPOSED, 1, TERMS, number, choice=choice, library=library)
                plan, _ = request.modelled()
                if plan.precision != number:
                    break  # the card has no tensor cores for it
                stages = plan.stage[: plan.stages]
                places = tuple((s.weight != NOT_SHARED, s.derivative != NOT_SHARED) for s in stages)
                key = (plan.family, plan.threads, plan.items, plan.blocks_per_multiprocessor, places)
                if choice.layered:
                    yield Forced(shape, precision, choice, "layered", request)
                elif plan.resident and key not in seen:
                    seen.add(key)
                    words = f"family {plan.family}, {plan.items} items, {plan.threads} threads, {plan.blocks} blocks"
                    yield Forced(shape, precision, choice, words, request)


def modelled(plans: Sequence[Forced], constants: Constants) -> NDArray[np.float64]:
    """Return the microseconds of each that the model gives with these constants."""
    cases = ((plan.choice.layered, plan.request.modelled(constants)[1]) for plan in plans)
    return np.array([case.layered if layered else case.resident for layered, case in cases])


def measured(gpu: Any, plan: Forced, card: str) -> float:
    """Return the microseconds of a chain that is run so.

    Weights and derivatives are packed before. The layered way is timed with what the model leaves out: rows of the
    probe made at the start, and the Neumann vector from rows at the end.
    """
    try:
        with gpu.timed():
            run_chain(gpu, _problem(plan.shape), torch.float32, powers=False, choice=plan.choice, card=card,
                      precision=PRECISIONS[plan.precision], place=gpu.managed)  # fmt: skip
            return float(gpu.microseconds)
    finally:
        gpu.release()


@lru_cache(maxsize=1)  # the ways of a shape follow each other; a wide one's numbers take longer than its chain
def _problem(shape: Shape) -> Problem:
    return Problem(shape, terms=TERMS)
