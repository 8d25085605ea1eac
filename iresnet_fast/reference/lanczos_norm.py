"""The spectral norm of linear maps and convolutions by Lanczos iteration, from hints and a random direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iresnet_fast import _spectral_checks
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.reference.spectral_norm import operator

# A start is the old singular vector, and companion and random vector by this many times the relative residual that the
# old vector has now, which tells how far the weight has moved; within these limits. A direction without a share is not
# found when its singular value becomes the largest, and a large one takes steps to come back from. Found on recorded
# trainings, like the shift below.
_SHARE_PER_RESIDUAL = 10.0
_LEAST_SHARE, _MOST_SHARE = 0.05, 0.5
# A start this short, of hints that cancel, is taken from the random vector alone.
_CANCELLED = 0.01
# The companion is (mu - A^T A)^{-1} start without its leading part; mu is this times the largest Ritz value.
_COMPANION_SHIFT = 1.05
# Convergence is judged when the basis has 12, 14, 16, ... vectors, and when it is full: then it starts anew.
_FIRST_LOOK = 12
_LOOK_EVERY = 2
_LARGEST_BASIS = 40


class LanczosNorms(NamedTuple):
    """What `lanczos_norm` returns. No tensor has a gradient.

    Attributes:
        sigmas: [layers] |A v| (|A^T u| where u is the shorter vector): at most the norm, up to rounding.
        residuals: [layers] |A^T u - sigma v| (|A v - sigma u|): a singular value lies this near sigma.
        us: left vectors of unit length, shaped like those given.
        vs: right vectors of unit length, shaped like those given.
        companions: hints for the next call, of unit length or zero, shaped like those given.
        iterations: [layers] int64, Lanczos steps.
    """

    sigmas: Tensor
    residuals: Tensor
    us: list[Tensor]
    vs: list[Tensor]
    companions: list[Tensor]
    iterations: Tensor


@torch.no_grad()
def lanczos_norm(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor],
    companions: Sequence[Tensor],
    geometry: Sequence[ConvGeometry | None],
    n_iterations: int = 40,
    tol: float = 3e-4,
    seed: int | Tensor = 0,
) -> LanczosNorms:
    """Estimate the largest singular value of every layer by Lanczos iteration, from below, and its residual.

    Arguments, results and errors: those of `iresnet_fast.ops.lanczos_norm`.
    """
    _spectral_checks.check_lanczos(weights, us, vs, companions, geometry, n_iterations, tol, seed)
    if not weights:
        return LanczosNorms(torch.empty(0), torch.empty(0), [], [], [], torch.empty(0, dtype=torch.int64))
    layers = [
        _Layer(*layer, int(seed)).norm(n_iterations, tol)
        for layer in zip(weights, us, vs, companions, geometry, strict=True)
    ]
    sigmas, residuals, new_us, new_vs, new_companions, counts = zip(*layers, strict=True)
    return LanczosNorms(
        torch.stack(sigmas),
        torch.stack(residuals),
        list(new_us),
        list(new_vs),
        list(new_companions),
        torch.tensor(counts, dtype=torch.int64, device=weights[0].device),
    )


_WORD = 0xFFFFFFFF


def random_vector(size: int, seed: int) -> Tensor:
    """Return [size] uniform numbers in float64, about of unit length, a hash of (seed, element): the same everywhere.

    Not signs: those cancel exactly where weights are equal.
    """
    key = _mix(_mix(torch.tensor(seed & _WORD)) ^ (seed >> 32 & _WORD))
    uniform = (_mix(torch.arange(size) ^ key) >> 8).double() * 2.0**-23 - (1.0 - 2.0**-24)  # never 0, exact in float32
    return uniform * math.sqrt(3.0 / max(size, 1))


def _mix(x: Tensor) -> Tensor:
    """Return a bijective hash of 32 bits, held in int64: lowbias32 of the project hash-prospector."""
    x = (x ^ x >> 16) * 0x7FEB352D & _WORD
    x = (x ^ x >> 15) * 0x846CA68B & _WORD
    return x ^ x >> 16


class _Ritz(NamedTuple):
    """The largest eigenvalue of the tridiagonal matrix of a Lanczos run, and coordinates in its basis."""

    value: float
    leading: Tensor  # [k] the eigenvector
    error: float  # |M y - value y| / value of the Ritz vector y
    companion: Tensor  # [k], of unit length or zero

    @classmethod
    def of(cls, alphas: list[float], betas: list[float]) -> _Ritz:
        """Return that of the diagonal `alphas` [k] and off-diagonal `betas` [k], the last one towards q_{k+1}."""
        matrix = torch.diag(torch.tensor(alphas, dtype=torch.float64))
        off = torch.tensor(betas[:-1], dtype=torch.float64)
        matrix += torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(matrix)
        # No entry of the matrix is negative, so none of the leading eigenvector is, but for rounding.
        value, leading, rest = float(values[-1]), vectors[:, -1].abs(), vectors[:, :-1]
        if not value > 0.0:
            return cls(0.0, leading, 0.0, torch.zeros_like(leading))
        companion = rest @ (rest[0] / (_COMPANION_SHIFT * value - values[:-1]))
        unit = _unit(companion)
        return cls(value, leading, betas[-1] * abs(float(leading[-1])) / value, companion if unit is None else unit)


class _Run(NamedTuple):
    """The Lanczos steps from one start."""

    basis: Tensor  # [k, size]
    ritz: _Ritz
    settled: bool  # the residual is below the tolerance, or the basis spans an invariant subspace


class _Layer:
    """A layer whose weight is divided by a power of two: squares of its products neither overflow nor underflow."""

    def __init__(
        self, weight: Tensor, u: Tensor, v: Tensor, companion: Tensor, place: ConvGeometry | None, seed: int
    ) -> None:
        self.u, self.v, self.companion, self.seed = u, v, companion, seed
        self.largest = float(weight.abs().max()) if weight.numel() else 0.0  # NaN if there is one
        self.scale = 1.0
        if 0.0 < self.largest < math.inf:
            self.scale = max(2.0 ** (math.frexp(self.largest)[1] - 1), torch.finfo(weight.dtype).tiny)
        self.right = v.numel() <= u.numel()  # the basis is on the side of the shorter vector
        forward, transpose = operator(weight / self.scale, place)
        self.there, self.back = (forward, transpose) if self.right else (transpose, forward)

    def norm(self, n_iterations: int, tol: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]:
        """Return sigma, residual, u, v, companion and the number of steps."""
        if not 0.0 < self.largest < math.inf:
            return self._without_norm(self.largest * 0.0, 0)
        start, count = self._start(), 0
        while True:
            run = self._run(start, n_iterations - count, tol)
            count += len(run.basis)
            if run.ritz.value == 0.0:
                return self._without_norm(0.0, count)
            start = self._combine(run, run.ritz.leading)
            start = start / torch.linalg.vector_norm(start)
            if run.settled or count == n_iterations:
                break
        image = self.there(start)
        sigma = torch.linalg.vector_norm(image)
        image = image / sigma
        residual = torch.linalg.vector_norm(self.back(image) - sigma * start)
        u, v = (image, start) if self.right else (start, image)
        return sigma * self.scale, residual * self.scale, u, v, self._combine(run, run.ritz.companion), count

    def _start(self) -> Tensor:
        """Return the direction of old singular vector, companion and random vector; a bad hint has no share."""
        near = self.v if self.right else self.u
        random, hint, companion = self._random(near), _unit(near), _unit(self.companion)
        share = _MOST_SHARE if hint is None else self._share(hint)
        start = share * random
        if hint is not None:
            start = start + hint
        if companion is not None:
            start = start + share * companion
        if not float(torch.linalg.vector_norm(start)) > _CANCELLED:
            start = random
        return start.div(torch.linalg.vector_norm(start))

    def _share(self, hint: Tensor) -> float:
        image = self.there(hint)
        square = float((image * image).sum())
        rest = float(torch.linalg.vector_norm(self.back(image) - square * hint))
        return min(max(_SHARE_PER_RESIDUAL * rest / square, _LEAST_SHARE), _MOST_SHARE) if square > 0.0 else _MOST_SHARE

    def _run(self, start: Tensor, most: int, tol: float) -> _Run:
        size, eps = start.numel(), torch.finfo(start.dtype).eps
        most = min(most, size, _LARGEST_BASIS)
        basis = start.new_empty(most, size)
        basis[0] = start.flatten()
        alphas: list[float] = []
        betas: list[float] = []
        for k in range(1, most + 1):
            image = self.there(basis[k - 1].view_as(start))
            alphas.append(float((image * image).sum()))
            w = self.back(image).flatten() - alphas[-1] * basis[k - 1]
            if k > 1:
                w -= betas[-1] * basis[k - 2]
            betas.append(float(torch.linalg.vector_norm(w)))
            for _ in range(2):  # full orthogonality, for which twice is enough
                before = betas[-1]
                w -= basis[:k].t() @ (basis[:k] @ w)
                betas[-1] = float(torch.linalg.vector_norm(w))
                if betas[-1] > 0.7 * before:
                    break
            invariant = k == size or betas[-1] <= 16.0 * eps * max(alphas)
            if invariant or k == most or (k >= _FIRST_LOOK and (k - _FIRST_LOOK) % _LOOK_EVERY == 0):
                ritz = _Ritz.of(alphas, betas)
                settled = invariant or ritz.error <= tol
                if settled or k == most:
                    break
            basis[k] = w / betas[-1]
        return _Run(basis[:k], ritz, settled)

    def _combine(self, run: _Run, coordinates: Tensor) -> Tensor:
        near = self.v if self.right else self.u
        return (coordinates.to(run.basis) @ run.basis).view_as(near)

    def _random(self, like: Tensor) -> Tensor:
        return random_vector(like.numel(), self.seed).to(like).view_as(like)

    def _direction(self, hint: Tensor) -> Tensor:
        unit = _unit(hint)
        return F.normalize(self._random(hint).flatten(), dim=0).view_as(hint) if unit is None else unit

    def _without_norm(self, sigma: float, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]:
        """Return what a weight that is zero or not finite gets: the hints, of unit length."""
        u, v = (self._direction(hint) for hint in (self.u, self.v))
        number = self.u.new_full((), sigma)
        return number, number, u, v, torch.zeros_like(self.companion), count


def _unit(a: Tensor) -> Tensor | None:
    """Return a / |a|, None if |a| is not a positive finite number."""
    length = float(torch.linalg.vector_norm(a))
    return a / length if 0.0 < length < math.inf else None
