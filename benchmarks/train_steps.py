"""One whole training step of the MNIST density recipe, ours and in plain torch, and the check that they agree.

A step goes from uint8 images in memory to updated weights: index, noise, power iteration, loss, gradients, clipping to
norm 1, Adam (fused) at 4e-2. The loop is the same for all; what differs is the model.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from baselines import COMPILED
from plain_flow import PlainFlow
from sections import DATA, OPTIMIZER, Recorder
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from iresnet_fast.models import IResNetFlow
from iresnet_fast.nn import Dequantize, InvertibleResidualBlock

LEARNING_RATE, CLIP = 4e-2, 1.0
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

    Args:
        model: to be trained.
        images: [N, 1, H, W], uint8.
        batch: images of a step.
        clip: largest norm of the gradient.
    """

    def __init__(self, model: Model, images: Tensor, batch: int, clip: float = CLIP) -> None:
        self.model, self.images, self.clip = model, images, clip
        self.optimizer = torch.optim.Adam(model.parameters, lr=LEARNING_RATE, fused=True)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        self._batches, self._next = order[: len(order) - len(order) % batch].view(-1, batch), 0
        self.clock = Clock()
        self.mark: Mark = self.clock

    def __call__(self) -> None:
        """Make one step."""
        model, mark = self.model, self.mark
        mark(PHASES[0])
        x = self.images[self._batches[self._next]]
        self._next = (self._next + 1) % len(self._batches)
        prepared = model.prepare(x)
        mark(PHASES[1])
        model.iterate()
        mark(PHASES[2])
        loss = model.loss(*prepared)
        mark(PHASES[3])
        loss.backward()
        mark(PHASES[4])
        clip_grad_norm_(model.parameters, self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        mark("")


def agreeing(flow: IResNetFlow, x: Tensor, name: str, **form: Any) -> tuple[PlainFlow, tuple[float, float]]:
    """Return a baseline after checking that it computes what ours does, and the relative errors of loss and gradients.

    Both get the noise and the probes that ours draws. The series is compared with the gradient that our kernels give
    for gradient="series". An error of a gradient is the largest difference over the largest entry, of the worst tensor.

    Args:
        flow: the model, which is left alone.
        x: [B, 1, H, W], uint8.
        name: of the baseline.
        form: further options of PlainFlow.

    Raises:
        RuntimeError: they do not agree.
    """
    ours, noisy, recorder = copy.deepcopy(flow), [], Recorder()
    for module in ours.modules():
        if isinstance(module, InvertibleResidualBlock):
            module.estimator = replace(module.estimator, gradient="series" if name == "series" else "neumann")
        if isinstance(module, Dequantize):
            hook = module.register_forward_hook(lambda _module, _x, result: noisy.append(result[0]))
    with recorder:
        loss = ours.bits_per_dim(x).mean()
    hook.remove()
    plain = PlainFlow(ours, "explicit" if name == COMPILED else name, **form)  # with the norms of this forward pass
    # In the shape of its own, or the compiled one would compile again.
    again = plain.loss(noisy[0], [probe.view(x.shape) for probe in recorder.arguments_named("probe")])
    gradients, others = torch.autograd.grad(loss, plain.sources), torch.autograd.grad(again, plain.parameters)
    gradient = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(gradients, others, strict=True))
    value = abs(again.item() / loss.item() - 1.0)
    if not (value <= LOSS_LIMIT and gradient <= GRADIENT_LIMIT):
        raise RuntimeError(
            f"{name} must compute what ours computes, got a loss off by {value:.1e} and gradients off by "
            f"{gradient:.1e}; there is nothing to compare until they agree."
        )
    return plain, (value, gradient)
