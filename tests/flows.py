"""Small flows for the tests of residual_flow: blocks, ActNorms and rearrangements of all kinds, on ragged shapes."""

import math
from typing import NamedTuple

import torch
from problems import Case, make
from torch import Tensor

from iresnet_fast._steps import Normalize, Rearrange, Residual


class Block(NamedTuple):
    """A Residual of a flow, by the sizes of its branch."""

    hidden: tuple[int, ...] = (5,)
    kernels: tuple[int, ...] = ()
    activations: tuple[str, ...] = ("elu", "lipswish")
    logdet: str = "series"
    no_bias: tuple[int, ...] = ()
    probes: int | None = None
    per_sample: bool = False
    terms: int = 4
    sample_bias: tuple[int, ...] = ()
    pixel_bias: tuple[int, ...] = ()
    sample_factor: tuple[int, ...] = ()


class FlowCase(NamedTuple):
    """A flow: its parts are Blocks, "normalize", "permute", "squeeze" and "flatten"."""

    name: str
    event: tuple[int, ...]
    parts: tuple[Block | str, ...]
    batch: int = 3
    memory: str = "contiguous"

    @property
    def longest_reduction(self):
        """Terms of the longest inner product, as a Case tells it."""
        return max((case.longest_reduction for case in _cases(self) if case is not None), default=1)


class Flow(NamedTuple):
    """The arguments of residual_flow."""

    x: Tensor
    steps: tuple[Normalize | Rearrange | Residual, ...]
    tensors: list[Tensor | None]
    draws: list[tuple[Tensor, Tensor]]

    @property
    def leaves(self):
        """Every tensor that can get a gradient, x first."""
        return [t for t in (self.x, *self.tensors) if t is not None and t.is_floating_point()]

    def requires_grad(self):
        for tensor in self.leaves:
            tensor.requires_grad_()
        return self


IMAGE = {"kernels": (3, 1)}
FLOWS = [
    FlowCase("no step", (3,), ()),
    FlowCase("one block", (3,), (Block(),)),
    FlowCase("one normalisation", (3,), ("normalize",), batch=300),
    FlowCase("one permutation", (6,), ("permute",)),
    FlowCase("no sample", (3,), ("normalize", Block(probes=2), "permute"), batch=0),
    FlowCase("no log-determinant", (7,), (Block(logdet="none"), "permute", Block((4, 9), logdet="none"))),
    FlowCase("toy", (2,), (Block(), "normalize", Block(), "permute", Block(), "normalize"), batch=130),
    FlowCase("one number", (1,), ("normalize", Block((3,), activations=("tanh",)), "normalize", "normalize"), batch=1),
    FlowCase(
        "probes",
        (17,),
        (
            "permute",
            Block((33,), probes=3),
            Block((9,), per_sample=True, no_bias=(0,)),
            "normalize",
            Block(logdet="none"),
        ),
        batch=19,
    ),
    FlowCase(
        "exact",
        (5,),
        (Block((7,), logdet="exact"), "normalize", "permute", Block(probes=2), Block(logdet="exact"), "normalize"),
        batch=37,
    ),
    FlowCase(
        "exact images",
        (1, 4, 4),
        ("normalize", Block((3,), (3, 3), logdet="exact"), "squeeze", Block(kernels=(1, 1), logdet="exact"), "flatten"),
    ),
    FlowCase("sliced", (6,), ("normalize", Block(probes=2), "permute", "permute", Block()), memory="sliced"),
    FlowCase("transposed", (6,), (Block(), "normalize", Block(per_sample=True)), memory="transposed", batch=5),
    FlowCase(
        "images",
        (2, 4, 6),
        ("normalize", Block(**IMAGE), "squeeze", "normalize", Block(**IMAGE, per_sample=True), "flatten", Block()),
        batch=5,
    ),
    FlowCase(
        "channels last",
        (3, 5, 7),
        (Block((4,), (3, 3), probes=2), "normalize", "permute", Block((4, 2), (3, 1, 3), logdet="none"), "normalize"),
        memory="transposed",
    ),
    FlowCase(
        "given",
        (5,),
        (
            Block((7,), sample_bias=(0,), sample_factor=(1,), probes=2),
            "permute",
            Block((4,), sample_factor=(0,), logdet="exact"),
            "normalize",
            Block(sample_bias=(0,), logdet="none"),
        ),
        batch=19,
    ),
    FlowCase(
        "given images",
        (2, 4, 6),
        (Block((3,), **IMAGE, sample_bias=(0,), pixel_bias=(1,), sample_factor=(1,)), "squeeze", Block(kernels=(1, 3))),
        batch=5,
    ),
    FlowCase("one pixel", (3, 1, 1), ("normalize", Block(kernels=(1, 1)), "normalize", "flatten"), batch=20),
]
SMALL = [
    FlowCase(
        "dense",
        (3,),
        (Block((4,), activations=("tanh", "lipswish"), probes=2), "permute", "normalize", Block((2,), logdet="none")),
        batch=2,
    ),
    FlowCase(
        "exact", (3,), ("normalize", Block((4,), activations=("tanh",), logdet="exact"), "permute", Block((2,))), 2
    ),
    FlowCase(
        "conv",
        (1, 2, 4),
        (
            "normalize",
            Block((2,), (3, 1), ("softplus", "lipswish"), per_sample=True),
            "squeeze",
            "flatten",
            "normalize",
        ),
        batch=2,
    ),
]
# More samples than a tile holds and numbers than one thread takes alone, and images for every thread.
WIDE_FLOWS = [
    FlowCase("dense", (250,), ("normalize", Block((9,), probes=2), "permute", Block((9,)), "normalize"), batch=300),
    FlowCase("exact", (5,), (Block((9,), logdet="exact"), "normalize", Block((9,), logdet="exact")), batch=300),
    FlowCase(
        "conv",
        (4, 16, 18),
        ("normalize", Block((3,), **IMAGE), "squeeze", "normalize", Block((3,), **IMAGE)),
        batch=60,
    ),
]


