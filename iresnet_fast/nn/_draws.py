"""The numbers that the blocks of a run draw: each block those that it draws when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor

from .._keys import mixed
from ..estimators import PowerSeries, RussianRoulette, draw_signs
from ._call import Call

_DRAW = PowerSeries.draw


class Request(NamedTuple):
    """What a block draws.

    Attributes:
        estimator: that of its series.
        training: from torch's generator; else from the keys of the call.
        place: of the block in its chain.
        like: of the shape, dtype and device of its input.
    """

    estimator: PowerSeries | RussianRoulette
    training: bool
    place: int
    like: Tensor


def draw(
    estimator: PowerSeries | RussianRoulette, training: bool, like: Tensor, call: Call, number: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the probe and the coefficients of a series.

    Args:
        estimator: that of the series.
        training: from torch's generator; else from the keys of the call.
        like: of the shape, dtype and device of the input of the block.
        call: of the block.
        number: outside training, of an estimate: each has another probe.
    """
    if training:
        return estimator.draw(like, True)
    return estimator.draw(like, False, keys=mixed(call.keys(), number) if number else call.keys())


def draw_all(requests: Sequence[Request], call: Call) -> list[tuple[Tensor, Tensor]]:
    """Return what the blocks draw one after the other; `call` is that of their chain."""
    if requests and all(map(_draws_signs, requests)):
        return _signs(requests)
    return [draw(estimator, training, like, call.part(place)) for estimator, training, place, like in requests]


def _draws_signs(request: Request) -> bool:
    """Whether it is nothing but signs from torch's generator of the CPU, where one draw is as good as many."""
    estimator = request.estimator
    is_series = isinstance(estimator, PowerSeries) and type(estimator).draw is _DRAW  # somebody may draw otherwise
    return is_series and estimator.probe == "rademacher" and request.training and request.like.device.type == "cpu"


def _signs(requests: Sequence[Request]) -> list[tuple[Tensor, Tensor]]:
    estimators = [cast(PowerSeries, request.estimator) for request in requests]
    wanted = []
    for estimator, (*_, like) in zip(estimators, requests, strict=True):
        n = estimator.n_probes
        wanted.append((n * like.numel(), like.shape if n == 1 else (n, *like.shape)))
    ones = like.new_ones(max(estimator.n_terms for estimator in estimators))
    probes = draw_signs(wanted, like)
    return [(probe, ones[: estimator.n_terms]) for probe, estimator in zip(probes, estimators, strict=True)]
