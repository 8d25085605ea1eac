"""Every implementation the benchmark times, all imported: ours, the reference in its flavours, normflows' block.

A maker takes a problem and a mode and returns a function without arguments that gives (z, logdet), and the tensors
whose gradients a training step computes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from cases import Problem
from normflows.flows.residual import Residual, basic_logdet_estimator
from torch import Tensor, nn

from iresnet_fast import ops, reference

MODES = ("eval", "train")

Forward = Callable[[], tuple[Tensor, Tensor]]
Step = Callable[[], tuple[Tensor, ...]]
Maker = Callable[[Problem, str], tuple[Forward, list[Tensor]]]


def _leaves(problem: Problem) -> list[Tensor]:
    return [problem.x, *problem.weights, *problem.biases]


def _in_turn(block: Callable[..., tuple[Tensor, ...]], problem: Problem) -> Forward:
    """Return the evaluation of all blocks, one after the other, by a function with the arguments of residual_logdet."""
    x, series = problem.x, (problem.probe, problem.coefficients)
    first, *others = problem.branches
    if not others:
        return partial(block, x, *first, *series)

    def forward() -> tuple[Tensor, Tensor]:
        z, total = block(x, *first, *series)
        for branch in others:
            z, logdet = block(z, *branch, *series)
            total = total + logdet
        return z, total

    return forward


def _ours(problem: Problem, mode: str) -> tuple[Forward, list[Tensor]]:
    return _in_turn(ops.residual_logdet, problem), _leaves(problem)


def _series(problem: Problem, mode: str) -> tuple[Forward, list[Tensor]]:
    return _in_turn(partial(reference.residual_logdet, gradient="series"), problem), _leaves(problem)


def _neumann(problem: Problem, mode: str) -> tuple[Forward, list[Tensor]]:
    return _in_turn(partial(reference.residual_logdet, gradient="neumann"), problem), _leaves(problem)


def _explicit(problem: Problem, mode: str) -> tuple[Forward, list[Tensor]]:
    return _in_turn(reference.residual_logdet_explicit, problem), _leaves(problem)


def _compiled(problem: Problem, mode: str) -> tuple[Forward, list[Tensor]]:
    torch._dynamo.reset()  # else the shapes of earlier cases count against the limit of recompilations
    if problem.x.is_cuda:
        return graphs_of_torch(problem)
    compiled = torch.compile(reference.residual_logdet_explicit, fullgraph=True, dynamic=False)
    return _in_turn(compiled, problem), _leaves(problem)


def graphs_of_torch(problem: Problem) -> tuple[Forward, list[Tensor]]:
    """Return (iii) compiled into CUDA graphs of torch's own; calling it is one step of training or evaluation."""
    model = _Explicit(problem)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, mode="reduce-overhead")

    def forward() -> tuple[Tensor, Tensor]:
        torch.compiler.cudagraph_mark_step_begin()  # what the last step returned may be overwritten
        return compiled()

    return forward, [model.x, *model.weights, *model.biases]


class _Explicit(nn.Module):
    """(iii) with its tensors as parameters and buffers: torch's graphs copy all others at every call."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.x = nn.Parameter(problem.x.detach())
        self.weights, self.biases = (
            nn.ParameterList(nn.Parameter(t.detach()) for t in tensors) for tensors in (problem.weights, problem.biases)
        )
        self.register_buffer("probe", problem.probe)
        self.register_buffer("coefficients", problem.coefficients)
        self.activations, self.blocks = problem.activations, problem.blocks

    def forward(self) -> tuple[Tensor, Tensor]:
        z, total = self.x, None
        size = len(self.activations) // self.blocks
        for i in range(0, len(self.activations), size):
            weights, biases = (
                [parameters[j] for j in range(i, i + size)] for parameters in (self.weights, self.biases)
            )
            branch = (weights, biases, self.activations[i : i + size])
            z, logdet = reference.residual_logdet_explicit(z, *branch, self.probe, self.coefficients)
            total = logdet if total is None else total + logdet
        return z, total


def _plain_net(problem: Problem) -> nn.Sequential:
    """The branch as a torch module on the problem's own weights, which are already normalised."""
    modules: list[nn.Module] = []
    layer: nn.Linear | nn.Conv2d
    for name, weight, bias in zip(problem.activations, problem.weights, problem.biases, strict=True):
        if name != "identity":
            modules.append({"elu": nn.ELU}[name]())
        if problem.is_conv:
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[-1], padding=weight.shape[-1] // 2)
        else:
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        modules.append(layer)
    return nn.Sequential(*modules).to(problem.x.device)