def make_flow(case, dtype=torch.float64, device="cpu"):
    """Build the flow of a case; every dtype and device gets the same numbers, which float32 holds exactly."""
    x = make(_case(case, 0, case.event, Block()), dtype, device).x
    steps, tensors, draws = [], [], []
    event = case.event
    for i, (part, block) in enumerate(zip(case.parts, _cases(case), strict=True)):
        generator = torch.Generator().manual_seed(i)
        if part == "normalize":
            steps.append(Normalize())
            tensors += [torch.randn(event[0], generator=generator), 0.3 * torch.randn(event[0], generator=generator)]
            tensors[-2:] = [t.to(device, dtype) for t in tensors[-2:]]
        elif isinstance(part, str):
            index, event = _rearranged(part, event, generator)
            steps.append(Rearrange(event))
            tensors.append(index.to(device))
        else:
            problem = make(block, dtype, device)
            steps.append(Residual(tuple(problem.activations), part.logdet))
            tensors += [*problem.weights, *problem.biases, *problem.parameters, *problem.factors]
            if part.logdet == "series":
                draws.append((problem.probe, problem.coefficients))
    return Flow(x, tuple(steps), tensors, draws)


def _cases(case):
    """The branch of every part, None where it has none."""
    found, event = [], case.event
    for i, part in enumerate(case.parts):
        if isinstance(part, Block):
            found.append(_case(case, i, event, part))
        else:
            found.append(None)
            event = event if part == "normalize" else _rearranged(part, event)[1]
    return found


def _case(case, i, event, block):
    return Case(
        f"{case.name} {i}",
        event,
        block.hidden,
        block.kernels or ((1,) * (len(block.hidden) + 1) if len(event) == 3 else ()),
        block.activations,
        case.batch,
        block.no_bias,
        block.probes,
        block.per_sample,
        block.terms,
        case.memory,
        block.sample_bias,
        block.pixel_bias,
        block.sample_factor,
    )


def _rearranged(part, event, generator=None):
    """The index of a rearrangement of events, and their shape after it."""
    numbers = torch.arange(math.prod(event)).view(event)
    if part == "permute":
        moved = numbers[torch.randperm(event[0], generator=generator)]
    elif part == "squeeze":
        moved = torch.nn.functional.pixel_unshuffle(numbers, 2)
    else:
        moved = numbers.flatten()
    return moved.flatten(), tuple(moved.shape)


def one_by_one(package, flow):
    """The steps called one after the other: the blocks by ops of `package`, the rest in plain torch."""
    x, draws, logdets, first = flow.x, iter(flow.draws), [], 0
    for step in flow.steps:
        own = flow.tensors[first : first + step.n_tensors]
        first += step.n_tensors
        if isinstance(step, Normalize):
            shape = (-1, *[1] * (x.dim() - 2))
            x = (x + own[0].view(shape)) * own[1].exp().view(shape)
            logdets.append(own[1].sum().expand(x.shape[0]) * math.prod(x.shape[2:]))
        elif isinstance(step, Rearrange):
            x = x.flatten(1)[:, own[0]].reshape(x.shape[0], *step.event_shape)
        else:
            n = len(step.activations)
            branch, betas, factors = (own[:n], own[n : 2 * n], step.activations), own[2 * n : 3 * n], own[3 * n :]
            if step.logdet == "none":
                x = x + package.branch(x, *branch, betas, factors)
            elif step.logdet == "exact":
                x, logdet = package.residual_logdet_exact(x, *branch, betas, factors)
                logdets.append(logdet)
            else:
                x, logdet = package.residual_logdet(x, *branch, *next(draws), "neumann", betas, factors=factors)
                logdets.append(logdet)
    return x, sum(logdets) if logdets else x.new_zeros(x.shape[0])
