"""The bounds of every branch of a model, from its weights as they are used."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .. import activations as registry
from .._inputs import check_module
from ..geometry import ConvGeometry
from ..models._plain import UnboundedBlock
from ..models.flow import IResNetFlow
from ..nn import (
    Activation,
    ConditionalBranch,
    DenseBranch,
    InducedNormBranch,
    InducedNormConv2d,
    InducedNormLinear,
    InvertibleResidualBlock,
    MaskedBranch,
    ParametrizedBranch,
    ResidualBranch,
    SpectralConv2d,
    SpectralLinear,
    induced_norm,
)
from ..nn._branch import Branch
from ..nn._claims import geometry_of
from ..nn._hooks import sees_activations
from ..nn._layer import plain
from ..nn._tensors import bias_of, gathered, weight_of
from ..nn.spectral import effective_weights
from ._operators import Operator
from ._rounding import UNIT, gamma, product_up
from ._secants import Layer, steepest_secant
from .bounds import Bounds, norm_bounds
from .branch import branch_bound
from .certificate import BranchCertificate, Certificate

Block = InvertibleResidualBlock | UnboundedBlock


def certify_model(model: nn.Module, n_steps: int) -> Certificate:
    """Return the bounds of all blocks; `n_steps` as for `branch_bound`."""
    check_module(model)
    kinds = (InvertibleResidualBlock, UnboundedBlock)
    blocks = [(name or "the block", module) for name, module in model.named_modules() if isinstance(module, kinds)]
    if not blocks and not isinstance(model, IResNetFlow):  # a flow may do without
        raise ValueError(
            f"model must have an InvertibleResidualBlock in it, got a {type(model).__name__} without one; put a branch "
            f"into a block, or bound weights by norm_bounds and branch_bound."
        )
    with torch.inference_mode(False), torch.no_grad():
        return Certificate(tuple(_block(name, block, n_steps) for name, block in blocks))


class _Stages(NamedTuple):
    """The stages of a branch, an activation followed by a layer each, as they are used."""

    weights: list[Tensor]
    geometries: list[ConvGeometry | None]
    biases: list[Tensor | None]
    activations: list[str]
    parameters: list[Tensor | None]


def _block(name: str, block: Block, n_steps: int) -> BranchCertificate:
    branch = block.branch
    declared = block.lipschitz if isinstance(block, InvertibleResidualBlock) else None
    # What hooks and forwards of their own do to activations, nobody can bound.
    if isinstance(block, UnboundedBlock):
        stages = None if any(map(sees_activations, block.branch.modules())) else _plain_stages(block)
    elif not isinstance(branch, Branch) or branch.beyond_formula() is not None:
        stages = None
    else:
        while isinstance(branch, MaskedBranch):  # masks of at most one make no map larger
            branch = branch.branch
        if isinstance(branch, InducedNormBranch):
            return _induced(name, block, branch, n_steps)
        stages = _stages_of(branch)
    if stages is None:
        constant = math.inf if declared is None else declared
        return BranchCertificate(name, (), Bounds(0.0, constant, "declared"), constant, constant, declared)
    layers = tuple(norm_bounds(w, at) for w, at in zip(stages.weights, stages.geometries, strict=True))
    norms = [bounds.upper for bounds in layers]
    if isinstance(branch, DenseBranch):
        product = _concatenated(branch, norms)
        upper, lower, method = product, 0.0, "product"
    else:
        product = product_up(*norms, *(registry.get(phi).lipschitz for phi in stages.activations))
        found = _whole(branch, stages, norms, n_steps)
        upper, method = (product, "product") if found is None else (found.upper, found.method)
        lower = 0.0 if getattr(block.branch, "takes_context", False) else _secant(stages, norms)
    return BranchCertificate(name, layers, Bounds(lower, upper, method), product, upper, declared)


def _stages_of(branch: Branch) -> _Stages | None:
    """Return the stages of a branch of a kind that is known here; None for others."""
    if isinstance(branch, ParametrizedBranch):
        return _parametrized_stages(branch)
    return _spectral_stages(branch) if isinstance(branch, (ResidualBranch, ConditionalBranch, DenseBranch)) else None


def _parametrized_stages(branch: ParametrizedBranch) -> _Stages:
    weights, biases, names, parameters, _ = branch.stages()
    if branch.image_size is None and any(w.shape[2:] not in ((), (1, 1)) for w in weights):
        raise ValueError("the image size of a ParametrizedBranch must be known, got none; call it on images first.")
    geometries = [geometry_of(w, branch.image_size or ()) for w in weights]
    return _Stages([plain(weight) for weight in weights], geometries, biases, list(names), parameters)


def _spectral_stages(branch: ResidualBranch | ConditionalBranch | DenseBranch) -> _Stages:
    layers = cast("list[SpectralLinear | SpectralConv2d]", list(branch.layers))
    geometries = [layer.geometry for layer in layers]
    if isinstance(branch, ResidualBranch):
        weights, biases, names, parameters = branch.stages()
        return _Stages([plain(weight) for weight in weights], geometries, biases, list(names), parameters)
    phis = cast("list[Activation]", list(branch.activations))
    weights = [plain(weight) for weight in effective_weights(layers)]
    biases = [bias_of(layer) for layer in layers]
    return _Stages(weights, geometries, biases, [phi.name for phi in phis], [_beta_of(phi) for phi in phis])


def _plain_stages(block: UnboundedBlock) -> _Stages:
    stages = _Stages([], [], [], [], [])
    phi, parameter = "identity", None
    for layer in block.branch:
        if isinstance(layer, Activation):
            phi, parameter = layer.name, _beta_of(layer)
        elif isinstance(layer, nn.Conv2d):
            padding = (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2)
            stages.weights.append(weight_of(layer))
            stages.geometries.append(ConvGeometry(block.image_size, padding=padding))
            stages.biases.append(bias_of(layer))
            stages.activations.append(phi)
            stages.parameters.append(parameter)
            phi, parameter = "identity", None
    return stages


def _beta_of(phi: Activation) -> Tensor | None:
    return None if phi.beta is None else gathered(phi.beta)


def _whole(branch: nn.Module, stages: _Stages, norms: list[float], n_steps: int) -> Bounds | None:
    """Return a bound of the whole branch if its layers are matrices, those of 1 x 1 convolutions included."""
    if any(geometry is not None for geometry in stages.geometries):
        return None
    if isinstance(branch, ConditionalBranch) and branch.mode == "multiply":
        return None  # factors of any sign change the slopes that an activation has
    weights = [weight.flatten(1) for weight in stages.weights]
    if isinstance(branch, ConditionalBranch) and branch.mode == "concat":
        # What the network adds does not change with x; a pair of MaxMin may hold one channel of each.
        if not registry.get(stages.activations[1]).elementwise:
            return None
        weights[1] = weights[1][:, : len(weights[0])]
    return branch_bound(weights, stages.activations, norms, n_steps)


def _secant(stages: _Stages, norms: list[float]) -> float:
    layers = []
    for weight, geometry, bias, name, parameter, norm in zip(*stages, norms, strict=True):
        operator = Operator(weight.to(torch.float64, copy=True), geometry, "zeros")
        wide = [None if t is None else t.detach().to(torch.float64, copy=True) for t in (parameter, bias)]
        layers.append(Layer(registry.get(name), wide[0], operator, wide[1], norm))
    return steepest_secant(layers)


def _concatenated(branch: DenseBranch, norms: list[float]) -> float:
    """Return the bound of i-DenseNet: a stage [eta1 x, eta2 phi(W x)] has sqrt(eta1^2 + (eta2 Lip(phi) |W|)^2)."""
    *stages, last = norms
    phis = cast("list[Activation]", list(branch.activations))
    factors = [
        math.hypot(eta1, product_up(eta2, phi.lipschitz, norm)) * (1.0 + 8.0 * UNIT)
        for phi, norm, (eta1, eta2) in zip(phis, stages, branch.concatenation().tolist(), strict=True)
    ]
    return product_up(last, *factors)


def _induced(name: str, block: InvertibleResidualBlock, branch: InducedNormBranch, n_steps: int) -> BranchCertificate:
    """Return the bounds of a branch bounded in an induced p-norm, in the Euclidean norm as those of all others."""
    layers = cast("list[InducedNormLinear | InducedNormConv2d]", list(branch.layers))
    names = [cast(Activation, phi).name for phi in branch.activations]
    constants = [registry.get(phi).lipschitz for phi in names]
    weights = [layer.effective_weight().detach() for layer in layers]
    is_dense = all(isinstance(layer, InducedNormLinear) for layer in layers)
    if is_dense:
        bounds = tuple(norm_bounds(weight) for weight in weights)
        found = branch_bound(weights, names, [layer.upper for layer in bounds], n_steps)
    else:
        # On images of any size, those of the closed form.
        closed = [Bounds(0.0, _closed(w, 2.0, layer), "Schur") for w, layer in zip(weights, layers, strict=True)]
        bounds = tuple(closed)
        found = Bounds(0.0, product_up(*(b.upper for b in bounds), *constants), "product")
    product = product_up(*(layer.upper for layer in bounds), *constants)
    own = product_up(*(_closed(w, branch.norm, layer) for w, layer in zip(weights, layers, strict=True)), *constants)
    n_dims = layers[0].weight.shape[1] if is_dense else getattr(block, "n_dims", None)
    contraction = found.upper
    if branch.norm != 2.0 and n_dims is not None and own < 1.0:
        # A contraction by c in l1 or l-infinity: |f(x) - f(y)| >= (1 - c) |x - y| / sqrt(n) in the Euclidean norm.
        contraction = min(contraction, 1.0 - (1.0 - own) / math.sqrt(n_dims) * (1.0 - 8.0 * UNIT) + UNIT)
    return BranchCertificate(name, bounds, found, product, contraction, block.lipschitz)


def _closed(weight: Tensor, norm: float, layer: InducedNormLinear | InducedNormConv2d) -> float:
    """Return an upper bound of the norm from l_p to l_p in closed form: sums of absolute values."""
    groups = int(getattr(layer, "groups", 1))
    return float(induced_norm(weight.to(torch.float64), norm, norm, groups)) * (1.0 + gamma(weight.numel() + 8))
