"""The MNIST density model in plain torch, as lean as we can write it: what a whole training step is compared with.

It has the weights of an IResNetFlow and computes its loss. The log-determinant of a block is one of
`iresnet_fast.reference`; everything else is a few operations of torch.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iresnet_fast import reference
from iresnet_fast.models import IResNetFlow
from iresnet_fast.nn import ActNorm, InvertibleResidualBlock, ResidualBranch, Squeeze

Block = dict[str, nn.Parameter]


class PlainFlow:
    """IResNetFlow in plain torch, for whole numbers, a logit and one scale after the other without factor_out.

    Args:
        flow: whose weights, power-iteration vectors and settings are copied.
        gradient: "series", "neumann" or "explicit": the function of `iresnet_fast.reference` for the blocks.
        memory_format: of the images inside.
        compiled: whether the loss is compiled, in one piece.
        dtype: of the tensors inside the blocks; None: that of the weights.
    """

    def __init__(
        self,
        flow: IResNetFlow,
        gradient: str,
        memory_format: torch.memory_format = torch.contiguous_format,
        compiled: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        config = flow.config
        self.gradient, self.memory_format = gradient, memory_format
        self.n_levels, self.alpha, self.n_dims = config.n_levels, config.alpha, config.n_dims
        self.most, self.tol, self.coeff = config.power_iterations, config.power_tolerance, config.coeff
        self.blocks: list[Block | None] = []  # None: a squeeze
        self.parameters: list[nn.Parameter] = []
        self.sources: list[Tensor] = []  # those of the flow that they are copies of
        layers, norm = [], None
        for module in flow.body:
            if isinstance(module, Squeeze):
                self.blocks.append(None)
            elif isinstance(module, ActNorm):
                norm = {"shift": self._own(module.bias), "log_scale": self._own(module.log_scale)}
            elif isinstance(module, InvertibleResidualBlock) and isinstance(module.branch, ResidualBranch):
                assert norm is not None
                self.activations = module.branch.activations
                for i, layer in enumerate(module.branch.layers):
                    norm |= {f"weight{i}": self._own(layer.weight), f"bias{i}": self._own(layer.bias)}
                    layers.append(layer)
                self.blocks.append(norm)
        self.mean, self.log_scale = self._own(flow.prior.mean), self._own(flow.prior.log_scale)
        self.dtype = dtype or self.mean.dtype
        self.coefficients = self.mean.new_ones(config.train_estimator.n_terms, dtype=self.dtype)
        self.geometry = [layer.geometry for layer in layers]
        self.us, self.vs = ([getattr(layer, name).clone() for layer in layers] for name in ("u", "v"))
        self.sigmas = torch.stack([layer.sigma for layer in layers])
        if compiled:
            torch._dynamo.reset()
            self._loss = torch.compile(self._loss, fullgraph=True, dynamic=False)  # type: ignore[method-assign]

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weights of all layers, not normalised."""
        return [block[f"weight{i}"] for block in self.blocks if block for i in range(len(self.activations))]

    @torch.no_grad()
    def prepare(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the images [B, 1, H, W], whole numbers, as noisy numbers in [0, 1), and a probe for each block."""
        unit = (x + torch.rand(x.shape, device=x.device)) / self.n_levels
        count = sum(block is not None for block in self.blocks)
        probes = torch.randint(0, 2, (count, *x.shape), dtype=torch.float32, device=x.device)
        return unit, list(probes.mul_(2.0).sub_(1.0))

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

    def loss(self, unit: Tensor, probes: list[Tensor]) -> Tensor:
        """Return bits/dim, averaged over the batch."""
        value: Tensor = self._loss(unit, probes, self.sigmas, self.us, self.vs)
        return value

    def _loss(self, unit: Tensor, probes: list[Tensor], sigmas: Tensor, us: list[Tensor], vs: list[Tensor]) -> Tensor:
        normalised = iter(reference.spectral_normalize(self.weights, sigmas, us, vs, self.geometry, self.coeff))
        scaled = self.alpha + (1.0 - 2.0 * self.alpha) * unit
        x = torch.logit(scaled)
        logdet = -(scaled.log() + torch.log1p(-scaled)).flatten(1).sum(1)
        n_stages, stretch = len(self.activations), x.new_zeros(())
        probe = iter(probes)
        for block in self.blocks:
            if block is None:
                x = F.pixel_unshuffle(x, 2).contiguous(memory_format=self.memory_format)
                continue
            weights = [next(normalised) for _ in range(n_stages)]
            v = next(probe).view(x.shape).contiguous(memory_format=self.memory_format)
            stretch = stretch + block["log_scale"].sum() * x.shape[2:].numel()
            x = (x + block["shift"].view(-1, 1, 1)) * block["log_scale"].exp().view(-1, 1, 1)
            x, estimate = self._block(x, weights, [block[f"bias{i}"] for i in range(n_stages)], v)
            logdet = logdet + estimate
        standard = (x.flatten(1) - self.mean) * (-self.log_scale).exp()
        log_prior = -0.5 * standard.square().sum(1) - self.log_scale.sum() - 0.5 * self.n_dims * math.log(2.0 * math.pi)
        constant = self.n_dims * (math.log1p(-2.0 * self.alpha) - math.log(self.n_levels))
        log_prob = log_prior + logdet + stretch + constant
        return log_prob.mean() / (-self.n_dims * math.log(2.0))

    def _block(self, x: Tensor, weights: list[Tensor], biases: list[Tensor], v: Tensor) -> tuple[Tensor, Tensor]:
        weights, biases = ([t.to(self.dtype) for t in tensors] for tensors in (weights, biases))
        stages = (x.to(self.dtype), weights, biases, self.activations, v.to(self.dtype), self.coefficients)
        if self.gradient == "explicit":
            z, logdet = reference.residual_logdet_explicit(*stages)
        else:
            z, logdet, *_ = reference.residual_logdet(*stages, gradient=self.gradient)
        return z.to(x.dtype), logdet.to(x.dtype)

    def _own(self, tensor: Tensor) -> nn.Parameter:
        parameter = nn.Parameter(tensor.detach().clone())
        self.parameters.append(parameter)
        self.sources.append(tensor)
        return parameter
