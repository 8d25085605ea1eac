"""The log-determinant and the inverse of x + g(x) for any callable g, by autograd: for branches without a kernel.

`g` must act on each sample by itself. Nothing here changes `x.requires_grad`, and without a gradient to compute no
graph outlives the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from iresnet_fast import _checks
from iresnet_fast._determinants import log_abs_det
from iresnet_fast._torch_private import constant, outside_compiled_graphs
from iresnet_fast._tracing import all_are_done, under_transforms
from iresnet_fast.reference.fixed_point import inverse_of
from iresnet_fast.reference.series import (
    LogdetInfo,
    over_events,
    sample_dot,
    sample_norm,
    signed_coefficients,
    tail_factors,
)

__all__ = ["inverse_of", "logdet_exact_of", "logdet_of", "slogdet_of_rows", "traces_of"]

Map = Callable[[Tensor], Tensor]


@outside_compiled_graphs  # which hold no graph that is itself differentiated
def logdet_of(
    g: Map,
    x: Tensor,  # [B, *event]
    probe: Tensor,  # [B, *event] or [m, B, *event]
    coefficients: Tensor | Sequence[float],  # [n] or [B, n]
    gradient: str = "neumann",
    parameters: Sequence[Tensor] = (),
    tol: float | None = None,
    lipschitz: float | None = None,
    return_info: bool = False,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, LogdetInfo]:
    """Return z = x + g(x) and the power-series estimate of log|det(I + J)|, J = dg/dx.

    `gradient="series"` backpropagates through the series (i-ResNet, arXiv 1811.00995, section 3.2), its memory grows
    with n; `"neumann"` differentiates <y, J v> with the Neumann vector y constant (Residual Flows, arXiv 1906.02735,
    section 3.2), its memory does not. The value is the same series for both.

    Args:
        g: the branch, any differentiable callable.
        x: [B, *event].
        probe: v, the shape of x, or [m, *x.shape] for m probes whose estimates are averaged.
        coefficients: q_k, [n] or [B, n]; ones for a truncation. A sample's series ends with its last one that is not
            zero, the first at least.
        gradient: "neumann" or "series".
        parameters: the tensors g closes over that may need a gradient; a graph is kept only if x or one of them does.
        tol: a sample and probe stops after the first term whose tail bound is below it; None: use all terms.
        lipschitz: Lipschitz constant of g in [0, 1), for the tail bound.
        return_info: also return the norms, terms and bounds.

    Returns:
        z, logdet [B], and a LogdetInfo if asked for.

    Raises:
        ValueError: an argument has the wrong shape, device or range.
        TypeError: an argument has the wrong dtype.
    """
    _checks.check_probe(probe, x)
    coefficients = _checks.check_coefficients(coefficients, x)
    _checks.check_gradient(gradient)
    _checks.check_series_tolerance(tol, lipschitz)
    c = signed_coefficients(constant(coefficients))
    watched = tol is not None or return_info
    needs_grad = _needs_grad(x, *parameters)
    gx, vjp = _vjp_of(g, x, needs_grad)
    probe = constant(probe)
    probes = probe if probe.dim() > x.dim() else probe.unsqueeze(0)
    values, infos = [], []
    for v in probes:
        watch = _Watch(v, c, tol, lipschitz) if watched else None
        if not needs_grad:
            value = _series(vjp, v, c, watch)
        elif gradient == "series":
            value = _series(lambda w: vjp(w, create_graph=True), v, c, watch)
        else:
            value = _neumann(vjp, v, c, watch)
        values.append(value)
        if watch is not None:
            infos.append((watch.norms, watch.terms, watch.bound))
    logdet = values[0] if len(values) == 1 else torch.stack(values).mean(0)
    z = x + gx
    if not return_info:
        return z, logdet
    norms, terms, bounds = zip(*infos, strict=True)
    bound = None if lipschitz is None else torch.stack(bounds)
    return z, logdet, LogdetInfo(torch.stack(norms), torch.stack(terms), bound)


class _Watch:
    """Follows |w_k| of one probe and says which samples go on adding terms."""

    def __init__(self, v: Tensor, c: Tensor, tol: float | None, lipschitz: float | None) -> None:
        self.event_ndim = v.dim() - 1
        self.v_norm = sample_norm(v, self.event_ndim)
        self.factors = None if lipschitz is None else tail_factors(lipschitz, c.shape[0])
        self.tol = tol
        k = torch.arange(1, c.shape[0] + 1, device=c.device).unsqueeze(1)
        self.last = torch.where(c == 0.0, 1, k).amax(0)  # [1 or B]
        self.active = torch.ones_like(self.v_norm, dtype=torch.bool)
        self.norms = self.bound = torch.zeros_like(self.v_norm)
        self.terms = torch.zeros_like(self.v_norm, dtype=torch.int64)

    def after(self, k: int, w: Tensor) -> bool:
        """Record term k and return whether any sample needs the next one."""
        norm = sample_norm(constant(w), self.event_ndim)
        self.norms = torch.where(self.active, norm, self.norms)
        self.terms = torch.where(self.active, k, self.terms)
        if self.factors is not None:
            self.bound = torch.where(self.active, self.v_norm * norm * self.factors[k - 1], self.bound)
        self.active = self.active & (k < self.last)
        if self.tol is None:
            return True
        self.active = self.active & ~(self.bound <= self.tol)
        # All terms where the numbers cannot be read: those of samples that have stopped get the weight 0.
        return not all_are_done(self.active)


def _series(vjp: Callable[[Tensor], Tensor], v: Tensor, c: Tensor, watch: _Watch | None) -> Tensor:
    """Return the value [B] of the series, differentiable if the products are."""
    n, event_ndim = c.shape[0], v.dim() - 1
    w, value = v, v.new_zeros(v.shape[0])
    for k in range(1, n + 1):
        w = vjp(w)
        term = c[k - 1] / k * sample_dot(w, v, event_ndim)
        value = value + (term if watch is None else torch.where(watch.active, term, 0.0))
        if watch is not None and not watch.after(k, w):
            break
    return value


def _neumann(vjp: Callable[..., Tensor], v: Tensor, c: Tensor, watch: _Watch | None) -> Tensor:
    """Return the value [B] of the series with the gradient of s = <y, J v>, y = sum_k c_k w_k constant."""
    n, event_ndim = c.shape[0], v.dim() - 1
    w, y = v, over_events(c[0], v) * v
    value = total = v.new_zeros(v.shape[0])
    # s = sum_{k=1..n} c_{k-1} <w_k, v> holds the n-th term of the value: w_n itself is needed only to watch its norm.
    for k in range(1, n if watch is None else n + 1):
        w = vjp(w)
        term = c[k - 1] * sample_dot(w, v, event_ndim)
        term = term if watch is None else torch.where(watch.active, term, 0.0)
        value, total = value + term / k, total + term
        if (watch is not None and not watch.after(k, w)) or k == n:
            break
        y = torch.addcmul(y, over_events(c[k] if watch is None else torch.where(watch.active, c[k], 0.0), v), w)
    s = sample_dot(vjp(y, create_graph=True), v, event_ndim)
    if watch is None:
        value = value + (constant(s) - total) / n
    return value + (s - constant(s))


@outside_compiled_graphs  # as above
def logdet_exact_of(g: Map, x: Tensor, parameters: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
    """Return z = x + g(x) and log|det(I + J)| [B] from the full Jacobian of every sample.

    d products for an event of size d. Differentiable; `parameters` as in `logdet_of`.
    """
    needs_grad = _needs_grad(x, *parameters)
    gx, vjp = _vjp_of(g, x, needs_grad)
    # Nothing here is written in place: torch.func.linearize drops what is only written, and leaves zeros behind.
    basis = torch.eye(math.prod(x.shape[1:]), dtype=x.dtype, device=x.device).view(-1, 1, *x.shape[1:])
    rows = [vjp(unit.expand(x.shape), create_graph=needs_grad).flatten(1) for unit in basis]
    return x + gx, slogdet_of_rows(torch.stack(rows, 1))


def traces_of(g: Map, x: Tensor, probes: Tensor, n_terms: int, parameters: Sequence[Tensor] = ()) -> Tensor:
    """Return sum_j <v_j, J^k v_j>, k = 1 .. n_terms, [B, n_terms]: traces, if the probes are made for that.

    Differentiable; `parameters` as in `logdet_of`.

    Args:
        g: as in `logdet_of`.
        x: [B, *event].
        probes: v_j [m, *event].
        n_terms: how many.
        parameters: likewise.
    """
    needs_grad = _needs_grad(x, *parameters)
    vjp = _vjp_of(g, x, needs_grad)[1]
    totals = [x.new_zeros(x.shape[0])] * n_terms
    for v in probes:
        w = v.expand(x.shape)
        for k in range(n_terms):
            w = vjp(w, create_graph=needs_grad)
            totals[k] = totals[k] + sample_dot(w, v.expand(x.shape), x.dim() - 1)
    return torch.stack(totals, 1)


def slogdet_of_rows(jacobian: Tensor) -> Tensor:
    """Return log|det(I + J)| [B] of J [B, d, d]."""
    dtype = torch.promote_types(jacobian.dtype, torch.float32)  # there is no slogdet of half precision
    full = torch.eye(jacobian.shape[-1], dtype=dtype, device=jacobian.device) + jacobian.to(dtype)
    return log_abs_det(full).to(jacobian.dtype)


def _needs_grad(*tensors: Tensor) -> bool:
    return under_transforms() or (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))


def _vjp_of(g: Map, x: Tensor, needs_grad: bool) -> tuple[Tensor, Callable[..., Tensor]]:
    """Return g(x) and the map w -> J^T w, reusable; g(x) carries a graph only if `needs_grad`."""
    if torch.is_inference_mode_enabled() or under_transforms():
        # Autograd cannot save inference tensors inside g, and a transform allows no requires_grad_; torch.func.vjp can.
        with _outside_inference_mode():
            value, pullback, *_ = torch.func.vjp(g, x)

        def pull(w: Tensor, create_graph: bool = False) -> Tensor:
            with _outside_inference_mode():
                product: Tensor = pullback(w)[0]
            return product if create_graph else constant(product)

        return value, pull
    with torch.enable_grad():
        # A fresh alias of x: the caller's x keeps its flag, and a path from x to what g closes over stays out of J.
        inner = x.view_as(x) if needs_grad and x.requires_grad else _leaf(x)
        gx = g(inner)

    def vjp(w: Tensor, create_graph: bool = False) -> Tensor:
        if not gx.requires_grad:
            return torch.zeros_like(w)
        product: Tensor = torch.autograd.grad(
            gx, inner, w, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )[0]
        return product

    return (gx if needs_grad else gx.detach()), vjp


@contextmanager
def _outside_inference_mode() -> Iterator[None]:
    """Leave inference mode, and nothing else, for torch.func.vjp.

    That of torch 2.11 does not leave the mode by itself: nothing is recorded, and every product comes out as zero.
    """
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():  # leaving the mode would turn gradients on
        yield


def _leaf(x: Tensor) -> Tensor:
    return (x.clone() if x.is_inference() else x.detach()).requires_grad_()
