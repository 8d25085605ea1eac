"""Log-determinants: what a truncated series leaves out is below the bounds that are reported for it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from iresnet_fast import ops
from iresnet_fast.estimators import PowerSeries, draw_probe
from iresnet_fast.models.truncation import truncation_bound
from iresnet_fast.reference import LogdetInfo

from .explicit import Branch, jacobian, random_branch, worst_branch
from .tally import Tally

BRANCHES = 1500  # of each event and dtype
SAMPLES = 4
EVENTS = ((2,), (6,), (2, 3, 3))
LIPSCHITZ = (0.1, 0.5, 0.8, 0.95, 0.99)
TERMS = (1, 2, 5, 10, 25)
TOLERANCES = (1.0, 0.1, 1e-2, 1e-3)
MOST_TERMS = 200  # under a tolerance


class Case(NamedTuple):
    """Some samples of one branch, and what is exactly true of them."""

    branch: Branch
    x: Tensor  # float32 or float64
    probe: Tensor  # like x
    log: Tensor  # log(I + J) [B, d, d]
    rounding: Tensor  # [B], what a sum may be off by for rounding, per |v|^2

    def series(self, probe: Tensor, n: int, tol: float | None = None) -> tuple[Tensor, LogdetInfo]:
        """Return the value, as float64, and the info of a series of n terms."""
        settings = {"tol": tol, "lipschitz": self.branch.lipschitz, "return_info": True}
        ones = torch.ones(n, dtype=self.x.dtype)
        _, value, info = ops.residual_logdet(self.x, *self.branch.stages(self.x.dtype), probe, ones, **settings)
        return value.double(), info

    def of_probe(self) -> tuple[Tensor, Tensor]:
        """Return <v, log(I + J) v>, and what the sum may be off by for rounding."""
        v = self.probe.double().flatten(1)
        return torch.einsum("bi,bij,bj->b", v, self.log, v), (v * v).sum(1) * self.rounding


def tail_of_one_probe(share: float = 1.0) -> Tally:
    """With one probe v the whole series has the sum <v, log(I + J) v>."""
    tally = Tally("log-det, one probe: what n terms leave out of the series is at most tail_bound")
    for case in _cases(share):
        exact, rounding = case.of_probe()
        for n in TERMS:
            value, info = case.series(case.probe, n)
            tally.add((value - exact).abs() / (info.tail_bound[0].double() + rounding))
    return tally


def stopped_by_tolerance(share: float = 1.0) -> Tally:
    """A sample that stops before its last term leaves out at most tol."""
    tally = Tally("log-det, one probe: a sample that PowerSeries(tol) stops leaves out at most tol")
    for case in _cases(share):
        exact, rounding = case.of_probe()
        for tol in TOLERANCES:
            value, info = case.series(case.probe, MOST_TERMS, tol)
            tally.add(((value - exact).abs() / (tol + rounding))[info.terms[0] < MOST_TERMS])
    return tally


def tail_of_a_full_basis(share: float = 1.0) -> Tally:
    """With a full basis as probes nothing is left to chance: the whole series is the log-determinant."""
    tally = Tally("log-det, full basis: n terms are off by at most the mean tail_bound")
    for value, exact, info, _, rounding in _full_basis(share):
        tally.add((value - exact).abs() / (info.tail_bound.double().mean(0) + rounding))
    return tally


def theorem_3(share: float = 1.0) -> Tally:
    """The bound that is known before any evaluation (i-ResNet, arXiv 1811.00995, theorem 3)."""
    tally = Tally("log-det, full basis: n terms are off by at most truncation_bound (theorem 3)")
    for value, exact, _, bound, rounding in _full_basis(share):
        tally.add((value - exact).abs() / (bound + rounding))
    return tally


def _full_basis(share: float) -> Iterator[tuple[Tensor, Tensor, LogdetInfo, float, Tensor]]:
    """Yield the value of a series, log|det(I + J)|, its info, the bound of theorem 3 and the rounding allowed."""
    for case in _cases(share):
        x, d = case.x, case.x[0].numel()
        # The mean over i of d e_i e_i^T is the identity.
        basis = (d**0.5 * torch.eye(d, dtype=x.dtype)).view(d, 1, *x.shape[1:]).expand(d, *x.shape).contiguous()
        exact = torch.linalg.slogdet(torch.eye(d, dtype=torch.float64) + jacobian(case.branch, x.double()))[1]
        for n in TERMS:
            value, info = case.series(basis, n)
            block = SimpleNamespace(eval_estimator=PowerSeries(n), lipschitz=case.branch.lipschitz, n_dims=d)
            yield value, exact, info, truncation_bound(block), d * case.rounding


def _cases(share: float) -> Iterator[Case]:
    """Yield for every event and dtype the branches that attain the bounds and then random ones."""
    generator = torch.Generator().manual_seed(10)
    for event in EVENTS:
        for dtype in (torch.float32, torch.float64):
            for i in range(len(LIPSCHITZ) + round(BRANCHES * share)):
                lipschitz = LIPSCHITZ[i % len(LIPSCHITZ)]
                if i < len(LIPSCHITZ):
                    branch = worst_branch(event, lipschitz)
                else:
                    branch = random_branch(generator, event, lipschitz, smooth=dtype == torch.float32)
                x = torch.randn(SAMPLES, *event, generator=generator)
                probe = draw_probe(x, 1, ("rademacher", "gaussian")[i % 2], generator)
                yield Case(
                    branch,
                    x.to(dtype),
                    probe.to(dtype),
                    _logarithm(jacobian(branch, x.double())),
                    _rounding(branch, x.double(), dtype),
                )


def _rounding(branch: Branch, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a sum, or a bound on its tail, may be off by for rounding, per |v|^2 [B].

    If the computed products with J are off by r L relative to their input, then w_k by k r L^k |v| and the term k by
    r L^k |v|^2; summing n terms and d products adds n + d roundings of at most L^k |v|^2. The sum over k is L / (1 - L)
    times that, once for the value and once for the bound.
    """
    relative = branch.rounding(x, dtype) + (MOST_TERMS + x[0].numel()) * torch.finfo(dtype).eps
    return 2.0 * relative * branch.lipschitz / (1.0 - branch.lipschitz)


def _logarithm(J: Tensor) -> Tensor:
    """Return log(I + J), |J| <= 0.99, as the integral of J (I + tJ)^-1 over t in [0, 1]: no series has a part in it."""
    nodes, weights = _quadrature()
    d = J.shape[-1]
    resolvents = torch.linalg.inv(torch.eye(d, dtype=J.dtype) + nodes.view(-1, 1, 1, 1) * J)
    return J @ torch.einsum("t,tbij->bij", weights, resolvents)


@cache
def _quadrature() -> tuple[Tensor, Tensor]:
    """Return Gauss' nodes and weights on panels that halve towards 1.

    The integrand is analytic but for t beyond 1 / 0.99, at least one and a half widths from the middle of each panel:
    16 nodes err by (3 + 8^0.5)^-32, far below rounding.
    """
    import numpy as np

    points, masses = map(torch.from_numpy, np.polynomial.legendre.leggauss(16))
    edges = torch.tensor([1.0 - 2.0**-j for j in range(8)] + [1.0], dtype=torch.float64)
    halves = edges.diff() / 2.0
    middles = (edges[1:] + edges[:-1]) / 2.0
    return (middles[:, None] + halves[:, None] * points).flatten(), (halves[:, None] * masses).flatten()


SUBJECTS = (tail_of_one_probe, stopped_by_tolerance, tail_of_a_full_basis, theorem_3)
