"""The log-determinant of a residual block by its power series, on the compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks, _library, reference
from .._autocast import widen
from .._autograd import apply, differentiable_gradients, wants_graph
from .._backend import kernels_serve
from .._inputs import check_tensor
from .._packing import unpack
from .._precision import precision_of
from .._stages import Stages as BranchStages
from .._torch_private import by_vmap
from .._traces import Places, maps_for_kernels, maps_of, places_of, split_coefficients
from .._tracing import constants, under_transforms
from ..reference import LogdetInfo
from ..reference.jacobian_traces import traces_of_maps
from ..reference.series import sample_norm, tail_factors
from ._stages import Stages, apart, is_per_sample, raw, split_gradients
from ._transformed import Kernel, transformed

__all__ = ["LogdetInfo", "residual_logdet"]

_Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]  # z, logdet, Neumann vectors, norms, terms, kept


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

    Args:
        x: [B, d] or [B, C, H, W].
        weights: L tensors, [out, in] (dense) or [out, in, k, k] (convolution, odd k, stride 1, zero padding k // 2).
        biases: L tensors, [out], [B, out] or, for images, [B, out, H, W], or None each.
        activations: L names, each applied before its linear map.
        probe: v, the shape of x, or [m, *x.shape] for m probes whose estimates are averaged.
        coefficients: q_k, [n] or [B, n]; ones for a truncation. A sample's series ends with its last one that is not
            zero, the first at least.
        gradient: "neumann": of <y, J v> with y = sum_{k<n} (-1)^k q_{k+1} w_k constant, memory independent of n. With
            one probe, no tol and no info, activations and tangents are kept for the backward pass; on a GPU only if
            they are at most 1/256 of its memory.
            "series": the exact gradient of the value, from all n terms; memory n events per sample.
        parameters: None, or L entries, each None or the activation's learnable scalar.
        tol: a sample and probe stops after the first term k with |v| |w_k| sum_j lipschitz^j / (k + j) <= tol.
        lipschitz: Lipschitz constant of the branch in [0, 1), for the tail bound.
        return_info: also return a LogdetInfo.
        factors: None, or L entries, each None or a tensor [B, in], for images also [B, in, H, W], that multiplies what
            the activation returns: masks, multiplicative contexts.
        exact_terms: 0, 1 or 2: in so many first terms tr J^k itself takes the place of <w_k, v>, and of its gradient.
            Costs little where a closed form is known, else as `jacobian_traces`.

    Returns:
        z, logdet [B], and a LogdetInfo if asked for. Differentiable in x and all tensors of the stages (a second time
        through the reference).

    Raises:
        ValueError: a shape, device, name or range does not fit.
        TypeError: a dtype differs from that of x.
    """
    check_tensor(x)
    x, weights, biases, parameters, factors, probe = widen(x, weights, biases, parameters, factors, probe)
    _checks.check_branch(x, weights, biases, activations, parameters, factors)
    looked_at = under_transforms()
    _checks.check_exact_terms(exact_terms, 0)
    # Where samples stop at a tolerance, value and derivative must stop at the same term.
    if not kernels_serve(x, activations) or (
        looked_at and (tol is not None or return_info or exact_terms > 0 or is_per_sample(biases, factors))
    ):
        return reference.residual_logdet(
            x,
            weights,
            biases,
            activations,
            probe,
            coefficients,
            gradient,
            parameters,
            tol,
            lipschitz,
            return_info,
            factors,
            exact_terms,
        )
    _checks.check_probe(probe, x)
    _checks.check_gradient(gradient)
    _checks.check_series_tolerance(tol, lipschitz)
    q = _checks.check_coefficients(coefficients, x)
    v = probe if probe.dim() > x.dim() else probe.unsqueeze(0)
    tail = None if lipschitz is None else constants(tail_factors(lipschitz, q.shape[-1]), x)
    stages = Stages.of(x, weights, biases, activations, parameters, factors)
    places: Places = ()
    maps: list[Tensor] = []
    traces: Tensor | None = None
    n_exact = min(exact_terms, q.shape[-1])
    if n_exact > 0:
        own_weights, _, _, own_factors = apart(stages.tensors)
        places = places_of(own_weights, stages.activations, own_factors)[:n_exact]
        if len(places) == n_exact:
            places, maps = maps_for_kernels(places, own_weights, x.shape[2:], maps_of)
        else:
            from .jacobian_traces import jacobian_traces  # made of calls of this op

            places = ()
            first, q = split_coefficients(q, n_exact)
            traces = jacobian_traces(x, weights, biases, activations, n_exact, parameters, factors)
    precision = precision_of(x)
    if looked_at:
        z, logdet = transformed(
            _kernel(stages.activations, gradient, precision), v, q.expand(x.shape[0], -1), x, *stages.tensors
        )
        return z, logdet
    if stages.need_gradient(x, *maps):
        # A plain training step keeps activations and tangents for its backward pass; then |w_n| is never computed. (A
        # compiled graph would have to know how much is kept, which depends on threads, instruction set and GPU.)
        plain = gradient == "neumann" and v.shape[0] == 1 and tol is None and not return_info
        keep = plain and not torch.compiler.is_compiling()
        settings = _Settings(stages.activations, places, gradient, tol, keep, precision)
        outputs: _Outputs = apply(_ResidualLogdet, settings, tail, v, q, x, *stages.tensors, *maps)
    else:
        settings = _Settings(stages.activations, places, None, tol, False, precision)
        outputs = _forward(settings, tail, v, q, x, (*stages.tensors, *maps))
    z, logdet, _, norms, terms, _ = outputs
    if traces is not None:
        logdet = logdet + (first * traces).sum(-1)
    if not return_info:
        return z, logdet
    bound = None if tail is None else sample_norm(v, x.dim() - 1) * norms * tail[(terms - 1).clamp(min=0)]
    return z, logdet, LogdetInfo(norms, terms, bound)


