"""The named cases of the benchmarks: real data, branches, sizes, and the floors they are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from iresnet_fast import ops
from iresnet_fast.geometry import ConvGeometry

COEFF = 0.9  # spectral norm of every layer
GREY = (0.299, 0.587, 0.114)

Events = Callable[[int, np.random.Generator], NDArray[Any]]


def pinwheel(count: int, rng: np.random.Generator) -> NDArray[Any]:
    """Points [count, 2] of a spiral with five arms."""
    arms = rng.integers(5, size=count)
    radius, offset = 1.0 + 0.3 * rng.standard_normal(count), 0.1 * rng.standard_normal(count)
    angle = 2.0 * np.pi * arms / 5 + 0.25 * np.exp(radius)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack((radius * cos - offset * sin, radius * sin + offset * cos), 1)


def digits(count: int, rng: np.random.Generator) -> NDArray[Any]:
    """scikit-learn's 8x8 digits [count, 64], dequantised and standardised pixel by pixel."""
    from sklearn.datasets import load_digits

    pixels = load_digits().data
    pixels = pixels[rng.permutation(len(pixels))[:count]] + rng.random((count, pixels.shape[1]))
    return (pixels - pixels.mean(0)) / pixels.std(0)


def patches(size: int, grey: bool, squeezes: int) -> Events:
    """Patches cut from scikit-learn's two photographs, dequantised to [-0.5, 0.5) and squeezed by 2x2 pixels."""

    def events(count: int, rng: np.random.Generator) -> NDArray[Any]:
        from sklearn.datasets import load_sample_images

        cut = [
            picture[row : row + size, column : column + size]
            for picture in load_sample_images().images
            for row in range(0, picture.shape[0] - size + 1, size)
            for column in range(0, picture.shape[1] - size + 1, size)
        ]
        pixels = np.stack([cut[i] for i in rng.permutation(len(cut))[:count]]).astype(np.float64)
        if grey:
            pixels = np.rint(pixels @ np.array(GREY))[..., None]
        images = torch.from_numpy((pixels + rng.random(pixels.shape)) / 256.0 - 0.5).permute(0, 3, 1, 2)
        for _ in range(squeezes):
            images = nn.functional.pixel_unshuffle(images, 2)
        return images.contiguous().numpy()

    return events


@dataclass(frozen=True)
class Floors:
    """Least speed-ups over the autograd series (i) and over the best baseline, least share of the sgemm peak."""

    eval_series: float
    train_series: float
    train_best: float
    eval_share: float | None = None


@dataclass(frozen=True)
class Case:
    """One line of the table: a branch of `widths` channels, dense or with one convolution per kernel size."""

    name: str
    events: Events
    widths: tuple[int, ...]
    kernels: tuple[int, ...] | None
    image: tuple[int, int] | None
    batch: int
    terms: int
    floors: Floors | None = None  # on a CPU
    blocks: int = 1  # of the same widths, one after the other

    @property
    def label(self) -> str:
        """What the branch is, in a few words."""
        many = f"{self.blocks} blocks, " if self.blocks > 1 else ""
        if self.image is None or self.kernels is None:
            return f"{many}dense " + "-".join(map(str, self.widths))
        event = "x".join(map(str, (self.widths[0], *self.image)))
        return f"{many}{event}, conv {'-'.join(map(str, self.kernels))}, {self.widths[1]} channels"


