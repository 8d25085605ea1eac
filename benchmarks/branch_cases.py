"""The branches of bench_branches.py: configurations of users, one of each kind, and one small branch per activation.

Every problem is the stages of a branch, as the ops take them, and what they are called with. Norms, parametrisations
and the networks of contexts come before: they are the same for all that is timed, and are not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from iresnet_fast import activations as registry
from iresnet_fast import nn as layers

TERMS = 10
COEFF = 0.9
# Multiply-adds of one evaluation of the branch up to which a case counts as small.
SMALL = 2**22

Tensors = list[Tensor | None]


@dataclass(frozen=True)
class Branch:
    """The stages of a branch; the tensors that ask for a gradient are those that training learns or passes on."""

    weights: list[Tensor]
    biases: Tensors
    activations: tuple[str, ...]
    parameters: Tensors
    factors: Tensors


@dataclass(frozen=True)
class BranchProblem(Branch):
    """A branch and the arguments of a call."""

    x: Tensor  # [B, d] or [B, C, H, W]
    probe: Tensor  # as x
    coefficients: Tensor  # [TERMS], ones
    grad_z: Tensor  # as x: the gradient that arrives at z
    grad_logdet: Tensor  # [B]: differs from sample to sample
    nodes: int | None = None  # the stage before the mask of the output is one block for each of so many nodes

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors whose gradients a training step computes."""
        tensors = (self.x, *self.weights, *self.biases, *self.parameters, *self.factors)
        return [t for t in tensors if t is not None and t.requires_grad]

    def to(self, **options: Any) -> BranchProblem:
        """Convert all tensors, as torch.Tensor.to; a memory format applies to images and convolutions."""
        plain = {key: value for key, value in options.items() if key != "memory_format"}

        def moved(value: Any) -> Any:
            if isinstance(value, list):
                return [moved(t) for t in value]
            if not isinstance(value, Tensor):
                return value
            return value.detach().to(**(options if value.dim() == 4 else plain)).requires_grad_(value.requires_grad)

        return replace(self, **{f.name: moved(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class BranchCase:
    """A row: what is built from samples x and, for a conditional branch, a context."""

    name: str
    label: str
    batch: int
    event: tuple[int, ...]
    make: Callable[[Tensor], Branch]
    nodes: int | None = None
    group: str = field(default="configuration", kw_only=True)  # or "kind", "activation"


def build(case: BranchCase) -> BranchProblem:
    """Return the problem of a case in float32: the same numbers on every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(case.batch, *case.event)
        branch = case.make(x)
        return BranchProblem(
            **vars(branch),
            x=x.requires_grad_(),
            probe=torch.randint(0, 2, x.shape).float() * 2.0 - 1.0,
            coefficients=torch.ones(TERMS),
            grad_z=torch.randn(x.shape),
            grad_logdet=torch.rand(len(x)) + 0.5,
            nodes=case.nodes,
        )


def multiply_adds(problem: BranchProblem) -> int:
    """Return the multiply-adds of one evaluation of the branch, zeros of its weights included."""
    pixels = problem.x.shape[2:].numel()
    return sum(weight.numel() for weight in problem.weights) * pixels * len(problem.x)


def _leaf(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().requires_grad_()


def _bounded(weight: Tensor, coeff: float) -> Tensor:
    return (weight * (coeff / torch.linalg.matrix_norm(weight, 2))).requires_grad_()


def _dense(*widths: int, activation: str, coeff: float = COEFF) -> Callable[[Tensor], Branch]:
    """Layers as torch initialises them, scaled to their bound; the activation comes before all but the first."""

    def make(x: Tensor) -> Branch:
        entry = registry.get(activation)
        maps = [nn.Linear(a * (entry.expansion if i else 1), b) for i, (a, b) in enumerate(pairwise(widths))]
        names = ("identity", *[activation] * (len(maps) - 1))
        beta = torch.full((1,), registry.LIPSWISH_INITIAL_BETA)
        return Branch(
            weights=[_bounded(layer.weight.detach(), coeff) for layer in maps],
            biases=[_leaf(layer.bias) for layer in maps],
            activations=names,
            parameters=[_leaf(beta) if entry.has_parameter and name != "identity" else None for name in names],
            factors=[None] * len(maps),
        )

    return make


def _causal(n: int) -> Callable[[Tensor], Branch]:
    """-g(x) with one network n-n-1 for each of n nodes, which does not see its node, and a mask of the output.

    The first layers of all nodes are one matrix [n n, n], the last a block-diagonal one [n, n n]; the mask (which nodes
    an intervention has set) is the factor of one more stage.
    """

    def make(x: Tensor) -> Branch:
        unseen = torch.eye(n).repeat_interleave(n, 0)  # [n n, n]
        first, last = nn.Linear(n, n * n), nn.Linear(n, n)
        mask = (torch.rand(len(x), n) > 0.2).float()
        return Branch(
            weights=[
                _bounded(first.weight.detach() * (1.0 - unseen), COEFF),
                _bounded(-torch.block_diag(*last.weight.detach()), COEFF),
                torch.eye(n),
            ],
            biases=[_leaf(first.bias), _leaf(-last.bias), None],
            activations=("identity", "tanh", "identity"),
            parameters=[None] * 3,
            factors=[None, None, mask],
        )

    return make


def _stages_of(branch: nn.Module, x: Tensor, context: Tensor | None = None) -> Branch:
    """The stages of a branch of layers, detached from whatever makes them."""
    weights, biases, activations, parameters, factors = branch.as_stages(x, context)
    return Branch(
        weights=[weight.detach().requires_grad_() for weight in weights],
        biases=[_leaf(t) for t in biases],
        activations=tuple(activations),
        parameters=[_leaf(t) for t in parameters or [None] * len(weights)],
        factors=[_leaf(t) for t in factors or [None] * len(weights)],
    )


def _given_context(features: int, make: Callable[[], nn.Module]) -> Callable[[Tensor], Branch]:
    return lambda x: _stages_of(make(), x, torch.randn(len(x), features))


def _orthogonal(*widths: int) -> layers.ParametrizedBranch:
    maps = [nn.utils.parametrizations.orthogonal(nn.Linear(a, b)) for a, b in pairwise(widths)]
    return layers.ParametrizedBranch(maps, ["identity", *["elu"] * (len(maps) - 1)], norm=1.0, coeff=COEFF)


def _of_activation(name: str) -> BranchCase:
    make = _dense(8, 32, 8, activation=name)
    return BranchCase(name, "dense 8-32-8", 128, (8,), make, group="activation")


# Those that the kernels know; CLipSwish and MaxMin, which become others, have rows of their own.
ACTIVATIONS = (
    *(name for name, entry in registry.REGISTRY.items() if entry.kernel_id and not entry.internal),
    "sin(10)",
)

CASES = {
    case.name: case
    for case in (
        BranchCase(
            "context 16", "dense 2-128-128-2, ELU", 128, (2,),
            _given_context(16, lambda: layers.ConditionalBranch.dense([2, 128, 128, 2], 16)),
        ),
        BranchCase(
            "context 50", "dense 10-64-64-10, ELU", 128, (10,),
            _given_context(50, lambda: layers.ConditionalBranch.dense([10, 64, 64, 10], 50)),
        ),
        BranchCase("10 nodes", "10 x dense 10-10-1, masked, tanh", 64, (10,), _causal(10), 10),
        BranchCase("40 nodes", "40 x dense 40-40-1, masked, tanh", 64, (40,), _causal(40), 40),
        BranchCase("80 nodes", "80 x dense 80-80-1, masked, tanh", 64, (80,), _causal(80), 80),
        BranchCase("maxmin 5", "dense 10-5-10, MaxMin", 128, (10,), _dense(10, 5, 10, activation="maxmin")),
        BranchCase("maxmin 32", "dense 10-32-10, MaxMin", 128, (10,), _dense(10, 32, 10, activation="maxmin")),
        BranchCase(
            "tabular", "dense 43-128-128-43, sine", 1000, (43,),
            _dense(43, 128, 128, 43, activation="sin", coeff=0.99),
        ),
        BranchCase(
            "multiplied", "dense 10-64-64-10, context multiplied", 128, (10,),
            _given_context(50, lambda: layers.ConditionalBranch.dense([10, 64, 64, 10], 50, mode="multiply")),
            group="kind",
        ),
        BranchCase(
            "images", "conv 3-1-3 of 4x14x14, 32 channels, context 16", 32, (4, 14, 14),
            _given_context(
                16, lambda: layers.ConditionalBranch.conv([4, 32, 32, 4], [3, 1, 3], 16, image_size=(14, 14))
            ),
            group="kind",
        ),
        BranchCase(
            "induced norm", "dense 8-64-64-8, l-infinity, ELU", 128, (8,),
            lambda x: _stages_of(layers.InducedNormBranch.dense([8, 64, 64, 8]), x), group="kind",
        ),
        BranchCase(
            "orthogonal", "dense 8-64-64-8, parametrised, ELU", 128, (8,),
            lambda x: _stages_of(_orthogonal(8, 64, 64, 8), x), group="kind",
        ),
        BranchCase(
            "clipswish", "dense 8-32-32-8, CLipSwish", 128, (8,),
            _dense(8, 32, 32, 8, activation="clipswish"), group="kind",
        ),
        *(_of_activation(name) for name in ACTIVATIONS),
    )
}  # fmt: skip
