"""A bound of a dense branch from the slopes of its activations: LipSDP, proposed in closed form and then proved.

An elementwise activation with slopes in [alpha, beta] is phi = m id + r psi, with m = (alpha + beta) / 2, r = (beta -
alpha) / 2 and 1-Lipschitz psi. If all differences of its inputs per unit of |x - y| lie in the ellipsoid {S^(1/2) u,
|u| <= 1}, those of its outputs lie in that of

    Q = D + m^2 S + m^2 r^2 S (D - r^2 S)^-1 S          for any diagonal D with D > r^2 S,

and after a linear map W in that of W Q W^T. From S = I at the input, the largest eigenvalue of the last S is the square
of a Lipschitz constant: LipSDP-Neuron (Fazlyab et al., arXiv 1906.04893) with multipliers T = D^-1, one layer after the
other. ECLipsE-Fast (Xu and Sivaranjani, arXiv 2404.04375) is D = 2 r^2 |S| I. Other D that are possible give better
bounds (Syed and Hu, arXiv 2503.14297); the family here is D = (1 + s) r^2 |d^-1/2 S d^-1/2| diag(d), possible for any
d, s > 0, with the row sums of |S| as d, which are large where neurons move together.

None of this needs to be exact, for it only proposes D and the bound: `_proved` puts them into the one inequality that
they stand for, and a Cholesky factorisation shows that it holds, rounding included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor

from ._rounding import UNIT, exponent_of, gamma, power_of_two

# A bound that is proved to be below 1 + this times what the proposal says; the first is nearly always enough.
_MARGINS = (1e-8, 1e-6, 1e-4, 1e-2)
# ECLipsE-Fast itself, and smaller s, in units of the one for a ball, for ellipsoids of few long axes.
_STARTS = ((False, 1.0), (True, 1.0), (True, 0.5), (True, 0.25))
# A neuron of nearly no variance keeps this share of the largest entry of d, or its multiplier would be without bound.
_LEAST_SHARE = 1e-6


class Stage(NamedTuple):
    """An activation and the linear map behind it; the first stage has none.

    Attributes:
        weight: [out, in] in float64.
        norm: an upper bound of that of the weight.
        alpha: least slope of the activation.
        beta: largest slope, above alpha.
    """

    weight: Tensor
    norm: float
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def best_for_a_ball(self) -> float:
        """The s of the smallest Q if S = I; not 0, which would be possible only just."""
        return max((self.alpha + self.beta) / (self.beta - self.alpha), 1e-3)


Multipliers = list[tuple[Tensor, Tensor]]  # log d [n] and log s [] of every activation


def bound(stages: Sequence[Stage], n_steps: int) -> float:
    """Return an upper bound of the Lipschitz constant, infinite if none is proved; n_steps of descent at most."""
    starts = [_start(stages, *start) for start in _STARTS]
    square, diagonals, multipliers = min(starts, key=lambda found: float(found[0]))
    if n_steps:
        square, diagonals = _proposed(stages, _improved(stages, multipliers, n_steps))
    for margin in _MARGINS:
        found = _proved(stages, diagonals, float(square) * (1.0 + margin))
        if found < math.inf:
            return found
    return math.inf


def _start(stages: Sequence[Stage], by_rows: bool, s: float) -> tuple[Tensor, list[Tensor], Multipliers]:
    """Return what `_chain` does for d and s by formula, and these."""
    multipliers: Multipliers = []

    def choose(stage: Stage, ellipsoid: Tensor) -> tuple[Tensor, Tensor]:
        rows = ellipsoid.abs().sum(1) if by_rows else torch.ones_like(ellipsoid[0])
        d = rows.clamp(min=_LEAST_SHARE * float(rows.amax()))
        multipliers.append((d.log(), d.new_tensor(s * stage.best_for_a_ball).log()))
        return multipliers[-1]

    return *_chain(stages, choose), multipliers


def _proposed(stages: Sequence[Stage], multipliers: Multipliers) -> tuple[Tensor, list[Tensor]]:
    """Return what `_chain` does for given multipliers."""
    remaining = iter(multipliers)
    return _chain(stages, lambda stage, ellipsoid: next(remaining))


def _chain(
    stages: Sequence[Stage], choose: Callable[[Stage, Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, list[Tensor]]:
    """Return the square of the bound [], and D [n] of every activation, with multipliers as they are chosen."""
    ellipsoid = stages[0].weight @ stages[0].weight.mT
    diagonals = []
    for stage in stages[1:]:
        outputs, diagonal = _through(stage, ellipsoid, *choose(stage, ellipsoid))
        ellipsoid = stage.weight @ outputs @ stage.weight.mT
        diagonals.append(diagonal)
    return torch.linalg.eigvalsh(ellipsoid)[-1], diagonals


def _through(stage: Stage, ellipsoid: Tensor, log_d: Tensor, log_s: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q of the outputs of the activation, and D [n]."""
    m, r = (stage.alpha + stage.beta) / 2.0, (stage.beta - stage.alpha) / 2.0
    root = (-0.5 * log_d).exp()
    largest = torch.linalg.eigvalsh(root.unsqueeze(1) * ellipsoid * root)[-1]
    diagonal = (1.0 + log_s.exp()) * r * r * largest * log_d.exp()
    moved = torch.linalg.solve(diagonal.diag() - r * r * ellipsoid, ellipsoid)
    return diagonal.diag() + m * m * (ellipsoid + r * r * ellipsoid @ moved), diagonal


