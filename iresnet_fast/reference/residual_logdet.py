"""The log-determinant of a residual block by its power series, on autograd products of the branch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast._traces import split_coefficients
from iresnet_fast.reference.branch import evaluate
from iresnet_fast.reference.functional import logdet_of
from iresnet_fast.reference.jacobian_traces import jacobian_traces
from iresnet_fast.reference.series import LogdetInfo

__all__ = ["LogdetInfo", "residual_logdet"]


def residual_logdet(
    x: Tensor,  # [B, d] or [B, C, H, W]
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activations: Sequence[str],
    probe: Tensor,
    coefficients: Tensor | Sequence[float],
    gradient: str = "neumann",
    parameters: Sequence[Tensor | None] | None = None,
    tol: float | None = None,
    lipschitz: float | None = None,
    return_info: bool = False,
    factors: Sequence[Tensor | None] | None = None,
    exact_terms: int = 0,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, LogdetInfo]:
    """Return z = x + g(x) and the estimate of log|det(I + J)|, J = dg/dx, per sample.

    Value: mean over probes v of sum_k q_k (-1)^(k+1) / k <w_k, v>, w_k = (J^T)^k v, k = 1 .. n (i-ResNet, arXiv
    1811.00995, section 3.2; roulette weights: Residual Flows, arXiv 1906.02735, section 3.1).

    `gradient="series"` keeps the graph of all n products, `"neumann"` that of one.

    Arguments, results and errors: those of `iresnet_fast.ops.residual_logdet`.
    """
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    _checks.check_exact_terms(exact_terms, 0)
    q = _checks.check_coefficients(coefficients, x)
    n_exact = min(exact_terms, q.shape[-1])
    inputs = [t for t in (*weights, *biases, *(parameters or ()), *(factors or ())) if t is not None]
    first, rest = split_coefficients(q, n_exact)
    z, logdet, *info = logdet_of(
        lambda a: evaluate(a, weights, biases, activations, parameters, factors),
        x,
        probe,
        rest if n_exact else q,
        gradient,
        inputs,
        tol,
        lipschitz,
        return_info,
    )
    if n_exact:
        traces = jacobian_traces(x, weights, biases, activations, n_exact, parameters, factors)
        logdet = logdet + (first * traces).sum(-1)
    return (z, logdet, info[0]) if return_info else (z, logdet)