def _kernel(activations: tuple[str, ...], gradient: str, precision: int) -> Kernel:
    """Return the series, of probes [m, B, *event], coefficients [B, n] and x, as transforms take it."""

    def value(v: Tensor, q: Tensor, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return _forward(_Settings(activations, (), None, None, False, precision), None, v, q, x, tensors)[:2]

    def twin(v: Tensor, q: Tensor, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases, betas, factors = apart(tensors)
        stages = (weights, biases, activations)
        return reference.residual_logdet(x, *stages, v, q, gradient, betas, factors=factors)[:2]

    return Kernel(value, twin, axes=(1, 0, 0))


class _Settings(NamedTuple):
    activations: tuple[str, ...]
    places: Places  # of the traces whose maps follow the tensors of the stages
    gradient: str | None  # None: nobody asks for one
    tol: float | None
    keep: bool
    precision: int

    @property
    def stages(self) -> list[int]:
        """The stages of the traces as the raw ops take them."""
        return [stage for place in self.places for stage in place]

    def apart(self, tensors: Sequence[Tensor | None]) -> tuple[Sequence[Tensor | None], list[Tensor]]:
        """Return the tensors of the stages, and the maps."""
        n = 4 * len(self.activations)
        return tensors[:n], list(tensors[n:])  # type: ignore[arg-type]  # no map is None


def _forward(
    settings: _Settings,
    factors: Tensor | None,
    v: Tensor,
    q: Tensor,
    x: Tensor,
    tensors: Sequence[Tensor | None],
) -> _Outputs:
    own, maps = settings.apart(tensors)
    tol = settings.tol
    result: _Outputs = torch.ops.iresnet_fast.residual_logdet(
        x,
        *raw(settings.activations, own),
        v,
        q,
        maps,
        settings.stages,
        None if tol is None else factors,
        tol or 0.0,
        False,
        settings.gradient == "neumann",
        settings.keep,
        settings.precision,
    )
    return result


class _ResidualLogdet(torch.autograd.Function):
    @staticmethod
    def forward(
        settings: _Settings, factors: Tensor | None, v: Tensor, q: Tensor, x: Tensor, *tensors: Tensor | None
    ) -> _Outputs:
        return _forward(settings, factors, v, q, x, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: _Outputs) -> None:
        ctx.settings, _, v, q, x, *tensors = inputs
        y, norms, terms, kept = output[2:]
        ctx.mark_non_differentiable(y, norms, terms, kept)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(v, q, y, terms, kept, x, *tensors)

    @staticmethod
    @by_vmap
    def backward(ctx: Any, grad_z: Tensor | None, grad_logdet: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        v, q, y, terms, kept, x, *tensors = ctx.saved_tensors
        settings: _Settings = ctx.settings
        if grad_z is None and grad_logdet is None:
            return (None,) * (5 + len(tensors))
        if wants_graph():

            def series_of(x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
                return _probe_by_probe(x, tensors, settings, v, q, terms)

            gradients = differentiable_gradients(
                series_of, (x, *tensors), (grad_z, grad_logdet), ctx.needs_input_grad[4:]
            )
            return None, None, None, None, *gradients
        own, maps = settings.apart(tensors)
        branch = raw(settings.activations, own)
        tangents = cotangents = weight = None
        if grad_logdet is None:
            maps, places = [], []
        else:
            places = settings.stages
            tangents, cotangents, weight = v, y, grad_logdet
            if settings.gradient == "series":
                rest = split_coefficients(q, len(maps))[1] if maps else q
                tangents, cotangents = _series_pairs(branch, x, v, rest, terms, settings.precision)
                # The kernel averages over pairs, here of each term.
                cotangents = cotangents * (tangents.shape[0] / v.shape[0])
        grad_x, packed = torch.ops.iresnet_fast.branch_backward(
            x,
            *branch,
            grad_z,
            tangents,
            cotangents,
            weight,
            maps,
            places,
            q if maps else None,
            grad_z is not None,
            ctx.needs_input_grad[4],
            kept,
            settings.precision,
        )
        grad_x = grad_x if ctx.needs_input_grad[4] else None
        n_maps = sum(made.numel() for made in maps)
        of_maps = unpack(packed[packed.numel() - n_maps :], maps) if maps else [None] * len(settings.places)
        of_stages = split_gradients(packed[: packed.numel() - n_maps], own)
        return None, None, None, None, grad_x, *of_stages, *of_maps


def _probe_by_probe(
    x: Tensor, tensors: Sequence[Tensor | None], settings: _Settings, v: Tensor, q: Tensor, terms: Tensor
) -> tuple[Tensor, Tensor]:
    """Return z and logdet by the reference, with the terms that each probe and sample really used."""
    own, maps = settings.apart(tensors)
    weights, biases, betas, factors = apart(own)
    first, rest = split_coefficients(q, len(maps))
    k = torch.arange(1, q.shape[-1] + 1, device=q.device)
    values = []
    for probe, used in zip(v, terms, strict=True):
        coefficients = torch.where(k <= used[:, None], rest, 0.0)
        z, value = reference.residual_logdet(
            x,
            weights,
            biases,
            settings.activations,
            probe,
            coefficients,
            settings.gradient or "neumann",
            betas,
            factors=factors,
        )[:2]
        values.append(value)
    logdet = torch.stack(values).mean(0)
    if maps:
        stages = BranchStages(list(weights), list(biases), settings.activations, list(betas), list(factors))
        logdet = logdet + (first * torch.stack(traces_of_maps(x, stages, settings.places, maps), 1)).sum(-1)
    return z, logdet


def _series_pairs(branch: Any, x: Tensor, v: Tensor, q: Tensor, terms: Tensor, precision: int) -> tuple[Tensor, Tensor]:
    """Return R_i, l_i, stacked over i and probes: the gradient of the series is that of sum_i <l_i, J R_i>.

    l_i = (J^T)^i v, r_j = J^j v, R_i = sum_j c_{i+j+1} r_j with c_k = (-1)^(k+1) q_k / k up to the term used.
    """
    n = q.shape[-1]
    k = torch.arange(1, n + 1, device=x.device)
    c = q * (2.0 * (k % 2) - 1.0) / k  # [n] or [B, n]
    tangents, cotangents = [], []
    jacobian_powers = torch.ops.iresnet_fast.jacobian_powers
    for probe, used in zip(v, terms, strict=True):
        left, right = (
            torch.cat([probe[None], jacobian_powers(x, *branch, probe, n - 1, transpose, precision)])
            for transpose in (True, False)
        )
        weights = torch.where(k <= used[:, None], c, 0.0)  # [B, n]
        flat = right.flatten(2)
        for i in range(n):
            with torch.autocast(x.device.type, enabled=False):
                combined = torch.einsum("bj,jbd->bd", weights[:, i:], flat[: n - i])
            tangents.append(combined.view(x.shape))
            cotangents.append(left[i])
    return torch.stack(tangents), torch.stack(cotangents)


@_library.register_fake("residual_logdet")
def _residual_logdet_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    probe: Tensor,
    coefficients: Tensor,
    maps: list[Tensor],
    stages: list[int],
    tail: Tensor | None,
    tolerance: float,
    relative: bool,
    neumann: bool,
    keep: bool,
    precision: int,
) -> _Outputs:
    rows = (probe.shape[0], x.shape[0])
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape[0]),
        x.new_empty(probe.shape if neumann else (0,)),
        x.new_empty(rows),
        x.new_empty(rows, dtype=torch.int64),
        x.new_empty(torch.library.get_ctx().new_dynamic_size() if keep else 0),
    )


@_library.register_fake("jacobian_powers")
def _jacobian_powers_fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    betas: list[Tensor],
    factors: list[Tensor],
    activations: list[int],
    constants: list[float],
    start: Tensor,
    count: int,
    transpose: bool,
    precision: int,
) -> Tensor:
    return x.new_empty((count, *x.shape))
