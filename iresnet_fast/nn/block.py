"""The invertible residual block z = x + g(x) with its log-determinant and its inverse."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import _checks, _library, ops
from .._autocast import widen
from .._backend import why_no_kernels
from .._inputs import check_module, described
from .._torch_private import outside_compiled_graphs
from .._tracing import may_read, under_transforms
from ..estimators import Exact, PowerSeries, RussianRoulette
from ..ops.inverse_error import WideBranch
from ..reference import functional
from ..reference.fixed_point import Settings
from ..reference.implicit import Contraction, implicit_inverse
from ..reference.series import sample_norm
from ..solvers import FixedPoint
from ._call import Call, DeferredInverse, TakesCall
from ._explicit import explicit_branch
from ._fsdp import check_not_sharded
from ._hooks import has_backward_hooks, without_backward_hooks
from ._inputs import check_branch_input, check_branch_output, check_takes_context
from ._inverse import CertifiedInverse, moved, report, rounding_of
from ._layer import SpectralLayer
from ._tensors import can_take
from ._transform import takes_context
from .branch import ResidualBranch
from .spectral import normalized_together

Estimator = PowerSeries | RussianRoulette | Exact

# Of tol, what the residual of a module may take: the rest is for its rounding.
_RESIDUAL_SHARE = 0.5

_told: set[str] = set()


class InvertibleResidualBlock(TakesCall):
    """z = x + g(x) (i-ResNet, arXiv 1811.00995), with log|det(I + J)|, J = dg/dx, and the inverse by fixed point.

    A ResidualBranch runs on the compiled kernels. Any other module runs on autograd products of itself: the same
    numbers, slower; the repr and one warning say so. It must act on each sample by itself.

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
            coeffs = [layer.coeff for layer in branch.layers] if isinstance(branch, ResidualBranch) else None
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
            context: passed on to a branch that is not a ResidualBranch, if not None.
            call: of the container, if this is a part of one: then the bits are those of its input.

        Raises:
            ValueError: a shape does not fit, or a ResidualBranch got a context.
            TypeError: a dtype does not fit.
        """
        check_branch_input(self.branch, x, "x")
        (x,) = widen(x)
        return self._path(x, context).forward(x, call or Call.of(x))

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x with x + g(x) = z, and the log-determinant of the inverse [B], minus that of forward at x.

        Differentiable: x by the implicit function theorem. Each sample is within the solver's tol of the true inverse,
        rounding counted, if `lipschitz` bounds the branch; if one is not, a warning says so, or an error if the
        solver asks for one. While a graph is captured or compiled, or inside torch.func, nobody can look.

        Args:
            z: [B, *event].
            context: as in `forward`.

        Raises:
            ValueError: the Lipschitz constant is not known, a shape does not fit, or a ResidualBranch got a context.
            TypeError: a dtype does not fit.
            RuntimeError: a sample is not within tol, and the solver's on_failure is "raise".
        """
        found = self.deferred_inverse(z, context)
        return found.x, found.logdet(Call.of(found.x))

    def deferred_inverse(self, z: Tensor, context: Any = None) -> DeferredInverse:
        """Return x, and its log-determinant for whoever wants it; arguments, warnings and errors as in `inverse`."""
        check_branch_input(self.branch, z, "z")
        (z,) = widen(z)
        path = self._path(z, context)
        if may_read(z):
            found = path.certified(z)
            report(found, self.solver, self._known_lipschitz(), z, path.evaluate)
            x, step = found.x, (found.iterations, found.error)
        else:
            x, iterations, residual = path.solve(z, self.solver.tol)
            step = iterations, residual / (1.0 - self._known_lipschitz())
        return DeferredInverse(x, lambda call: -path.logdet(x, call), (step,))

    def certified_inverse(self, z: Tensor, context: Any = None) -> CertifiedInverse:
        """Return the inverse with a bound of its error for every sample: `CertifiedInverse`; no warning.

        For a ResidualBranch the bound is (|z - x - g(x)| + rounding) / (1 - lipschitz), evaluated in float64, which is
        one evaluation more than the solver makes. For any other module g(x) is taken to be right to an eps, since
        nothing is known of how it rounds: there the error is an estimate. Arguments and errors as in `inverse`.
        """
        check_branch_input(self.branch, z, "z")
        (z,) = widen(z)
        return self._path(z, context).certified(z)

    def solve(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return x with x + g(x) = z, iterations [B] int64 and residual [B] = |z - x - g(x)|; no warning.

        But for rounding, the error |x - f^-1(z)| of a sample is at most residual / (1 - lipschitz);
        `certified_inverse` gives a bound with rounding. Arguments as in `inverse`.
        """
        check_branch_input(self.branch, z, "z")
        (z,) = widen(z)
        return self._path(z, context).solve(z, self.solver.tol)

    def extra_repr(self) -> str:
        """Describe the block in its repr."""
        return (
            f"estimator={self.estimator}, solver={self.solver}, lipschitz={self.lipschitz}, "
            f"path={_describe_path(self.branch)}"
        )

    def _path(self, x: Tensor, context: Any) -> _Path:
        on_kernels = isinstance(self.branch, ResidualBranch) and self.branch.why_no_kernels() is None
        return (_StagesPath if on_kernels else _ModulePath)(self, x, context)

    def _known_lipschitz(self) -> float:
        if self.lipschitz is None:
            raise ValueError(
                f"lipschitz must be known for the inverse, got None and a {type(self.branch).__name__} without "
                f"`lipschitz`; pass lipschitz to {type(self).__name__}."
            )
        return self.lipschitz


class _Path(ABC):
    """One call of a block."""

    block: InvertibleResidualBlock

    @abstractmethod
    def forward(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Return z and the log-determinant [B]."""

    @abstractmethod
    def solve(self, z: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return x, iterations and residual."""

    @abstractmethod
    def certified(self, z: Tensor) -> CertifiedInverse:
        """Return x with the error of every sample."""

    @abstractmethod
    def evaluate(self, x: Tensor) -> Tensor:
        """Return g(x), as exactly as can be."""

    def logdet(self, x: Tensor, call: Call) -> Tensor:
        """Return the log-determinant [B] alone."""
        return x.new_zeros(x.shape[0]) if self.block.estimator is None else self.forward(x, call)[1]


class _StagesPath(_Path):
    """One call of a block whose branch is a ResidualBranch: its stages, computed once."""

    def __init__(self, block: InvertibleResidualBlock, x: Tensor, context: Any) -> None:
        branch = block.branch
        assert isinstance(branch, ResidualBranch)
        branch.check_context(context)
        self.block = block
        self.weights, self.biases, self.activations, self.parameters = branch.stages(x.shape[2:])
        # The last layer of a branch that is normalised as a whole may exceed its coeff.
        coeffs = [cast(SpectralLayer, layer).coeff for layer in branch.layers]
        self.norms = coeffs if branch.normalize == "layers" else None

    def forward(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        estimator = self.block.estimator
        stages = (self.weights, self.biases, self.activations)
        if estimator is None or not call.logdet:
            return x + ops.branch(x, *stages, self.parameters), x.new_zeros(x.shape[0])
        if isinstance(estimator, Exact):
            return ops.residual_logdet_exact(x, *stages, self.parameters)
        probe, coefficients = _draw(self.block, estimator, x, call)
        tol, lipschitz = _stopping(self.block, estimator)
        z, logdet, *_ = ops.residual_logdet(
            x, *stages, probe, coefficients, estimator.gradient, self.parameters, tol, lipschitz
        )
        return z, logdet

    def solve(self, z: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
        lipschitz, solver = self.block._known_lipschitz(), self.block.solver
        return ops.residual_inverse(
            z,
            self.weights,
            self.biases,
            self.activations,
            lipschitz,
            tol,
            solver.max_iterations,
            self.parameters,
            solver.accelerate,
        )

    def certified(self, z: Tensor) -> CertifiedInverse:
        lipschitz, solver = self.block._known_lipschitz(), self.block.solver
        x, iterations, _ = self.solve(z, solver.tol)
        with torch.no_grad():
            wide = self._wide()
            error, rounding = wide.error(x, z, lipschitz)
        missed = (error > solver.tol) & (iterations < solver.max_iterations)
        if solver.refine and may_read(z) and bool(missed.any()):
            left = solver.max_iterations - int(iterations[missed].max())
            with torch.no_grad():
                value, error[missed], more = wide.refine(
                    x[missed], z[missed], lipschitz, solver.tol, left, solver.accelerate
                )
            iterations[missed] += more
            x = moved(x, missed, value)
        return CertifiedInverse(x, error, iterations, error <= solver.tol, rounding_of(x) + rounding)

    def evaluate(self, x: Tensor) -> Tensor:
        return self._wide().evaluate(x.double())

    def _wide(self) -> WideBranch:
        return WideBranch.of(self.weights, self.biases, self.activations, self.parameters, self.norms)


class _ModulePath(_Path):
    """One call of a block with any other module: autograd products of the module."""

    def __init__(self, block: InvertibleResidualBlock, x: Tensor, context: Any) -> None:
        check_not_sharded(block.branch)
        self.block = block
        self.tensors: tuple[Tensor, ...] = tuple(block.branch.parameters())
        if isinstance(context, Tensor) and context.is_floating_point():
            self.tensors += (context,)
        check_takes_context(block.branch, x, context)
        self.extra = () if context is None else (context,)
        # They are looked after and normalised once a call, not in every evaluation of the branch.
        spectral = (module for module in block.branch.modules() if isinstance(module, SpectralLayer))
        self.layers = [layer for layer in spectral if layer.is_ready]
        said = f"{type(block).__name__} runs a {type(block.branch).__name__} as its branch on the autograd fallback"
        if isinstance(block.branch, ResidualBranch):
            said += f" since {block.branch.why_no_kernels()}"
        if not torch.compiler.is_compiling() and said not in _told:
            _told.add(said)
            warnings.warn(f"iresnet_fast: {said}, slower than the kernels of a ResidualBranch.", stacklevel=4)

    @outside_compiled_graphs  # which hold no graph that is itself differentiated
    def forward(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        with normalized_together(self.layers):
            if not has_backward_hooks(self.block.branch):
                return self._forward(x, call)
            with without_backward_hooks():
                logdet = self._forward(x, call)[1]
            return x + self._g(x), logdet

    def _forward(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        estimator = self.block.estimator
        if estimator is None or not call.logdet:
            return x + self._g(x), x.new_zeros(x.shape[0])
        if isinstance(estimator, Exact):
            return functional.logdet_exact_of(self._g, x, self.tensors)
        probe, coefficients = _draw(self.block, estimator, x, call)
        tol, lipschitz = _stopping(self.block, estimator)
        z, logdet, *_ = functional.logdet_of(
            self._g, x, probe, coefficients, estimator.gradient, self.tensors, tol, lipschitz
        )
        return z, logdet

    @outside_compiled_graphs
    def solve(self, z: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
        lipschitz, solver = self.block._known_lipschitz(), self.block.solver
        if under_transforms():
            layers = [layer for layer in self.layers if can_take(layer)]
            g, tensors = explicit_branch(self.block.branch, layers, *(self.extra or (None,)))
            settings = Settings(lipschitz, tol, solver.max_iterations, False, solver.accelerate)
            return implicit_inverse(Contraction(g, settings), z, *tensors)
        with normalized_together(self.layers), without_backward_hooks():
            return functional.inverse_of(
                self._g, z, lipschitz, tol, solver.max_iterations, self.tensors, accelerate=solver.accelerate
            )

    def certified(self, z: Tensor) -> CertifiedInverse:
        lipschitz, tol = self.block._known_lipschitz(), self.block.solver.tol
        x, iterations, residual = self.solve(z, _RESIDUAL_SHARE * tol)
        with torch.no_grad():
            change = sample_norm((z.detach() - x).double(), z.dim() - 1)  # |g(x)| but for the residual
            rounding = 1.5 * torch.finfo(z.dtype).eps * change / (1.0 - lipschitz)
            error = residual.double() / (1.0 - lipschitz) + rounding
        return CertifiedInverse(x, error, iterations, error <= tol, rounding_of(x) + rounding)

    def evaluate(self, x: Tensor) -> Tensor:
        with normalized_together(self.layers):
            return self._g(x)

    def _g(self, x: Tensor) -> Tensor:
        gx: Tensor = self.block.branch(x, *self.extra)
        check_branch_output(gx, x, self.block.branch)
        return gx


def _draw(
    block: InvertibleResidualBlock, estimator: PowerSeries | RussianRoulette, x: Tensor, call: Call
) -> tuple[Tensor, Tensor]:
    """Return the probe and the coefficients of the series."""
    return estimator.draw(x, True) if block.training else estimator.draw(x, False, keys=call.keys())


def _stopping(
    block: InvertibleResidualBlock, estimator: PowerSeries | RussianRoulette
) -> tuple[float | None, float | None]:
    """Return the tolerance of the series and the constant its bound needs; none costs nothing."""
    tol = estimator.tol if isinstance(estimator, PowerSeries) else None
    return tol, None if tol is None else block.lipschitz


def _describe_path(branch: nn.Module) -> str:
    if not isinstance(branch, ResidualBranch):
        return f"autograd fallback ({type(branch).__name__} is not a ResidualBranch)"
    if (reason := branch.why_no_kernels()) is not None:
        return f"autograd fallback ({reason})"
    if not _library.HAS_EXTENSION or _library.backend() != "kernels":
        return "autograd fallback (the kernels are missing or switched off)"
    reason = why_no_kernels(next(branch.parameters()), branch.activations)
    return "kernels" if reason is None else f"autograd fallback ({reason})"
