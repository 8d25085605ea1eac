"""What is known for sure of the Lipschitz constants of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .bounds import Bounds


@dataclass(frozen=True)
class BranchCertificate:
    """One residual block, z = x + g(x).

    Attributes:
        name: in the model.
        layers: bounds of the norm of each layer as it is used, after normalisation; empty for a branch of other layers.
        branch: bounds of the Lipschitz constant of g, in the Euclidean norm. Method "declared": nothing is known but
            what the branch says of itself, infinity if it says nothing.
        product: upper bound that follows from the layers one by one; as `branch` if there are none.
        contraction: L with |f(x) - f(y)| >= (1 - L) |x - y|: the upper bound of the branch, or less for one that
            contracts in l1 or l-infinity.
        declared: Lipschitz constant that follows from coeff, or None if there is no bound.
    """

    name: str
    layers: tuple[Bounds, ...]
    branch: Bounds
    product: float
    contraction: float
    declared: float | None


@dataclass(frozen=True)
class Certificate:
    """All residual blocks of a model.

    Attributes:
        branches: in the order of model.modules().
    """

    branches: tuple[BranchCertificate, ...]

    @property
    def lower(self) -> float:
        """A constant that some branch attains, 0 if there is none."""
        return max((row.branch.lower for row in self.branches), default=0.0)

    @property
    def upper(self) -> float:
        """A constant that no branch exceeds, 0 if there is none: below 1 every block is invertible."""
        return max((row.contraction for row in self.branches), default=0.0)

    @property
    def bi_lipschitz(self) -> tuple[float, float]:
        """Bounds of |f(x) - f(y)| / |x - y| over all blocks together, from 1 - L and 1 + L of each."""
        below = above = 1.0
        for row in self.branches:
            closest = max(math.nextafter(1.0 - row.contraction, 0.0), 0.0)
            below = math.nextafter(below * closest, 0.0)
            above = math.nextafter(above * math.nextafter(1.0 + row.branch.upper, math.inf), math.inf)
        return below, above

    def __str__(self) -> str:
        """Return a table: a line for each branch and for each of its layers, and two for the model."""
        lines = [("", "lower", "upper", "product", "declared", "method")]
        for row in self.branches:
            declared = "unknown" if row.declared is None else f"{row.declared:.5f}"
            lines.append((row.name, *_both(row.branch), rounded_up(row.product), declared, row.branch.method))
            for i, layer in enumerate(row.layers):
                lines.append((f"  layer {i}", *_both(layer), "", "", layer.method))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        table = [
            "  ".join(
                text.ljust(width) if i in (0, 5) else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        below, above = self.bi_lipschitz
        below, above = below * (1.0 - 5e-3), above * (1.0 + 5e-3)  # three digits are off by less
        table.append(f"largest of a branch: at least {rounded_down(self.lower)}, at most {rounded_up(self.upper)}")
        table.append(f"all blocks together: {below:.3g} |x - y| <= |f(x) - f(y)| <= {above:.3g} |x - y|")
        taken = [row.name for row in self.branches if row.branch.method == "declared"]
        if taken:
            table.append(f"taken as declared, not proved, and so is what rests on it: {', '.join(taken)}")
        return "\n".join(table)


def _both(bounds: Bounds) -> tuple[str, str]:
    """Return the bounds as text, each rounded to its own side."""
    return rounded_down(bounds.lower), rounded_up(bounds.upper)


def rounded_down(value: float) -> str:
    """Return a lower bound as text of five decimals, itself a lower bound."""
    return f"{math.floor(value * 1e5) / 1e5:.5f}"


def rounded_up(value: float) -> str:
    """Return an upper bound as text of five decimals, itself an upper bound."""
    return f"{math.ceil(value * 1e5) / 1e5:.5f}" if value < math.inf else "inf"
