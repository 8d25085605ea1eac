"""How a call of a residual block is computed: by the kernels on its stages, or by autograd products of its branch."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import ops
from .._autocast import autocast_dtype
from .._lowering import lowered
from .._torch_private import outside_compiled_graphs
from .._traces import split_coefficients
from .._tracing import may_read, under_transforms
from ..estimators import Exact, PowerSeries, Series
from ..ops.inverse_error import WideBranch
from ..reference import functional
from ..reference.fixed_point import Settings
from ..reference.implicit import Contraction, implicit_inverse
from ..reference.series import sample_norm
from ._branch import Branch
from ._call import Call
from ._control_variate import trace_control
from ._draws import draw
from ._exact_terms import ExactTerms, exact_terms_of
from ._explicit import explicit_branch
from ._fsdp import check_not_sharded
from ._hooks import has_backward_hooks, without_backward_hooks
from ._inputs import check_branch_output, check_takes_context
from ._inverse import CertifiedInverse, moved, rounding_of
from ._layer import SpectralLayer
from ._survey import surveyed
from ._tensors import can_take
from .spectral import normalized_together

if TYPE_CHECKING:
    from .block import InvertibleResidualBlock

# Of tol, what the residual of a module may take: the rest is for its rounding.
_RESIDUAL_SHARE = 0.5

_told: set[str] = set()


def path_of(block: InvertibleResidualBlock, x: Tensor, context: Any) -> Path:
    """Return the way of one call."""
    return (_StagesPath if why_autograd(block.branch) is None else _ModulePath)(block, x, context)


def why_autograd(branch: nn.Module) -> str | None:
    """Return why a block takes autograd products of its branch, for messages; None: it runs on the stages of it."""
    if not isinstance(branch, Branch) or not branch.on_stages:
        return f"{type(branch).__name__} is no branch of stages"
    return branch.why_no_kernels()


class Path(ABC):
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


class _StagesPath(Path):
    """One call of a block whose branch runs on stages: they are computed once."""

    def __init__(self, block: InvertibleResidualBlock, x: Tensor, context: Any) -> None:
        branch = block.branch
        assert isinstance(branch, Branch)
        self.block = block
        self.branch = branch
        self.stages = branch.as_stages(x, context)

    def forward(self, x: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        estimator = self.block.estimator
        if estimator is None or not call.logdet:
            return x + ops.branch(x, *self.stages), x.new_zeros(x.shape[0])
        if isinstance(estimator, Exact):
            return ops.residual_logdet_exact(x, *self.stages)
        exact = exact_terms_of(estimator, self.block.training, lowered(*self.stages), x)
        if call.survey is not None:
            return self._surveyed(x, call, estimator, exact)
        z, logdet, *_ = self._series(x, estimator, *draw(estimator, self.block.training, x, call), exact)
        return z, logdet

    def _series(
        self, x: Tensor, estimator: Series, probe: Tensor, coefficients: Tensor, exact: ExactTerms, info: bool = False
    ) -> Any:
        stages = self.stages
        if exact.value_only and _may_be_differentiated((x, *_tensors_of(tuple(stages)))):
            with torch.no_grad():
                value = self._series(x, estimator, probe, coefficients, exact._replace(value_only=False))[1]
            z, logdet, *found = self._series(x, estimator, probe, coefficients, ExactTerms(0, ()), info)
            return z, logdet + (value - logdet).detach(), *found
        tol, lipschitz = _stopping(self.block, estimator)
        z, logdet, *found = ops.residual_logdet(
            x,
            stages.weights,
            stages.biases,
            stages.activations,
            probe,
            coefficients,
            estimator.gradient,
            stages.parameters,
            tol,
            self.block.lipschitz if info else lipschitz,
            info,
            stages.factors,
            exact.n,
        )
        if exact.control:
            own = stages.weights, stages.biases, stages.activations
            control = trace_control(x, *own, probe, stages.parameters, stages.factors)
            if control is not None:
                logdet = logdet + coefficients[..., 0] * control
        return z, logdet, *found

    def _surveyed(self, x: Tensor, call: Call, estimator: Series, exact: ExactTerms) -> tuple[Tensor, Tensor]:
        stages = self.stages

        def traces(n: int) -> Tensor:
            return ops.jacobian_traces(
                x, stages.weights, stages.biases, stages.activations, n, stages.parameters, stages.factors
            )

        def series(probe: Tensor, coefficients: Tensor) -> Any:
            return self._series(x, estimator, probe, coefficients, exact._replace(n=0), info=True)

        return surveyed(self.block, estimator, x, call, exact.n, series, traces)

    def solve(self, z: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
        lipschitz, solver = self.block.known_lipschitz(), self.block.solver
        stages = self.stages
        return ops.residual_inverse(
            z,
            stages.weights,
            stages.biases,
            stages.activations,
            lipschitz,
            tol,
            solver.max_iterations,
            stages.parameters,
            solver.accelerate,
            stages.factors,
        )

    def certified(self, z: Tensor) -> CertifiedInverse:
        lipschitz, solver = self.block.known_lipschitz(), self.block.solver
        x, iterations, _ = self.solve(z, solver.tol)
        with torch.no_grad():
            wide = self._wide()
            error, rounding = wide.error(x, z, lipschitz)
        missed = (error > solver.tol) & (iterations < solver.max_iterations)
        if solver.refine and may_read(z) and bool(missed.any()):
            left = solver.max_iterations - int(iterations[missed].max())
            with torch.no_grad():
                value, error[missed], more = wide.of_samples(missed).refine(
                    x[missed], z[missed], lipschitz, solver.tol, left, solver.accelerate
                )
            iterations[missed] += more
            x = moved(x, missed, value)
        return CertifiedInverse(x, error, iterations, error <= solver.tol, rounding_of(x) + rounding)

    def evaluate(self, x: Tensor) -> Tensor:
        return self._wide().evaluate(x.double())

    def _wide(self) -> WideBranch:
        return WideBranch.of(*self.stages, self.branch.stage_norms())


class _ModulePath(Path):
    """One call of a block with any other module: autograd products of the module."""

    def __init__(self, block: InvertibleResidualBlock, x: Tensor, context: Any) -> None:
        check_not_sharded(block.branch)
        self.block = block
        self.tensors: tuple[Tensor, ...] = tuple(block.branch.parameters())
        self.tensors += tuple(t for t in _tensors_of(context) if t.is_floating_point())
        check_takes_context(block.branch, x, context)
        self.extra = () if context is None else (context,)
        # They are looked after and normalised once a call, not in every evaluation of the branch.
        spectral = (module for module in block.branch.modules() if isinstance(module, SpectralLayer))
        self.layers = [layer for layer in spectral if layer.is_ready]
        said = (
            f"{type(block).__name__} runs a {type(block.branch).__name__} as its branch on the autograd fallback since "
            f"{why_autograd(block.branch)}"
        )
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
        n_exact = 0 if estimator.exact_terms == "auto" else int(estimator.exact_terms)
        if call.survey is not None:
            return self._surveyed(x, call, estimator, n_exact)
        probe, coefficients = draw(estimator, self.block.training, x, call)
        n_exact = min(n_exact, coefficients.shape[-1])
        first, coefficients = split_coefficients(coefficients, n_exact)
        z, logdet, *_ = self._series(x, estimator, probe, coefficients)
        if n_exact:
            logdet = logdet + (first * self._traces(x, n_exact)).sum(-1)
        return z, logdet

    def _series(self, x: Tensor, estimator: Series, probe: Tensor, coefficients: Tensor, info: bool = False) -> Any:
        tol, lipschitz = _stopping(self.block, estimator)
        lipschitz = self.block.lipschitz if info else lipschitz
        return functional.logdet_of(
            self._g, x, probe, coefficients, estimator.gradient, self.tensors, tol, lipschitz, info
        )

    def _traces(self, x: Tensor, n: int) -> Tensor:
        units = torch.eye(x.shape[1:].numel(), dtype=x.dtype, device=x.device).view(-1, *x.shape[1:])
        return functional.traces_of(self._g, x, units, n, self.tensors)

    def _surveyed(self, x: Tensor, call: Call, estimator: Series, n_exact: int) -> tuple[Tensor, Tensor]:
        def series(probe: Tensor, coefficients: Tensor) -> Any:
            return self._series(x, estimator, probe, coefficients, info=True)

        return surveyed(self.block, estimator, x, call, n_exact, series, lambda n: self._traces(x, n))

    @outside_compiled_graphs
    def solve(self, z: Tensor, tol: float) -> tuple[Tensor, Tensor, Tensor]:
        lipschitz, solver = self.block.known_lipschitz(), self.block.solver
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
        lipschitz, tol = self.block.known_lipschitz(), self.block.solver.tol
        x, iterations, residual = self.solve(z, _RESIDUAL_SHARE * tol)
        with torch.no_grad():
            change = sample_norm((z.detach() - x).double(), z.dim() - 1)  # |g(x)| but for the residual
            eps = torch.finfo(autocast_dtype(z) or z.dtype).eps
            rounding = 1.5 * eps * change / (1.0 - lipschitz)
            error = residual.double() / (1.0 - lipschitz) + rounding
        return CertifiedInverse(x, error, iterations, error <= tol, rounding_of(x) + rounding)

    def evaluate(self, x: Tensor) -> Tensor:
        with normalized_together(self.layers):
            return self._g(x)

    def _g(self, x: Tensor) -> Tensor:
        gx: Tensor = self.block.branch(x, *self.extra)
        check_branch_output(gx, x, self.block.branch)
        return gx


def _may_be_differentiated(tensors: Sequence[Tensor]) -> bool:
    """Whether autograd, or a transform of torch.func, may ask for derivatives by these tensors."""
    return under_transforms() or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def _tensors_of(context: Any) -> list[Tensor]:
    """Return the tensors of a context: itself, or those of a tuple, list or dictionary, as of Masks."""
    if isinstance(context, dict):
        context = tuple(context.values())
    if isinstance(context, (tuple, list)):
        return [tensor for entry in context for tensor in _tensors_of(entry)]
    return [context] if isinstance(context, Tensor) else []


def _stopping(block: InvertibleResidualBlock, estimator: Series) -> tuple[float | None, float | None]:
    """Return the tolerance of the series and the constant its bound needs; none costs nothing."""
    tol = estimator.tol if isinstance(estimator, PowerSeries) else None
    return tol, None if tol is None else block.lipschitz
