"""Density models of images in plain torch, as lean as we can write them: what a whole training step is compared with.

They have the weights of an IResNetFlow or ResidualFlow and compute its loss. The log-determinant of a block is one of
`iresnet_fast.reference`; everything else is a few operations of torch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iresnet_fast import reference
from iresnet_fast.estimators import RussianRoulette
from iresnet_fast.models import IResNetFlow
from iresnet_fast.nn import ActNorm, Flatten, InvertibleResidualBlock, ResidualBranch, Squeeze

SQUEEZE, FLATTEN = "squeeze", "flatten"


class Norm(NamedTuple):
    """The parameters of an ActNorm."""

    shift: nn.Parameter
    log_scale: nn.Parameter


class Block(NamedTuple):
    """The parameters of a residual block, stage by stage."""

    weights: list[nn.Parameter]  # not normalised
    biases: list[nn.Parameter]
    betas: list[nn.Parameter | None]  # of the activations; None: it has none
    activations: tuple[str, ...]


# Of the recipe in plain torch: 5 and fewer let norms exceed their bound by a tenth and more at its learning rate.
POWER_ITERATIONS = 10


class PlainFlow:
    """IResNetFlow in plain torch, for whole numbers, a logit and one scale after the other without factor_out.

    Residual branches begin with an activation or not, and fully connected blocks and an ActNorm may follow at the end.

    Args:
        flow: whose weights, power-iteration vectors and settings are copied.
        gradient: "series", "neumann" or "explicit": the function of `iresnet_fast.reference` for the blocks.
        memory_format: of the images inside.
        compiled: whether the loss is compiled, in one piece.
        dtype: of the tensors inside the blocks; None: that of the weights.
        power_iterations: of every layer at every step, as published code has it; ours iterates to a residual.
    """

    def __init__(
        self,
        flow: IResNetFlow,
        gradient: str,
        memory_format: torch.memory_format = torch.contiguous_format,
        compiled: bool = False,
        dtype: torch.dtype | None = None,
        power_iterations: int = POWER_ITERATIONS,
    ) -> None:
        config = flow.config
        self.gradient, self.memory_format = gradient, memory_format
        self.n_levels, self.alpha, self.n_dims = config.n_levels, config.alpha, config.n_dims
        self.most, self.coeff = power_iterations, config.coeff
        self.tol: float | None = None
        self.layers: list[Norm | Block | str] = []
        self.parameters: list[nn.Parameter] = []
        self.sources: list[Tensor] = []  # those of the flow that they are copies of
        spectral = []
        for module in flow.body:
            if isinstance(module, Squeeze):
                self.layers.append(SQUEEZE)
            elif isinstance(module, Flatten):
                self.layers.append(FLATTEN)
            elif isinstance(module, ActNorm):
                self.layers.append(Norm(self._own(module.bias), self._own(module.log_scale)))
            elif isinstance(module, InvertibleResidualBlock) and isinstance(module.branch, ResidualBranch):
                spectral += module.branch.layers
                self.layers.append(self._block_of(module.branch))
        prior = flow.prior
        self.mean, self.log_scale = (
            self._own(t) if prior.learned else t.clone() for t in (prior.mean, prior.log_scale)
        )
        self.dtype = dtype or self.mean.dtype
        self.estimator = config.train_estimator
        self.geometry = [layer.geometry for layer in spectral]
        self.us, self.vs = ([getattr(layer, name).clone() for layer in spectral] for name in ("u", "v"))
        self.sigmas = torch.stack([layer.sigma for layer in spectral])
        if compiled:
            torch._dynamo.reset()
            self._loss = torch.compile(self._loss, fullgraph=True, dynamic=False)  # type: ignore[method-assign]

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weights of all layers, not normalised."""
        return [weight for block in self.blocks for weight in block.weights]

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks."""
        return [layer for layer in self.layers if isinstance(layer, Block)]

    @torch.no_grad()
    def prepare(self, x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the images [B, C, H, W], whole numbers, as noisy numbers in [0, 1), and what each block draws.

        That is a probe and the coefficients of its terms: ones, or of a roulette, which draws as it does for ours.
        """
        unit = (x + torch.rand(x.shape, device=x.device)) / self.n_levels
        count = len(self.blocks)
        probes = torch.randint(0, 2, (count, *x.shape), dtype=torch.float32, device=x.device)
        if isinstance(self.estimator, RussianRoulette):
            no_probe = unit.new_empty(0)
            coefficients = [self.estimator.draw(no_probe, training=True)[1] for _ in range(count)]
        else:
            coefficients = [unit.new_ones(self.estimator.n_terms)] * count
        return unit, list(probes.mul_(2.0).sub_(1.0)), coefficients

    @torch.no_grad()
    def iterate(self) -> None:
        """Follow the weights by power iteration, each layer until its norm changes by less than the tolerance.

        The same iteration as `reference.spectral_norm`, without its care for zero weights. Where a convolution has
        fewer outputs than inputs, its transpose is faster as a convolution. u and v stay where they are, as a CUDA
        graph needs it. On a GPU all iterations are made: one costs less than to wait for the number that says whether
        it was the last.
        """
        looks = self.tol is not None and not self.mean.is_cuda
        sigmas = []
        for i, weight in enumerate(self.weights):
            u, v, previous = self.us[i], self.vs[i], 0.0
            matrix = self.geometry[i] is None
            w = weight.flatten(1) if matrix else weight
            w_t, padding = w.t() if matrix else w.flip(2, 3).transpose(0, 1).contiguous(), w.shape[-1] // 2
            narrowing = w.shape[0] < w.shape[1]
            for _ in range(self.most):
                if matrix:
                    v = w_t.mv(u)
                elif narrowing:
                    v = F.conv2d(u[None], w_t, padding=padding)[0]
                else:
                    v = F.conv_transpose2d(u[None], w, padding=padding)[0]
                v = torch.div(v, torch.linalg.vector_norm(v), out=self.vs[i])
                u = w.mv(v) if matrix else F.conv2d(v[None], w, padding=padding)[0]
                sigma = torch.linalg.vector_norm(u)
                u = torch.div(u, sigma, out=self.us[i])
                if looks:
                    value = sigma.item()
                    if abs(value - previous) <= self.tol * value:
                        break
                    previous = value
            sigmas.append(sigma)
        self.sigmas = torch.stack(sigmas)

    def loss(self, unit: Tensor, probes: list[Tensor], coefficients: list[Tensor]) -> Tensor:
        """Return bits/dim, averaged over the batch."""
        value: Tensor = self._loss(unit, probes, coefficients, self.sigmas, self.us, self.vs)
        return value

    def _loss(
        self,
        unit: Tensor,
        probes: list[Tensor],
        coefficients: list[Tensor],
        sigmas: Tensor,
        us: list[Tensor],
        vs: list[Tensor],
    ) -> Tensor:
        normalised = iter(reference.spectral_normalize(self.weights, sigmas, us, vs, self.geometry, self.coeff))
        scaled = self.alpha + (1.0 - 2.0 * self.alpha) * unit
        x = self._formatted(torch.logit(scaled))
        logdet = -(scaled.log() + torch.log1p(-scaled)).flatten(1).sum(1)
        stretch = x.new_zeros(())
        draws = iter(zip(probes, coefficients, strict=True))
        for layer in self.layers:
            if isinstance(layer, Norm):
                stretch = stretch + layer.log_scale.sum() * x.shape[2:].numel()
                shift, log_scale = (t.view(-1, *([1] * (x.dim() - 2))) for t in layer)
                x = (x + shift) * log_scale.exp()
            elif isinstance(layer, Block):
                weights = [next(normalised) for _ in layer.weights]
                x, estimate = self._transformed(x, layer, weights, *next(draws))
                logdet = logdet + estimate
            else:
                x = self._formatted(F.pixel_unshuffle(x, 2)) if layer == SQUEEZE else x.flatten(1)
        standard = (x.flatten(1) - self.mean) * (-self.log_scale).exp()
        log_prior = -0.5 * standard.square().sum(1) - self.log_scale.sum() - 0.5 * self.n_dims * math.log(2.0 * math.pi)
        constant = self.n_dims * (math.log1p(-2.0 * self.alpha) - math.log(self.n_levels))
        log_prob = log_prior + logdet + stretch + constant
        return log_prob.mean() / (-self.n_dims * math.log(2.0))

    def _transformed(
        self, x: Tensor, block: Block, weights: list[Tensor], probe: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return x + g(x) and the estimate of the log-determinant, with normalised weights."""
        narrow = self.dtype
        betas = [None if beta is None else beta.to(narrow) for beta in block.betas]
        stages = ([t.to(narrow) for t in weights], [t.to(narrow) for t in block.biases], block.activations)
        series = (self._formatted(probe.view(x.shape)).to(narrow), coefficients.to(narrow))
        if self.gradient == "explicit":
            z, logdet = reference.residual_logdet_explicit(x.to(narrow), *stages, *series, betas)
        else:
            z, logdet, *_ = reference.residual_logdet(x.to(narrow), *stages, *series, self.gradient, betas)
        return z.to(x.dtype), logdet.to(x.dtype)

    def _formatted(self, x: Tensor) -> Tensor:
        """Return images in the memory format, and vectors as they are."""
        return x.contiguous(memory_format=self.memory_format) if x.dim() == 4 else x

    def _block_of(self, branch: ResidualBranch) -> Block:
        layers = list(branch.layers)
        betas = [getattr(branch, f"beta_{i}", None) for i in range(len(layers))]
        return Block(
            [self._own(layer.weight) for layer in layers],
            [self._own(layer.bias) for layer in layers],
            [None if beta is None else self._own(beta) for beta in betas],
            branch.activations,
        )

    def _own(self, tensor: Tensor) -> nn.Parameter:
        parameter = nn.Parameter(tensor.detach().clone())
        self.parameters.append(parameter)
        self.sources.append(tensor)
        return parameter
