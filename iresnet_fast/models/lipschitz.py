"""The Lipschitz constants of a model as they are, bounded from above: for progress bars and reports."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..certify import Certificate, certify
from ..certify.certificate import rounded_up


@dataclass(frozen=True)
class BlockLipschitz:
    """One block; every number but `lower` and `declared` is an upper bound of `iresnet_fast.certify`.

    Attributes:
        name: in the model.
        norms: spectral norm of each layer, after normalisation; empty for a branch of other layers.
        lipschitz: Lipschitz constant of the branch that follows from its weights; without layers, the one it declares.
            For a branch that contracts in l1 or l-infinity, L with |f(x) - f(y)| >= (1 - L) |x - y|.
        declared: the one that follows from coeff, or None if there is no bound.
        lower: a constant that the branch attains.
        lower_norms: norms that the layers attain.
    """

    name: str
    norms: tuple[float, ...]
    lipschitz: float
    declared: float | None
    lower: float = 0.0
    lower_norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class LipschitzTable:
    """All blocks of a model.

    Attributes:
        blocks: in the order of model.modules().
        bi_lipschitz: bounds of |f(x) - f(y)| / |x - y| over all blocks together: products of 1 - L and of 1 + L.
    """

    blocks: tuple[BlockLipschitz, ...]
    bi_lipschitz: tuple[float, float]

    @property
    def worst(self) -> float:
        """An upper bound of the constants of the branches, 0 if there is none: below 1 every block is invertible."""
        return max((block.lipschitz for block in self.blocks), default=0.0)

    @property
    def worst_layer(self) -> float:
        """An upper bound of the norms of the layers, 0 if there is none: coeff if the normalisation has converged."""
        return max((norm for block in self.blocks for norm in block.norms), default=0.0)

    def __str__(self) -> str:
        """Return the table as text, a line for each block; bounds are rounded upwards."""
        width = max((len(block.name) for block in self.blocks), default=5)
        lines = [f"{'block':<{width}}  lipschitz  declared  layers"]
        for block in self.blocks:
            declared = "unknown" if block.declared is None else f"{block.declared:.5f}"
            norms = " ".join(rounded_up(norm) for norm in block.norms)
            lines.append(f"{block.name:<{width}}  {rounded_up(block.lipschitz):>9}  {declared:>8}  {norms}".rstrip())
        return "\n".join(lines)


def certified_lipschitz(model: nn.Module) -> LipschitzTable:
    """Bound the layers and the branch of every residual block of a model from above, as they are normalised now.

    In training the few power iterations of a step may leave norms above coeff: this bounds the weights as they are
    used, whatever the layers believe, without an effect on what training does. The numbers are those of
    `certify.certify` without the descent that makes the bounds of dense branches a little smaller.

    Args:
        model: any module; the blocks of an IResNetClassifier without coeff are bounded too.

    Returns:
        the norms of every layer and the Lipschitz constant of every branch.

    Raises:
        ValueError: the model is no IResNetFlow and has no block, or a convolution does not know its image size yet.
    """
    return _table(certify(model, n_steps=0))


def _table(certificate: Certificate) -> LipschitzTable:
    blocks = tuple(
        BlockLipschitz(
            row.name,
            tuple(layer.upper for layer in row.layers),
            row.contraction,
            row.declared,
            row.branch.lower,
            tuple(layer.lower for layer in row.layers),
        )
        for row in certificate.branches
    )
    return LipschitzTable(blocks, certificate.bi_lipschitz)
