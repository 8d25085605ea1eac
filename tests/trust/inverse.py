"""Inverses: certified errors are never below the true ones, few evaluations find them, and gradients are right."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from iresnet_fast import estimators, nn, ops
from iresnet_fast.ops.inverse_error import WideBranch
from iresnet_fast.reference.series import sample_norm
from iresnet_fast.solvers import FixedPoint

from .explicit import Branch, jacobian, random_branch, worst_branch
from .tally import Tally

BRANCHES = 600  # of each event
SAMPLES = 8
EVENTS = ((2,), (6,), (2, 3, 3))
LIPSCHITZ = (0.5, 0.73, 0.94, 0.98)
SIZES = (1e-6, 1e-2, 1.0, 10.0, 1e3, 1e6)  # of z, in norm
BIASES = (0.0, 1.0, 100.0)  # the last drives activations into saturation
TOL = 1e-5
DTYPES = (torch.float32, torch.float64)
# A constant that is the true one in exact arithmetic, but for the rounding of the norms it was computed from.
ABOVE = 1.0 + 1e-12


def certified_error_of_any_x(share: float = 1.0) -> Tally:
    """Whatever was found, at whatever size: also where float32 has no residual left, and after refinement."""
    tally = Tally("inverse: the distance to the true inverse is at most the certified error")
    for branch, z in _cases(share):
        truth, slack = _solution(branch, z)
        for dtype in DTYPES:
            stages, lipschitz = branch.stages(dtype), branch.lipschitz * ABOVE
            x, *_ = ops.residual_inverse(z.to(dtype), *stages, lipschitz, TOL)
            error = ops.inverse_error(x, z.to(dtype), *stages, lipschitz)
            tally.add((_distance(x, truth) - slack) / error)
            wide = WideBranch.of(*stages, None)
            x, error, _ = wide.refine(x, z.to(dtype), lipschitz, TOL, 1000, True)
            tally.add((_distance(x, truth) - slack) / error)
    return tally


def converged_inverses_of_blocks(share: float = 1.0) -> Tally:
    """As users call it: blocks, fresh and trained, in float32."""
    tally = Tally("inverse of a block: a sample reported as converged is within tol")
    for seed in range(max(1, round(40 * share))):
        block, z = _block(seed)
        weights, biases, activations, _ = block.branch.stages()
        # The inverse of the branch as float32 evaluates it is one of the numbers that its stages hold.
        norms = [float(torch.linalg.matrix_norm(weight.double(), 2)) for weight in weights]
        if math.prod(norms) > block.lipschitz:
            continue  # the constant does not bound the branch
        branch = Branch(
            tuple(z.shape[1:]), [w.double() for w in weights], [b.double() for b in biases], activations,
            block.lipschitz, [],
        )  # fmt: skip
        truth, slack = _solution(branch, z.double())
        found = block.certified_inverse(z)
        tally.add(((_distance(found.x, truth) - slack) / block.solver.tol)[found.converged])
    return tally


def evaluations(share: float = 1.0) -> Tally:
    """The k-th residual of a contraction is at most L^k times the first."""
    tally = Tally("inverse: acceleration takes at most one evaluation more than the contraction guarantees")
    for branch, z in _cases(share):
        lipschitz = branch.lipschitz * ABOVE
        tol = TOL * max(1.0, float(sample_norm(z, z.dim() - 1).max()), *(float(b.norm()) for b in branch.biases))
        _, iterations, residual = ops.residual_inverse(z, *branch.stages(torch.float64), lipschitz, tol)
        first = sample_norm(ops.branch(z, *branch.stages(torch.float64)), z.dim() - 1)
        limit = tol * (1.0 - lipschitz)
        guaranteed = (torch.log(limit / first) / math.log(lipschitz)).ceil().clamp(min=0.0)
        tally.add(torch.where(residual <= limit, iterations / (guaranteed + 1.0), torch.inf))
    return tally


def gradients(share: float = 1.0) -> Tally:
    """The gradient by z solves (I + J)^T u = grad: u is off by tol of grad, and by what x is off.

    |phi''| <= 1 and norms below 1 bound the change of J over a distance e by e for every activation, and (I + J)^-1
    changes by at most that over (1 - L)^2.
    """
    tally = Tally("inverse: the gradient is that of the implicit function, to the solver's tolerance")
    tol = 1e-9
    generator = torch.Generator().manual_seed(7)
    for branch, z in _cases(0.5 * share, smooth=True):
        z = z[sample_norm(z, z.dim() - 1) <= 100.0]  # else rounding would be above tol
        if any(float(bias.norm()) > 100.0 for bias in branch.biases):
            continue
        leaf, lipschitz = z.clone().requires_grad_(), branch.lipschitz * ABOVE
        x, *_ = ops.residual_inverse(leaf, *branch.stages(torch.float64), lipschitz, tol)
        upstream = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        (got,) = torch.autograd.grad(x, leaf, upstream)
        truth, _ = _solution(branch, z)
        matrices = torch.eye(z[0].numel(), dtype=z.dtype) + jacobian(branch, truth)
        exact = torch.linalg.solve(matrices.mT, upstream.flatten(1)[..., None])[..., 0]
        allowed = tol * (1.0 + len(branch.weights) / (1.0 - lipschitz) ** 2) * upstream.flatten(1).norm(dim=1)
        tally.add((got.flatten(1) - exact).norm(dim=1) / allowed)
    return tally


def _distance(x: Tensor, truth: Tensor) -> Tensor:
    return sample_norm(x.detach().double() - truth, truth.dim() - 1)


def _solution(branch: Branch, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the solution in float64, as exact as that gets, and a bound of its error."""
    stages, lipschitz = branch.stages(torch.float64), branch.lipschitz * ABOVE
    x, *_ = ops.residual_inverse(z, *stages, lipschitz, 1e-300, 5000)
    return x, ops.inverse_error(x, z, *stages, lipschitz)


