"""A bound of the distance of any x to the inverse of a residual block, by one evaluation in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _checks, reference
from .. import activations as registry
from .._inputs import check_tensor
from ..reference.fixed_point import Settings, iterate
from ..reference.inverse_error import certified_error
from ..reference.rounding import branch_rounding
from ..reference.series import sample_norm
from .branch import branch

# Of tol, what a refinement leaves of the residual: the rest is for rounding the result.
_RESIDUAL_SHARE = 0.1


def inverse_error(
    x: Tensor,  # [B, d] or [B, C, H, W]
    z: Tensor,  # the shape of x
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    lipschitz: float,
    parameters: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
) -> Tensor:
    """Return a bound of |x - x*| for the solution x* of x* + g(x*) = z, [B] float64.

    (|z - x - g(x)| + rounding) / (1 - lipschitz), evaluated in float64 for tensors of any dtype: x, z and the weights
    are taken as the exact numbers they are, and `rounding` bounds what the evaluation in float64 can be off by
    (docs/mathematics.md, 5). It holds for any x, however it was found, if `lipschitz` bounds the branch. In float32 the
    same bound would be 1e-4 of x or more, and its residual can be zero where x is off.

    Args:
        x: [B, d] or [B, C, H, W].
        z: the shape and dtype of x.
        weights: as for `iresnet_fast.ops.residual_inverse`, as the other arguments.
        biases: likewise.
        activations: likewise.
        lipschitz: Lipschitz constant of the branch, in [0, 1).
        parameters: likewise.
        factors: likewise.

    Raises:
        ValueError: a shape, device, name or range does not fit.
        TypeError: a dtype differs from that of x.
    """
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    _checks.check_lipschitz(lipschitz)
    check_tensor(z, "z")
    if z.shape != x.shape:
        raise ValueError(f"z must have the shape of x, {tuple(x.shape)}, got {tuple(z.shape)}; pass what x solves for.")
    with torch.no_grad():
        return WideBranch.of(weights, biases, activations, parameters, factors).error(x, z, lipschitz)[0]


class WideBranch(NamedTuple):
    """A branch in float64, without gradient."""

    weights: list[Tensor]
    biases: list[Tensor | None]
    activations: Sequence[str]
    parameters: list[Tensor | None] | None
    factors: list[Tensor | None] | None
    norms: Sequence[float] | None  # bounds of the spectral norms of the weights, for a closer bound of the rounding

    @classmethod
    def of(
        cls,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None],
        activations: Sequence[str],
        parameters: Sequence[Tensor | None] | None,
        factors: Sequence[Tensor | None] | None = None,
        norms: Sequence[float] | None = None,
    ) -> WideBranch:
        """Return the branch of these stages."""

        def wide(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
            return [None if t is None else t.detach().double() for t in tensors]

        known, given = (None if tensors is None else wide(tensors) for tensors in (parameters, factors))
        return cls([w.detach().double() for w in weights], wide(biases), activations, known, given, norms)

    def of_samples(self, chosen: Tensor) -> WideBranch:
        """Return the branch of some samples of the batch, by a mask [B]."""

        def own(tensors: list[Tensor | None]) -> list[Tensor | None]:
            return [t if t is None or t.dim() == 1 else t[chosen] for t in tensors]

        return self._replace(biases=own(self.biases), factors=self.factors and own(self.factors))

    def evaluate(self, x: Tensor) -> Tensor:
        """Return g(x) of x in float64, without the rounding of weights that kernels change for some activations."""
        is_elementwise = all(registry.get(name).kernel_id is not None for name in self.activations)
        evaluate = branch if is_elementwise else reference.branch
        return evaluate(x, self.weights, self.biases, self.activations, self.parameters, self.factors)

    def error(self, x: Tensor, z: Tensor, lipschitz: float) -> tuple[Tensor, Tensor]:
        """Return what `certified_error` does for x and z of any dtype."""
        x, z = x.detach().double(), z.detach().double()
        rounding = branch_rounding(x, self.weights, self.biases, self.activations, self.norms, self.factors)
        return certified_error(x, z, self.evaluate(x), rounding, lipschitz)

    def refine(
        self, x: Tensor, z: Tensor, lipschitz: float, tol: float, max_iterations: int, accelerate: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Iterate on from x in float64; return x rounded to its dtype, its certified error and the updates, [B] each.

        The error is that before the rounding plus what was rounded away, so it does not grow by 1 / (1 - lipschitz).
        """
        alike = all(t is None or t.dim() == 1 for t in (*self.biases, *(self.factors or ())))
        settings = Settings(lipschitz, _RESIDUAL_SHARE * tol, max_iterations, alike, accelerate)
        solution, iterations, _ = iterate(self.evaluate, z.detach().double(), x.detach().double(), settings)
        rounded = solution.to(x.dtype)
        lost = sample_norm(rounded.double() - solution, x.dim() - 1)
        return rounded, self.error(solution, z, lipschitz)[0] + lost, iterations
