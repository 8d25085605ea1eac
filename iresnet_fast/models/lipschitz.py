"""The Lipschitz constants of a model as they are, measured: for progress bars and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from .. import _checks, ops
from .. import activations as registry
from ..geometry import ConvGeometry
from ..nn import Activation, ConditionalBranch, DenseBranch, InvertibleResidualBlock, ResidualBranch
from ..nn._layer import SpectralLayer, plain
from ..nn.spectral import effective_weights
from ._plain import UnboundedBlock


class Map(NamedTuple):
    """A linear map, and vectors to start its power iteration from."""

    weight: Tensor
    u: Tensor
    v: Tensor
    geometry: ConvGeometry | None


_MOST_ITERATIONS = 1000
_LOW_PRECISION = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class BlockLipschitz:
    """One block.

    Attributes:
        name: in the model.
        norms: spectral norm of each layer, after normalisation; empty for a branch of other layers.
        lipschitz: Lipschitz constant of the branch that follows from them; without layers, the one it declares.
        declared: the one that follows from coeff, or None if there is no bound.
    """

    name: str
    norms: tuple[float, ...]
    lipschitz: float
    declared: float | None


@dataclass(frozen=True)
class LipschitzTable:
    """All blocks of a model.

    Attributes:
        blocks: in the order of model.modules().
    """

    blocks: tuple[BlockLipschitz, ...]

    @property
    def worst(self) -> float:
        """The largest constant of a branch, 0 if there is none: below 1 every block is invertible."""
        return max((block.lipschitz for block in self.blocks), default=0.0)

    @property
    def worst_layer(self) -> float:
        """The largest norm of a layer, 0 if there is none: at most coeff if the normalisation has converged."""
        return max((norm for block in self.blocks for norm in block.norms), default=0.0)

    @property
    def bi_lipschitz(self) -> tuple[float, float]:
        """Bounds of |f(x) - f(y)| / |x - y| over all blocks together: products of 1 - L and of 1 + L."""
        constants = [block.lipschitz for block in self.blocks]
        return math.prod(max(1.0 - c, 0.0) for c in constants), math.prod(1.0 + c for c in constants)

    def __str__(self) -> str:
        """Return the table as text, a line for each block."""
        width = max((len(block.name) for block in self.blocks), default=5)
        lines = [f"{'block':<{width}}  lipschitz  declared  layers"]
        for block in self.blocks:
            declared = "unknown" if block.declared is None else f"{block.declared:.5f}"
            norms = " ".join(f"{norm:.5f}" for norm in block.norms)
            lines.append(f"{block.name:<{width}}  {block.lipschitz:>9.5f}  {declared:>8}  {norms}".rstrip())
        return "\n".join(lines)


def certified_lipschitz(model: nn.Module, tol: float = 1e-6) -> LipschitzTable:
    """Measure the layers of every residual block as they are normalised now, all of them in one kernel call.

    In training the few power iterations of a step may leave the norms above coeff: this iterates on the normalised
    weights until they change by less than `tol`, without an effect on what training does. It starts from the vectors of
    the layers and from random ones, since the former may have settled on a singular value that is no longer the
    largest. Power iteration approaches a norm from below, so that the last digits may still be missing. The blocks of
    an IResNetClassifier without coeff are measured too.

    Args:
        model: any module.
        tol: relative change of a norm at which a layer stops.

    Returns:
        The norms of every layer and the Lipschitz constant of every branch.

    Raises:
        ValueError: tol is not positive, or a convolution does not know its image size yet.
    """
    _checks.check_tolerance(tol)
    kinds = (InvertibleResidualBlock, UnboundedBlock)
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, kinds)}
    with torch.no_grad():
        maps = {name: _maps(block) for name, block in blocks.items()}
        norms = _norms([entry for entries in maps.values() for entry in entries], tol)
    rows = []
    for name, block in blocks.items():
        own = tuple(norms.pop(0) for _ in maps[name])
        declared = block.lipschitz if isinstance(block, InvertibleResidualBlock) else None
        constant = _constant(block, own) if own else math.inf if declared is None else declared
        rows.append(BlockLipschitz(name or "the block", own, constant, declared))
    return LipschitzTable(tuple(rows))


def _maps(block: InvertibleResidualBlock | UnboundedBlock) -> list[Map]:
    """Return the linear maps of the branch; none if they are of a kind that has no power iteration."""
    branch = block.branch
    if isinstance(branch, (ResidualBranch, ConditionalBranch, DenseBranch)):
        layers = cast("list[SpectralLayer]", list(branch.layers))
        weights = effective_weights(layers)
        return [Map(w, layer.u, layer.v, layer.geometry) for w, layer in zip(weights, layers, strict=True)]
    if not isinstance(block, UnboundedBlock):
        return []
    maps: list[Map] = []
    generator = torch.Generator().manual_seed(0)
    for layer in block.branch:
        if isinstance(layer, nn.Conv2d):
            padding = (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2)
            u, v = (
                _unit(layer.weight.new_empty(channels, *block.image_size), generator)
                for channels in (layer.out_channels, layer.in_channels)
            )
            maps.append(Map(layer.weight, u, v, ConvGeometry(block.image_size, padding=padding)))
    return maps


def _norms(maps: list[Map], tol: float) -> list[float]:
    """Return the norms of the maps, the larger one from both of their starts."""
    generator = torch.Generator().manual_seed(1)
    again = [entry._replace(u=_unit(entry.u, generator), v=_unit(entry.v, generator)) for entry in maps]
    found = _norms_from(maps + again, tol)
    return [max(pair) for pair in zip(found[: len(maps)], found[len(maps) :], strict=True)]


def _unit(like: Tensor, generator: torch.Generator) -> Tensor:
    vector = torch.randn(like.shape, generator=generator)
    unit: Tensor = (vector / torch.linalg.vector_norm(vector)).to(like)
    return unit


def _norms_from(maps: list[Map], tol: float) -> list[float]:
    """Return the norms of the maps from their own start; one call, and one wait, for each dtype and device."""
    alike: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for i, entry in enumerate(maps):
        alike.setdefault((entry.weight.dtype, entry.weight.device), []).append(i)
    result = [0.0] * len(maps)
    for (dtype, _), members in alike.items():
        wide = torch.float32 if dtype in _LOW_PRECISION else dtype
        sigmas, *_ = ops.spectral_norm(
            [plain(maps[i].weight).to(wide) for i in members],
            [maps[i].u.to(wide) for i in members],
            [maps[i].v.to(wide) for i in members],
            [maps[i].geometry for i in members],
            _MOST_ITERATIONS,
            tol,
        )
        for i, sigma in zip(members, sigmas.tolist(), strict=True):
            result[i] = sigma
    return result


def _constant(block: InvertibleResidualBlock | UnboundedBlock, norms: tuple[float, ...]) -> float:
    """Return what the `lipschitz` of the branch would be if its layers had these norms as their coeff."""
    branch = block.branch
    if isinstance(branch, ResidualBranch):
        factors = [registry.get(name).lipschitz for name in branch.activations]
    else:
        phis = branch if isinstance(branch, nn.Sequential) else cast("nn.ModuleList", branch.activations)
        factors = [phi.lipschitz for phi in phis if isinstance(phi, Activation)]
    if isinstance(branch, DenseBranch):
        *stages, last = norms
        return last * math.prod(max(1.0, norm * factor) for norm, factor in zip(stages, factors, strict=True))
    return math.prod(norms) * math.prod(factors)