def _cases(share: float, smooth: bool = False) -> Iterator[tuple[Branch, Tensor]]:
    """Yield branches, random ones and those that attain the bounds, with z of every size that float32 holds."""
    generator = torch.Generator().manual_seed(5)
    for event in EVENTS:
        for i in range(round(BRANCHES * share) + len(LIPSCHITZ)):
            lipschitz = LIPSCHITZ[i % len(LIPSCHITZ)]
            worst = i < len(LIPSCHITZ)
            branch = worst_branch(event, lipschitz) if worst else random_branch(generator, event, lipschitz, smooth)
            scale = BIASES[i // len(LIPSCHITZ) % len(BIASES)]
            branch = branch._replace(biases=[(scale * bias).float().double() for bias in branch.biases])
            z = torch.randn(SAMPLES, *event, generator=generator, dtype=torch.float64)
            size = torch.tensor([SIZES[(i + s) % len(SIZES)] for s in range(SAMPLES)], dtype=torch.float64)
            z = z * (size / sample_norm(z, len(event))).view(-1, *[1] * len(event))
            yield branch, z.float().double()


@cache
def _block(seed: int) -> tuple[nn.InvertibleResidualBlock, Tensor]:
    """Return a block, trained for some steps unless the seed is divisible by 4, and images of data."""
    torch.manual_seed(seed)
    event, coeff = (2, 5, 16)[seed % 3], LIPSCHITZ[seed % 4] ** (1 / 3)
    branch = nn.ResidualBranch.dense([event, 48, 48, event], activation=("elu", "sin")[seed % 2], coeff=coeff)
    block = nn.InvertibleResidualBlock(branch, estimators.PowerSeries(n_terms=6), FixedPoint(TOL))
    x = torch.randn(256, event) @ torch.randn(event, event)
    optimizer = torch.optim.Adam(block.parameters(), lr=5e-3)
    for _ in range(40 if seed % 4 else 0):
        z, logdet = block(x)
        optimizer.zero_grad()
        (0.5 * z.square().sum(1) - logdet).mean().backward()
        optimizer.step()
    block.eval().requires_grad_(False)
    return block, block(x)[0]


SUBJECTS = (certified_error_of_any_x, converged_inverses_of_blocks, evaluations, gradients)
