"""Which kinds of branches and which activations run on the kernels: asked of the code that decides it in every call.

`python -m iresnet_fast`, README and docs/features.md say what this module finds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import torch
from torch import nn

from .. import activations as registry
from .._lowering import has_kernel
from ._branch import Branch
from ._paths import why_autograd
from .branch import ResidualBranch
from .conditional_branch import ConditionalBranch
from .dense_branch import DenseBranch
from .induced_norm_branch import InducedNormBranch
from .masked_branch import MaskedBranch
from .parametrized_branch import ParametrizedBranch

# An activation's kernel_id is its place in csrc/include/iresnet_fast/activations.h, which both devices compile.
DEVICES: Final = ("CPU", "CUDA")


class Served(NamedTuple):
    """What a kind of branch runs on.

    Attributes:
        kind: in a few words.
        kernels: whether a block runs it on the kernels; else on autograd products of the plain-torch module.
        why: the reason why not; empty with kernels.
    """

    kind: str
    kernels: bool
    why: str

    @property
    def cell(self) -> str:
        """The word for a table."""
        return "kernel" if self.kernels else "twin"


def _orthogonal() -> ParametrizedBranch:
    layers = [nn.Linear(2, 2) for _ in range(2)]
    for layer in layers:
        torch.nn.utils.parametrizations.orthogonal(layer)
    return ParametrizedBranch(layers, ["identity", "elu"])


def _hooked() -> ResidualBranch:
    branch = ResidualBranch.dense([2, 4, 2])
    branch.layers[0].register_forward_hook(lambda layer, arguments, output: output)
    return branch


# One small branch of every kind.
EXAMPLES: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "dense `ResidualBranch`": lambda: ResidualBranch.dense([2, 4, 2]),
    "convolutional `ResidualBranch`": lambda: ResidualBranch.conv([2, 4, 2], [3, 1], (2, 2)),
    '`ConditionalBranch(mode="add")`': lambda: ConditionalBranch.dense([2, 4, 4, 2], 3),
    '`ConditionalBranch(mode="concat")`': lambda: ConditionalBranch.dense([2, 4, 4, 2], 3, mode="concat"),
    '`ConditionalBranch(mode="multiply")`': lambda: ConditionalBranch.dense([2, 4, 4, 2], 3, mode="multiply"),
    "`MaskedBranch`": lambda: MaskedBranch(ResidualBranch.dense([2, 4, 2]), sign=-1),
    "`InducedNormBranch`": lambda: InducedNormBranch.dense([2, 4, 2]),
    "`ParametrizedBranch`": _orthogonal,
    "`DenseBranch`": lambda: DenseBranch.dense(2, 2),
    "layers with hooks": _hooked,
    "any other module": lambda: nn.Sequential(nn.Linear(2, 2), nn.ELU()),
}


def served(kind: str, branch: nn.Module) -> Served:
    """Return what a block would run a branch on, where the kernels are built."""
    why = why_autograd(branch)
    if why is None and isinstance(branch, Branch):
        without = [name for name in branch.activation_names() if not has_kernel(name)]
        why = f"activation {without[0]!r} has no kernel" if without else None
    return Served(kind, why is None, why or "")


def kinds() -> list[Served]:
    """Return a row for every kind of branch."""
    with torch.random.fork_rng(devices=[]):
        return [served(kind, make()) for kind, make in EXAMPLES.items()]


def activation_names(kernels: bool) -> list[str]:
    """Return the names of the activations that have a kernel, or of those that have none."""
    return [name for name, entry in registry.REGISTRY.items() if not entry.internal and has_kernel(name) == kernels]


def kind_names(kernels: bool) -> str:
    """Return the kinds of branches that run on the kernels, or that do not, as the documents list them."""
    return ", ".join(row.kind for row in kinds() if row.kernels == kernels)


def markdown() -> str:
    """Return README's table of the kinds of branches, and what it says of activations."""
    lines = [f"| branch of a block | {' | '.join(DEVICES)} |", f"|---|{'---|' * len(DEVICES)}"]
    lines += [f"| {row.kind} | {' | '.join([row.cell] * len(DEVICES))} |" for row in kinds()]
    names = f"Activations with kernels: {sentence(True)}. On the twin: {sentence(False)}, and those of your own."
    return "\n".join([*lines, "", names])


def sentence(kernels: bool) -> str:
    """Return the names of the activations with kernels, or without, as the documents list them."""
    return ", ".join(f"`{name}`" for name in activation_names(kernels))