def _normflows(problem: Problem, mode: str, reduce_memory: bool = True) -> tuple[Forward, list[Tensor]]:
    """Return the package's block; of a problem of one block."""
    net, x, n = _plain_net(problem), problem.x, len(problem.coefficients)
    if mode == "train":
        block = Residual(net, reverse=True, reduce_memory=reduce_memory, n_power_series=n).to(x.device)
        parameters = list(net.parameters())  # weight, bias, weight, bias, ...
        return partial(block.inverse, x), [x, *parameters[0::2], *parameters[1::2]]
    # In eval mode the block takes 20 terms and a random number more (in 2-D: the whole Jacobian), whatever it was told:
    # its own estimator, called with n terms, is the comparison that does the same work.
    net.requires_grad_(False)

    def forward() -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            g = net(leaf)
            logdet = basic_logdet_estimator(g, leaf, n, problem.probe, lambda k: 1.0, False)
        return (leaf + g).detach(), logdet

    return forward, []


OURS = "ours"
COMPILED = "compiled"
MAKERS: dict[str, Maker] = {
    OURS: _ours,
    "series": _series,
    "neumann": _neumann,
    "explicit": _explicit,
    COMPILED: _compiled,
    "normflows": _normflows,
    "normflows_basic": partial(_normflows, reduce_memory=False),
}
TITLES = {
    OURS: "ours",
    "series": "(i) series",
    "neumann": "(ii) Neumann",
    "explicit": "(iii) explicit",
    COMPILED: "(iii) compiled",
    "normflows": "normflows",
    "normflows_basic": "normflows basic",
}
NORMFLOWS = ("normflows", "normflows_basic")
# normflows calls .view on its tensors, which channels-last images refuse.
_ONLY_CONTIGUOUS = (OURS, *NORMFLOWS)


def names(mode: str, compiled: bool) -> list[str]:
    """Return the implementations timed in a mode; without gradient (i) and (ii) are one, and so are normflows' two."""
    skipped = {"neumann", "normflows_basic"} if mode == "eval" else set()
    if not compiled:
        skipped.add(COMPILED)
    return [name for name in MAKERS if name not in skipped]


def memory_formats(name: str, problem: Problem) -> list[torch.memory_format]:
    """Return the memory formats in which an implementation is tried."""
    if name in _ONLY_CONTIGUOUS or not problem.is_conv:
        return [torch.contiguous_format]
    return [torch.contiguous_format, torch.channels_last]


def make_step(name: str, problem: Problem, mode: str, autocast: bool = False) -> Step:
    """Return one evaluation without gradient, (z, logdet), or one training step, the gradients of x and parameters.

    A training step is the forward pass and the gradient of <grad_z, z> + <grad_logdet, logdet>: a loss whose weights
    differ from sample to sample.

    Args:
        name: of the implementation.
        problem: its tensors; what is written into them later is seen by the step.
        mode: "eval" or "train".
        autocast: whether the forward pass runs under autocast to bfloat16.
    """
    forward, leaves = MAKERS[name](problem if mode == "eval" else problem.requires_grad(), mode)
    if autocast:
        forward = torch.autocast(problem.x.device.type, torch.bfloat16)(forward)
    if mode == "eval":
        evaluate = torch.no_grad()(forward)
        return lambda: evaluate()
    upstream = (problem.grad_z, problem.grad_logdet)
    return lambda: torch.autograd.grad(forward(), leaves, upstream)
