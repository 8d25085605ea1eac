"""One whole training step of a density model of images, ours and in plain torch, and the check that they agree.

A step goes from uint8 images in memory to updated weights: index, noise, power iteration, loss, gradients, clipping to
norm 1, Adam (fused) at the rate of the recipe. The loop is the same for all; what differs is the model.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from baselines import COMPILED
from plain_flow import PlainFlow
from sections import DATA, OPTIMIZER, Recorder
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from iresnet_fast.estimators import PowerSeries
from iresnet_fast.models import IResNetFlow
from iresnet_fast.nn import Dequantize, InvertibleResidualBlock

LEARNING_RATE, CLIP = 4e-2, 1.0  # of the MNIST recipe
# What the timed model changes in the MNIST preset. Its series has a fixed length: a compiled baseline whose number of
# terms changed from step to step would be compiled anew for each.
I_RESNET: dict[str, Any] = {
    "activation": "elu",
    "preactivation": False,
    "coeff": 0.9,
    "train_estimator": PowerSeries(n_terms=8),
}
# Where a whole step spends its time, as clocks in Python see it; ours iterates within "forward".
PHASES = (DATA, "power iteration", "forward", "backward", OPTIMIZER)
BASELINES = ("series", "neumann", "explicit")
# Rounding; and where it puts a pixel on the other side of 0, the second derivative of ELU jumps: one of thousands of
# terms. A wrong formula is off by far more.
LOSS_LIMIT, GRADIENT_LIMIT = 1e-5, 1e-3

Mark = Callable[[str], object]


class Model(Protocol):
    """What a step needs."""

    parameters: list[torch.nn.Parameter]

    def prepare(self, x: Tensor) -> tuple[Any, ...]: ...
    def iterate(self) -> None: ...
    def loss(self, *prepared: Any) -> Tensor: ...


class OurFlow:
    """The package's model, as its users train it."""

    def __init__(self, flow: IResNetFlow) -> None:
        self.flow, self.parameters = flow, list(flow.parameters())

    def prepare(self, x: Tensor) -> tuple[Tensor]:
        """Leave the noise to the model."""
        return (x,)

    def iterate(self) -> None:
        """Leave the spectral norms to the model."""

    def loss(self, x: Tensor) -> Tensor:
        """Return bits/dim, averaged over the batch."""
        return self.flow.bits_per_dim(x).mean()


