"""Densities to sample from, whose moments are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_LOG_2PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class Target:
    """A density that is known.

    Attributes:
        n_dims: d.
        draw: from n to independent samples [n, d], as an earlier run might have left them.
        log_prob: from x [n, d] to its log-density [n].
        functions: from x [n, d] to what the chain is to average, [n, k].
        truths: names and expectations of the k functions.
    """

    n_dims: int
    draw: Callable[[int], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    functions: Callable[[Tensor], Tensor]
    truths: dict[str, float]


def _draw_banana(n: int) -> Tensor:
    z = torch.randn(n, 2)
    return torch.stack((z[:, 0], z[:, 0].square() - 1.0 + 0.5 * z[:, 1]), 1)


def _log_banana(x: Tensor) -> Tensor:
    rest = (x[:, 1] - x[:, 0].square() + 1.0) / 0.5
    return -0.5 * (x[:, 0].square() + rest.square()) - math.log(0.5) - _LOG_2PI


def _draw_funnel(n: int) -> Tensor:
    z = torch.randn(n, 20)
    return torch.cat((z[:, :1], z[:, 1:] * (0.5 * z[:, :1]).exp()), 1)


def _log_funnel(x: Tensor) -> Tensor:
    v, rest = x[:, 0], x[:, 1:]
    of_rest = -0.5 * rest.square().sum(1) * (-v).exp() - 0.5 * rest.shape[1] * v
    return -0.5 * v.square() + of_rest - 0.5 * x.shape[1] * _LOG_2PI


TARGETS = {
    "banana, 2-D": Target(
        2,
        _draw_banana,
        _log_banana,
        lambda x: torch.cat((x, x.square()), 1),
        {"x0": 0.0, "x1": 0.0, "x0^2": 1.0, "x1^2": 2.25},
    ),
    "funnel, 20-D": Target(
        20,
        _draw_funnel,
        _log_funnel,
        lambda x: torch.stack((x[:, 0], x[:, 0].square(), x[:, 1:].mean(1), x[:, 1:].square().mean(1)), 1),
        {"v": 0.0, "v^2": 1.0, "mean of x": 0.0, "mean of x^2": math.exp(0.5)},
    ),
}
