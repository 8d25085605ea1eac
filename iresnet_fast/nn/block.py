"""The invertible residual block z = x + g(x) with its log-determinant and its inverse."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .. import _checks, _library
from .._autocast import widen
from .._backend import why_no_kernels
from .._inputs import check_module, described
from .._tracing import may_read
from ..estimators import Exact, PowerSeries, RussianRoulette
from ..solvers import FixedPoint
from ._branch import Branch
from ._call import Call, DeferredInverse, TakesCall, not_kept
from ._inputs import check_branch_input
from ._inverse import CertifiedInverse, report
from ._paths import path_of, why_autograd
from ._transform import takes_context

Estimator = PowerSeries | RussianRoulette | Exact


class InvertibleResidualBlock(TakesCall):
    """z = x + g(x) (i-ResNet, arXiv 1811.00995), with log|det(I + J)|, J = dg/dx, and the inverse by fixed point.

    A branch on stages, such as a ResidualBranch, runs on the compiled kernels. Any other module runs on autograd
    products of itself: the same numbers, slower; the repr and one warning say so. It must act on each sample by itself.
    Where backward hooks hang on it, forward evaluates it once more, for z, with them: if it draws, as dropout does, z
    and the log-determinant are of different maps.

    Args:
        branch: g, from [B, *event] to the same shape. It is called as g(x), or g(x, context) if there is a context.
        estimator: PowerSeries, RussianRoulette or Exact, for the log-determinant; None: it is zero and costs nothing.
        solver: FixedPoint, for the inverse.
        lipschitz: Lipschitz constant of g in [0, 1); None: the branch's own, if it has a `lipschitz`. Without one
            there is no inverse.

    Raises:
        ValueError: lipschitz is not in [0, 1).
        TypeError: the estimator or solver is of another type.
    """

    def __init__(
        self,
        branch: nn.Module,
        estimator: Estimator | None = PowerSeries(),  # noqa: B008  # frozen
        solver: FixedPoint = FixedPoint(),  # noqa: B008  # frozen
        lipschitz: float | None = None,
    ) -> None:
        """Build the block; the arguments are those of the class."""
        super().__init__()
        if estimator is not None and not isinstance(estimator, (PowerSeries, RussianRoulette, Exact)):
            raise TypeError(
                f"estimator must be one of iresnet_fast.estimators or None, got {described(estimator)}; build one."
            )
        if not isinstance(solver, FixedPoint):
            raise TypeError(f"solver must be a solvers.FixedPoint, got {described(solver)}; build one.")
        check_module(branch, "branch")
        if lipschitz is not None:
            _checks.check_number("lipschitz", lipschitz, "0.9")
        self.branch = branch
        self.estimator = estimator
        self.solver = solver
        self._lipschitz = None if lipschitz is None else float(lipschitz)
        if self.lipschitz is not None and not 0.0 <= self.lipschitz < 1.0:
            coeffs = branch.stage_norms() if isinstance(branch, Branch) else None
            raise ValueError(
                f"lipschitz must be in [0, 1), got {self.lipschitz:.6g}, and the coeff of the layers is {coeffs}; "
                f"lower coeff so that the branch is a contraction."
            )

    @property
    def lipschitz(self) -> float | None:
        """Lipschitz constant of g: the one given, else that of the branch, else None."""
        return getattr(self.branch, "lipschitz", None) if self._lipschitz is None else self._lipschitz

    @property
    def takes_context(self) -> bool:
        """Whether the branch uses a context: its own `takes_context`, else whether its forward names one."""
        return takes_context(self.branch)

    def forward(self, x: Tensor, context: Any = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return z = x + g(x) and log|det(I + J)| [B] at x.

        In training, probes and roulette depths come from torch's global generator. Outside training the probe of a
        sample is a hash of the bits of the sample: the same in any batch, another for another sample. So an estimate
        has no derivative that differences of it would show; `Exact` has.

        Args:
            x: [B, *event]; [B, d] or [B, C, H, W] for a ResidualBranch.
            context: what the branch takes beside x, None if nothing.
            call: of the container, if this is a part of one: then the bits are those of its input.

        Raises:
            ValueError: a shape does not fit, or the branch got a context that it cannot use.
            TypeError: a dtype does not fit.
        """
        check_branch_input(self.branch, x, "x")
        (x,) = widen(x)
        return path_of(self, x, context).forward(x, Call.given(call, x))

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x with x + g(x) = z, and the log-determinant of the inverse [B], minus that of forward at x.

        Differentiable: x by the implicit function theorem. Each sample is within the solver's tol of the true inverse,
        rounding counted, if `lipschitz` bounds the branch; if one is not, a warning says so, or an error if the
        solver asks for one. While a graph is captured or compiled, or inside torch.func, nobody can look.

        Args:
            z: [B, *event].
            context: as in `forward`.

        Raises:
            ValueError: the Lipschitz constant is not known, a shape does not fit, or the branch cannot use the context.
            TypeError: a dtype does not fit.
            RuntimeError: a sample is not within tol, and the solver's on_failure is "raise".
        """
        found = self.deferred_inverse(z, context)
        return found.x, found.logdet(Call.of(found.x))

    def deferred_inverse(self, z: Tensor, context: Any = None, logdet: bool = True) -> DeferredInverse:
        """Return x, and its log-determinant for whoever wants it if `logdet`; else as `inverse`."""
        check_branch_input(self.branch, z, "z")
        (z,) = widen(z)
        path = path_of(self, z, context)
        if may_read(z):
            found = path.certified(z)
            report(found, self.solver, self.known_lipschitz(), z, path.evaluate)
            x, step = found.x, (found.iterations, found.error)
        else:
            x, iterations, residual = path.solve(z, self.solver.tol)
            step = iterations, residual / (1.0 - self.known_lipschitz())
        return DeferredInverse(x, (lambda call: -path.logdet(x, call)) if logdet else not_kept, (step,))

    def certified_inverse(self, z: Tensor, context: Any = None) -> CertifiedInverse:
        """Return the inverse with a bound of its error for every sample: `CertifiedInverse`; no warning.

        For a branch on stages the bound is (|z - x - g(x)| + rounding) / (1 - lipschitz), evaluated in float64, which
        is one evaluation more than the solver makes. For any other module g(x) is taken to be right to an eps, since
        nothing is known of how it rounds: there the error is an estimate. Arguments and errors as in `inverse`.
        """
        check_branch_input(self.branch, z, "z")
        (z,) = widen(z)
        return path_of(self, z, context).certified(z)

    def solve(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return x with x + g(x) = z, iterations [B] int64 and residual [B] = |z - x - g(x)|; no warning.

        But for rounding, the error |x - f^-1(z)| of a sample is at most residual / (1 - lipschitz);
        `certified_inverse` gives a bound with rounding. Arguments as in `inverse`.
        """
        check_branch_input(self.branch, z, "z")
        (z,) = widen(z)
        return path_of(self, z, context).solve(z, self.solver.tol)

    def extra_repr(self) -> str:
        """Describe the block in its repr."""
        return (
            f"estimator={self.estimator}, solver={self.solver}, lipschitz={self.lipschitz}, "
            f"path={_describe_path(self.branch)}"
        )

    def known_lipschitz(self) -> float:
        """Return the Lipschitz constant; raises ValueError if there is none."""
        if self.lipschitz is None:
            has_other = hasattr(self.branch, "inverse_lipschitz")
            value = "lipschitz=branch.inverse_lipschitz(n_dims)" if has_other else "lipschitz"
            raise ValueError(
                f"lipschitz must be known for the inverse, got None and a {type(self.branch).__name__} without "
                f"`lipschitz`; pass {value} to {type(self).__name__}."
            )
        return self.lipschitz


def _describe_path(branch: nn.Module) -> str:
    reason = why_autograd(branch)
    if reason is None and isinstance(branch, Branch):  # its stages go to ops, which need not have kernels
        if _library.HAS_EXTENSION and _library.backend() == "kernels":
            reason = why_no_kernels(next(branch.parameters()), branch.activation_names())
        else:
            reason = "the kernels are missing or switched off"
    return "kernels" if reason is None else f"autograd fallback ({reason})"