class Clock:
    """Seconds of every phase of every step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._phase, self._since = "", 0.0

    def __call__(self, phase: str) -> None:
        """Say that a phase begins; "" ends the last one."""
        now = time.perf_counter()
        if self._phase:
            self.seconds[self._phase].append(now - self._since)
        self._phase, self._since = phase, now


class TrainStep:
    """A model, its optimizer and its place in the data; calling it makes one step.

    It can be captured in a CUDA graph if the model can: which batch is next, a tensor says.

    Args:
        model: to be trained.
        images: [N, C, H, W], uint8, on the device of the model.
        batch: images of a step.
        clip: largest norm of the gradient.
        autocast: whether the loss is computed under autocast to bfloat16.
        learning_rate: of Adam.
    """

    def __init__(
        self,
        model: Model,
        images: Tensor,
        batch: int,
        clip: float = CLIP,
        autocast: bool = False,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        self.model, self.images, self.clip = model, images, clip
        self.optimizer = torch.optim.Adam(model.parameters, lr=learning_rate, fused=True, capturable=images.is_cuda)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
        self._batches = order[: len(order) - len(order) % batch].view(-1, batch)
        self._next = torch.zeros(1, dtype=torch.int64, device=images.device)
        self._autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=autocast)
        self.clock = Clock()
        self.mark: Mark = self.clock

    def __call__(self) -> None:
        """Make one step."""
        model, mark = self.model, self.mark
        mark(PHASES[0])
        x = self.images[self._batches.index_select(0, self._next)[0]]
        self._next.add_(1).remainder_(len(self._batches))
        prepared = model.prepare(x)
        mark(PHASES[1])
        model.iterate()
        mark(PHASES[2])
        with self._autocast:
            loss = model.loss(*prepared)
        mark(PHASES[3])
        loss.backward()
        mark(PHASES[4])
        clip_grad_norm_(model.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark("")


class Drawn(NamedTuple):
    """The loss and the gradients of ours, and what it drew for them."""

    flow: IResNetFlow  # with the norms of this evaluation
    results: tuple[Tensor, ...]  # loss, gradients in the order of PlainFlow.sources
    noisy: Tensor
    probes: list[Tensor]
    coefficients: list[Tensor]  # of the terms of each block


def drawn(flow: IResNetFlow, x: Tensor, name: str, autocast: bool = False) -> Drawn:
    """Evaluate a copy of the model on the images x [B, C, H, W], uint8, with the gradient that a baseline estimates."""
    ours, noisy, recorder = copy.deepcopy(flow), [], Recorder()
    for module in ours.modules():
        if isinstance(module, InvertibleResidualBlock):
            module.estimator = replace(module.estimator, gradient="series" if name == "series" else "neumann")
        if isinstance(module, Dequantize):
            hook = module.register_forward_hook(lambda _module, _x, result: noisy.append(result[0]))
    with recorder, torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        loss = ours.bits_per_dim(x).mean()
    hook.remove()
    gradients = torch.autograd.grad(loss, PlainFlow(ours, name).sources)
    probes, coefficients = recorder.draws()
    probes = [probe.view(x.shape) for probe in probes]
    return Drawn(ours, (loss.detach(), *gradients), noisy[0], probes, coefficients)


def plain_results(plain: PlainFlow, of: Drawn) -> tuple[Tensor, ...]:
    """Return the loss and the gradients of a baseline for what ours drew."""
    dtype = plain.mean.dtype
    loss = plain.loss(of.noisy.to(dtype), *([t.to(dtype) for t in drawn] for drawn in (of.probes, of.coefficients)))
    return (loss.detach(), *torch.autograd.grad(loss, plain.parameters))


def difference(results: Sequence[Tensor], truth: Sequence[Tensor]) -> tuple[float, float]:
    """Return the relative errors of a loss and its gradients.

    That of a gradient is the largest difference over the largest entry, of the worst tensor. The scalars of all
    activations are one tensor: the gradient of one is a sum whose terms may cancel until rounding is all that is left.
    """
    pairs = zip(_in_tensors(results), _in_tensors(truth), strict=True)
    loss, *others = (float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
    return loss, max(others)


def _in_tensors(results: Sequence[Tensor]) -> list[Tensor]:
    """Return a loss and its gradients, those that are scalars in one tensor."""
    loss, *gradients = results
    scalars = [gradient for gradient in gradients if gradient.dim() == 0]
    return [loss, *(gradient for gradient in gradients if gradient.dim()), *([torch.stack(scalars)] if scalars else [])]


def agreeing(flow: IResNetFlow, x: Tensor, name: str, **form: Any) -> tuple[PlainFlow, tuple[float, float]]:
    """Return a baseline after checking that it computes what ours does, and the relative errors of loss and gradients.

    Both get the noise, the probes and the coefficients that ours draws. The series is compared with the gradient that
    our kernels give for gradient="series".

    Args:
        flow: the model, which is left alone.
        x: [B, C, H, W], uint8.
        name: of the baseline.
        form: further options of PlainFlow.

    Raises:
        RuntimeError: they do not agree.
    """
    ours = drawn(flow, x, name)
    plain = PlainFlow(ours.flow, "explicit" if name == COMPILED else name, **form)
    value, gradient = difference(plain_results(plain, ours), ours.results)
    if not (value <= LOSS_LIMIT and gradient <= GRADIENT_LIMIT):
        raise RuntimeError(
            f"{name} must compute what ours computes, got a loss off by {value:.1e} and gradients off by "
            f"{gradient:.1e}; there is nothing to compare until they agree."
        )
    return plain, (value, gradient)