def _improved(stages: Sequence[Stage], multipliers: Multipliers, n_steps: int) -> Multipliers:
    """Return multipliers of a smaller bound, by L-BFGS."""
    with torch.inference_mode(False), torch.enable_grad():
        kept = [(d.clone(), s.clone()) for d, s in multipliers]
        variables = [tensor.clone().requires_grad_() for pair in multipliers for tensor in pair]
        pairs = list(zip(variables[::2], variables[1::2], strict=True))
        least = [math.inf]
        optimizer = torch.optim.LBFGS(variables, max_iter=n_steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            square, _ = _proposed(stages, pairs)
            square.log().backward()  # type: ignore[no-untyped-call]
            if float(square.detach()) < least[0]:
                least[0] = float(square.detach())
                kept[:] = [(d.detach().clone(), s.detach().clone()) for d, s in pairs]
            return square.log()

        # A step may leave the range of exp; the best so far stays.
        with suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            optimizer.step(closure)  # type: ignore[no-untyped-call]
    return kept


def _proved(stages: Sequence[Stage], diagonals: Sequence[Tensor], square: float) -> float:
    """Return a Lipschitz constant of which `square` is about the square, infinite if that cannot be shown.

    With z = (x, h_1, .., h_n) the differences of the input and of the outputs of the activations, a_i = W_{i-1} h_{i-1}
    those of their inputs and T = D^-1, (h_i - alpha a_i)^T T (beta a_i - h_i) >= 0 for each of them. Hence

        |x|^2 - |W_n h_n|^2 / square >= |x|^2 - |W_n h_n|^2 / square - the sum of these =: z^T M z.

    If M were positive semidefinite, square would bound |W_n h_n|^2 / |x|^2. Let Z = diag(1, 2^k), powers of two near
    D^1/2. A Cholesky factorisation of fl(Z M Z) that runs to its end shows that Z M Z >= -e I, with e from its own
    rounding (see `gram`) and from that of M; then |W_n h_n|^2 <= square (1 + e |Z^-1 z|^2 / |x|^2) |x|^2.
    """
    if not 0.0 < square < math.inf or not all(bool(d.isfinite().all() and (d > 0.0).all()) for d in diagonals):
        return math.inf
    matrix, magnitude, stretch = _inequality(stages, diagonals, 1.0 / square)
    _, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return math.inf
    # Every entry is a sum of products of three factors, as many as the matrix or the last weight has rows; 4 covers the
    # other roundings.
    n_terms = max(len(matrix), len(stages[-1].weight))
    slack = 4.0 * gamma(n_terms + 16) * (magnitude + float(matrix.diagonal().sum())) * stretch
    return math.sqrt(square * (1.0 + slack)) * (1.0 + 16.0 * UNIT)


def _inequality(stages: Sequence[Stage], diagonals: Sequence[Tensor], inverse: float) -> tuple[Tensor, float, float]:
    """Return fl(Z M Z), its lower triangle, and bounds of the |.|_F of its terms summed and of |Z^-1 z|^2 / |x|^2."""
    n_inputs = stages[0].weight.shape[1]
    total = n_inputs + sum(len(d) for d in diagonals)
    matrix = stages[0].weight.new_zeros(total, total)
    matrix.diagonal()[:n_inputs] = 1.0
    magnitude, stretch = math.sqrt(n_inputs), 1.0
    scale = matrix.new_ones(n_inputs)  # Z of h_{i-1}, which begins in row `start` and is at most `size` |x|
    start, size = 0, 1.0
    for before, stage, diagonal in zip(stages[:-1], stages[1:], diagonals, strict=True):
        inputs = before.weight * scale
        middle, product = 0.5 * (stage.alpha + stage.beta), stage.alpha * stage.beta
        here = slice(start, start + len(scale))
        there = slice(here.stop, here.stop + len(diagonal))
        scale = power_of_two(exponent_of(diagonal.sqrt()))
        coupling = middle * (scale / diagonal).unsqueeze(1) * inputs
        whitened = inputs / diagonal.sqrt().unsqueeze(1)
        own = scale * scale / diagonal
        matrix[here, here] += product * (whitened.mT @ whitened)
        matrix[there, here] -= coupling
        matrix[there, there] += own.diag()
        for factor, term in ((2.0, coupling), (1.0, own)):
            magnitude += factor * float(torch.linalg.vector_norm(term))
        magnitude += abs(product) * float(torch.linalg.vector_norm(whitened)) ** 2
        # |h_j| <= largest slope |row_j(W_{i-1})| |h_{i-1}|
        slope = max(abs(stage.alpha), abs(stage.beta))
        rows = torch.linalg.vector_norm(before.weight, dim=1)
        stretch += float(((slope * size * rows / scale) ** 2).sum())
        start, size = there.start, size * slope * before.norm
    last = stages[-1].weight * scale
    matrix[start:, start:] -= inverse * (last.mT @ last)
    return matrix, magnitude + inverse * float(torch.linalg.vector_norm(last)) ** 2, stretch