CASES = {
    case.name: case
    for case in (
        Case("toy2d", pinwheel, (2, 128, 128, 128, 2), None, None, 1000, 10, Floors(2.2, 6.0, 1.5)),
        Case("tabular", digits, (64, 128, 128, 64), None, None, 1024, 10, Floors(2.0, 5.0, 1.25)),
        Case(
            "mnist", patches(28, True, 1), (4, 32, 32, 4), (3, 1, 3), (14, 14), 128, 10, Floors(5.0, 11.0, 3.5, 0.65)
        ),
        Case(
            "cifar128", patches(32, False, 1), (12, 128, 128, 12), (3, 1, 3), (16, 16), 32, 5,
            Floors(2.0, 4.0, 1.6, 0.65),
        ),
        Case(
            "cifar512", patches(32, False, 1), (12, 512, 512, 12), (3, 1, 3), (16, 16), 16, 5,
            Floors(1.5, 2.8, 1.3, 0.65),
        ),
        Case("deep512", patches(32, False, 2), (48, 512, 512, 48), (3, 1, 3), (8, 8), 16, 5, Floors(1.0, 2.0, 1.1)),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """The tensors of a case: what every implementation is given."""

    x: Tensor  # [B, d] or [B, C, H, W]
    weights: list[Tensor]  # of all blocks, in order
    biases: list[Tensor]
    activations: list[str]
    probe: Tensor  # as x
    coefficients: Tensor  # [n], ones
    grad_z: Tensor  # as x: the gradient that arrives at z
    grad_logdet: Tensor  # [B]: differs from sample to sample
    blocks: int = 1  # that share the probe and the coefficients

    @property
    def is_conv(self) -> bool:
        """Whether events are images."""
        return self.x.dim() == 4

    @property
    def lipschitz(self) -> float:
        """Lipschitz constant of the branch: every layer has norm COEFF, every activation 1."""
        return COEFF ** (len(self.weights) // self.blocks)

    @property
    def branches(self) -> list[tuple[list[Tensor], list[Tensor], list[str]]]:
        """Weights, biases and activations of each block."""
        size = len(self.weights) // self.blocks
        cuts = [slice(i, i + size) for i in range(0, len(self.weights), size)]
        return [(self.weights[cut], self.biases[cut], self.activations[cut]) for cut in cuts]

    def to(self, *args: Any, **kwargs: Any) -> Problem:
        """Move all tensors, as torch.Tensor.to; a memory format applies to images and convolutions."""
        plain = {key: value for key, value in kwargs.items() if key != "memory_format"}

        def move(t: Tensor) -> Tensor:
            return t.to(*args, **(kwargs if t.dim() == 4 else plain))

        return self._map(move, move, move, move)

    def head(self, count: int) -> Problem:
        """Keep the first `count` samples."""
        return self._map(lambda t: t[:count], lambda t: t, lambda t: t, lambda t: t[:count])

    def miniature(self) -> Problem:
        """Cut everything down to two samples of two channels: the same code at next to no memory."""

        def event(t: Tensor) -> Tensor:
            return t[:2, :2, :6, :6].clone() if self.is_conv else t[:2, :2].clone()

        return self._map(event, lambda t: t[:2, :2].clone(), lambda t: t[:2].clone(), lambda t: t[:2].clone())

    def requires_grad(self) -> Problem:
        """Return leaves on the same memory that ask for the gradients of a training step."""

        def leaf(t: Tensor) -> Tensor:
            return t.detach().requires_grad_()

        return replace(
            self, x=leaf(self.x), weights=[leaf(t) for t in self.weights], biases=[leaf(t) for t in self.biases]
        )

    def _map(
        self,
        event: Callable[[Tensor], Tensor],
        weight: Callable[[Tensor], Tensor],
        bias: Callable[[Tensor], Tensor],
        per_sample: Callable[[Tensor], Tensor],
    ) -> Problem:
        return Problem(
            event(self.x),
            [weight(t) for t in self.weights],
            [bias(t) for t in self.biases],
            self.activations,
            event(self.probe),
            self.coefficients.to(per_sample(self.grad_logdet)),
            event(self.grad_z),
            per_sample(self.grad_logdet),
            self.blocks,
        )


def build(case: Case, terms: int | None = None, device: str = "cpu") -> Problem:
    """Return the problem of a case in float32 on a device, norms iterated there: the same numbers on every call."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(case.events(case.batch, rng)).float()
    layers = [layer for seed in range(case.blocks) for layer in layers_of(case, seed)]
    weights = [layer.weight.detach() for layer in layers]
    sigmas = norms(weights, geometry_of(case) * case.blocks, device).cpu()
    generator = torch.Generator().manual_seed(0)
    problem = Problem(
        x=x,
        weights=[weight * (COEFF / sigma) for weight, sigma in zip(weights, sigmas, strict=True)],
        biases=[layer.bias.detach() for layer in layers],
        activations=(["identity"] + ["elu"] * (len(case.widths) - 2)) * case.blocks,
        probe=torch.randint(0, 2, x.shape, generator=generator).float() * 2.0 - 1.0,
        coefficients=torch.ones(terms or case.terms),
        grad_z=torch.randn(x.shape, generator=generator),
        grad_logdet=torch.rand(len(x), generator=generator) + 0.5,
        blocks=case.blocks,
    )
    return problem.to(device)


def missing_module(case: Case) -> str | None:
    """Return the name of the module that has the events of a case and is not installed; None: they can be had."""
    try:
        case.events(2, np.random.default_rng(0))
    except ModuleNotFoundError as error:
        return error.name
    return None


def layers_of(case: Case, seed: int = 0) -> list[nn.Linear] | list[nn.Conv2d]:
    """Return the layers of a branch as torch initialises them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pairs = list(zip(case.widths[:-1], case.widths[1:], strict=True))
        if case.kernels is None:
            return [nn.Linear(i, o) for i, o in pairs]
        return [nn.Conv2d(i, o, k, padding=k // 2) for (i, o), k in zip(pairs, case.kernels, strict=True)]


def geometry_of(case: Case) -> list[ConvGeometry | None]:
    """Return where each layer acts: a 1x1 convolution is its matrix."""
    if case.kernels is None or case.image is None:
        return [None] * (len(case.widths) - 1)
    return [None if k == 1 else ConvGeometry(case.image, padding=(k // 2, k // 2)) for k in case.kernels]


def start_vectors(weights: list[Tensor], geometry: list[ConvGeometry | None]) -> tuple[list[Tensor], list[Tensor]]:
    """Return random unit vectors u, v for the power iteration of every layer."""
    generator = torch.Generator().manual_seed(0)

    def unit(channels: int, place: ConvGeometry | None) -> Tensor:
        shape = (channels,) if place is None else (channels, *place.image_size)  # "same" padding: out is as large as in
        vector = torch.randn(shape, generator=generator)
        return vector / vector.norm()

    pairs = list(zip(weights, geometry, strict=True))
    return [unit(w.shape[0], place) for w, place in pairs], [unit(w.shape[1], place) for w, place in pairs]


def norms(weights: list[Tensor], geometry: list[ConvGeometry | None], device: str) -> Tensor:
    """Return the spectral norm of every layer on its images."""
    us, vs = start_vectors(weights, geometry)
    weights, us, vs = ([tensor.to(device) for tensor in tensors] for tensors in (weights, us, vs))
    return ops.spectral_norm(weights, us, vs, geometry, n_iterations=2000, tol=1e-6)[0]


def stage_flops(problem: Problem) -> list[int]:
    """Return the operations (two per multiply-add) of each linear map over the whole batch."""
    pixels = problem.x.shape[2:].numel()
    return [2 * weight.numel() * pixels * len(problem.x) for weight in problem.weights]


def step_flops(problem: Problem, mode: str) -> int:
    """Return the operations our kernels spend in products; F is one evaluation of the branch.

    eval: F and one F per term. train: F, the tangent F and one F per term but the last, then in backward the cotangent
    (but for its last map: the branch starts with the identity) and the ordinary backward, one F each, and the two
    weight gradients, 2 F. Counted as if pads were multiplied, which the weight gradients of convolutions leave out.
    """
    stages = stage_flops(problem)
    flops = (1 + len(problem.coefficients)) * sum(stages)
    return flops if mode == "eval" else flops + 4 * sum(stages) - problem.blocks * stages[0]
