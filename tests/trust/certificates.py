"""Certificates: upper bounds of norms and branches are never too small, lower bounds never too large."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch
from operators import adversarial_matrix, largest_singular_value, random_convolution, seeded, written_out
from torch import Tensor

from iresnet_fast import activations as registry
from iresnet_fast import certify
from iresnet_fast.certify import gram
from iresnet_fast.geometry import ConvGeometry

from .tally import Tally

MATRICES = 10_000
CONVOLUTIONS = 10_000  # half of both for closeness and lower bounds, whose maps are the same
BRANCHES = 5_000  # each bounded in closed form and after a descent
TOGETHER = 50  # branches of one shape, searched at once
CLOSE = 0.02
# What LAPACK's singular value may be off by for sides up to some hundreds; the search's likewise.
LAPACK = 1e-13

Map = tuple[Tensor, ConvGeometry | None, str]


class Found(NamedTuple):
    """A norm, and the bounds of it."""

    true: float
    lower: float
    upper: float
    gram: float  # by 8 Gram iterations

    def ratio(self, value: float, bound: float) -> float:
        """Return value / bound, 1 for two zeros; the singular value may be off by LAPACK."""
        if value == bound == 0.0:
            return 1.0
        return value / bound * (1.0 - LAPACK) if bound else float("inf")


def upper_bounds_of_matrices(share: float = 1.0) -> Tally:
    """Both upper bounds are at least the largest singular value."""
    tally = Tally("norm of a matrix: at most its upper bounds, from eigenvalues and by Gram iteration")
    for found in _matrices(share):
        tally.add([found.ratio(found.true, found.upper), found.ratio(found.true, found.gram)])
    return tally


def upper_bounds_of_convolutions(share: float = 1.0) -> Tally:
    """Both upper bounds are at least the largest singular value of the operator written out."""
    tally = Tally("norm of a convolution on its image: at most its upper bounds")
    for found in _convolutions(share):
        tally.add([found.ratio(found.true, found.upper), found.ratio(found.true, found.gram)])
    return tally


def torus_bounds_of_convolutions(share: float = 1.0) -> Tally:
    """The bound for operators too large to be written out, on ones that can be."""
    tally = Tally("norm of a convolution on its image: at most that on a torus, which bounds large ones")
    for weight, geometry, mode in _maps_of_convolutions(share):
        true = largest_singular_value(written_out(weight, geometry, mode))
        bound = float(gram.upper_bound(weight, geometry, mode, largest_side=0))
        tally.add([Found(true, 0.0, bound, 0.0).ratio(true, bound)])
    return tally


def closeness(share: float = 1.0) -> Tally:
    """After 8 iterations the upper bound is close; a ratio of 1 is 2 % too much."""
    tally = Tally("upper bounds of matrices and convolutions are within 2 % of the norm")
    for found in (*_matrices(share / 2.0), *_convolutions(share / 2.0)):
        if found.true > 0.0:
            tally.add([(bound / found.true - 1.0) / CLOSE for bound in (found.upper, found.gram)])
        else:
            tally.add([0.0 if found.upper == found.gram == 0.0 else float("inf")])
    return tally


def lower_bounds(share: float = 1.0) -> Tally:
    """The lower bounds are at most the largest singular value."""
    tally = Tally("lower bounds of matrices and convolutions are at most the norm")
    for found in (*_matrices(share / 2.0), *_convolutions(share / 2.0)):
        tally.add([found.ratio(found.lower, found.true)])
    return tally


def branch_bounds(share: float = 1.0) -> Tally:
    """No Jacobian that gradient ascent finds is larger than the bound of the branch."""
    tally = Tally("Lipschitz constant of a dense branch found by ascent: at most the bound of the whole branch")
    for batch in _branches(share):
        for largest, *bounds in zip(batch.search(), batch.bounds(0), batch.bounds(5), strict=True):
            tally.add([float(largest) / bound * (1.0 - LAPACK) for bound in bounds])
    return tally


def branch_bounds_and_products(share: float = 1.0) -> Tally:
    """The bound of the branch is at most the product of those of its layers."""
    tally = Tally("the bound of a whole dense branch is at most the product of its layers'")
    for batch in _branches(share):
        for weights, bound in zip(batch.each(), batch.bounds(0), strict=True):
            product = 1.0
            for weight in weights:
                product *= certify.norm_bounds(weight).upper
            tally.add([bound / product * (1.0 - LAPACK)])
    return tally


def branch_scales(share: float = 1.0) -> Tally:
    """A last layer scaled by the factor of `branch_scale` keeps every Jacobian that is found at most the target."""
    tally = Tally("a branch whose slack is spent: no Jacobian that ascent finds is above the target")
    for batch in _branches(0.2 * share):
        for largest, weights in zip(batch.search(), batch.each(), strict=True):
            target = 1.5
            for weight in weights:
                target *= float(torch.linalg.matrix_norm(weight, 2))
            factor = certify.branch_scale(weights, batch.activations, target)
            tally.add([factor * float(largest) / target * (1.0 - LAPACK)])
    return tally


class Branches(NamedTuple):
    """Some dense branches of one shape."""

    weights: list[Tensor]  # [n, out, in]
    biases: list[Tensor]  # [n, out]
    activations: list[str]

    def each(self) -> Iterator[list[Tensor]]:
        """Yield the weights of every branch."""
        return (list(weights) for weights in zip(*(weight.unbind() for weight in self.weights), strict=True))

    def bounds(self, n_steps: int) -> list[float]:
        """Return the bound of every branch."""
        return [certify.branch_bound(weights, self.activations, n_steps=n_steps).upper for weights in self.each()]

    def search(self, restarts: int = 8, steps: int = 20) -> Tensor:
        """Return the largest norm [n] of a Jacobian that gradient ascent over x finds."""
        n, _, width = self.weights[0].shape
        x = 2.0 * torch.randn(n, restarts, width, dtype=torch.float64)
        x[:, 0] = 0.0
        x.requires_grad_()
        optimizer, largest = torch.optim.Adam([x], 0.3), torch.zeros(n, dtype=torch.float64)
        for _ in range(steps):
            norms = torch.linalg.matrix_norm(self._jacobian(x), 2)
            largest = torch.maximum(largest, norms.detach().amax(1))
            optimizer.zero_grad()
            (0.0 * x.sum() - norms.sum()).backward()  # without an activation the Jacobian does not depend on x
            optimizer.step()
        return largest

    def _jacobian(self, x: Tensor) -> Tensor:
        """Return the Jacobians [n, restarts, out, in] at x [n, restarts, in]."""
        a, jacobian = x, torch.eye(x.shape[-1], dtype=torch.float64)
        for weight, bias, name in zip(self.weights, self.biases, self.activations, strict=True):
            entry = registry.get(name)
            h = entry.value(a)
            jacobian = weight.unsqueeze(1) @ (entry.derivative(a).unsqueeze(-1) * jacobian)
            a = (weight.unsqueeze(1) @ h.unsqueeze(-1)).squeeze(-1) + bias.unsqueeze(1)
        return jacobian


def _branches(share: float) -> Iterator[Branches]:
    rng = seeded(30)
    for _ in range(max(1, round(share * BRANCHES / TOGETHER))):
        width, hidden = rng.choice((2, 3, 6)), rng.choice((2, 8, 24))
        widths = [width, *[hidden] * rng.choice((1, 1, 2)), width]
        kind = rng.choice(("random", "random", "aligned", "aligned", "rank one", "dead units", "far apart"))
        name = rng.choice(("relu", "elu", "softplus", "tanh", "sin", "lipswish"))
        first = rng.choice(("identity", name))
        middle = [rng.choice((name, name, name, "identity")) for _ in widths[2:]]
        yield _batch(widths, kind, [first, *middle], rng)


def _batch(widths: list[int], kind: str, activations: list[str], rng: random.Random) -> Branches:
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    weights = [torch.randn(TOGETHER, *shape, dtype=torch.float64) for shape in shapes]
    biases = [torch.randn(TOGETHER, out, dtype=torch.float64) for out, _ in shapes]
    if kind == "rank one":
        weights = [w[:, :, :1] @ w[:, :1, :] for w in weights]
    if kind == "dead units":
        weights[0][:, ::2] = 0.0
    if kind == "aligned":
        # Every layer turns the largest direction of the one before into its own: where all slopes are largest, the
        # Jacobian is as large as the product of the norms. That is at a large bias, for tanh and sine at 0.
        u = torch.linalg.svd(weights[0])[0][..., :1]
        for i, weight in enumerate(weights[1:], 1):
            left, _, right = torch.linalg.svd(weight)
            turn = u.mT - right[:, :1]
            # A reflection that takes the first right singular vector to u.
            reflection = torch.eye(weight.shape[-1], dtype=torch.float64) - 2.0 * turn.mT @ turn / (
                turn.square().sum((-2, -1), keepdim=True).clamp(min=1e-300)
            )
            weights[i], u = weight @ reflection, left[..., :1]
        biases = [0.0 * bias if activations[-1] in ("tanh", "sin") else bias.abs() + 20.0 for bias in biases]
    scales = [10.0 ** rng.randint(-9, 9) if kind == "far apart" else 1.0 for _ in weights]
    weights = [
        scale * w / torch.linalg.matrix_norm(w, 2, keepdim=True) for scale, w in zip(scales, weights, strict=True)
    ]
    return Branches(weights, biases, activations)


def _maps_of_matrices(share: float) -> Iterator[Map]:
    rng = seeded(10)
    return ((adversarial_matrix(rng), None, "zeros") for _ in range(round(share * MATRICES)))


def _maps_of_convolutions(share: float) -> Iterator[Map]:
    rng = seeded(20)
    for _ in range(round(share * CONVOLUTIONS)):
        weight, geometry, mode = random_convolution(rng)
        kind = rng.choice(("normal", "positive", "one tap", "masked", "rank one"))
        if kind == "positive":
            weight = weight.abs()
        if kind == "one tap":
            weight[..., 1:, :], weight[..., 1:] = 0.0, 0.0
        if kind == "masked":
            weight = weight * (torch.rand_like(weight) < 0.5)
        if kind == "rank one":
            weight = weight[:1, :1] * weight[:, :, :1, :1]
        dtype = rng.choice((torch.float32, torch.float64))
        yield (weight * 10.0 ** rng.choice((-30, 0, 0, 30))).to(dtype), geometry, mode


@cache
def _matrices(share: float) -> list[Found]:
    return [_found(*entry) for entry in _maps_of_matrices(share)]


@cache
def _convolutions(share: float) -> list[Found]:
    return [_found(*entry) for entry in _maps_of_convolutions(share)]


def _found(weight: Tensor, geometry: ConvGeometry | None, mode: str) -> Found:
    bounds = certify.norm_bounds(weight, geometry, mode)
    true = largest_singular_value(written_out(weight, geometry, mode))
    return Found(true, bounds.lower, bounds.upper, float(gram.upper_bound(weight, geometry, mode, n_iterations=8)))


SUBJECTS = (
    upper_bounds_of_matrices,
    upper_bounds_of_convolutions,
    torus_bounds_of_convolutions,
    closeness,
    lower_bounds,
    branch_bounds,
    branch_bounds_and_products,
    branch_scales,
)
