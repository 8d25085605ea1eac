"""Noise channels appended to the input: more width for a density model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_floating, check_samples, check_tensor
from .._keys import hashed_probe, hashed_uniform
from .._tracing import drawn_from
from ._call import Call, TakesCall
from ._transform import Transform


class NoisePad(TakesCall, Transform):
    """z = [x, u], u noise in n_channels more channels, with -log p(u) as its log-determinant (arXiv 2002.07101).

    The expectation over u of the log-density of z plus that is a lower bound of the log-density of x. The inverse drops
    the channels and returns log p of what they hold.

    Args:
        n_channels: channels of noise to append.
        noise: "gaussian", or "uniform" in [0, 1).
        eval_noise: outside training "fixed": noise that is a function of the bits of each sample and a seed, so the
            same in any batch; "random": new noise.
        eval_seed: of the fixed noise.
        generator: of the random noise, on the device of x; None: torch's global one.

    Raises:
        ValueError: an argument is out of range.
        TypeError: an integer argument is not an integer.
    """

    def __init__(
        self,
        n_channels: int,
        noise: str = "gaussian",
        eval_noise: str = "fixed",
        eval_seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("n_channels", n_channels, 0)
        _checks.check_seed("eval_seed", eval_seed)
        if noise not in ("gaussian", "uniform"):
            raise ValueError(f"noise must be 'gaussian' or 'uniform', got {noise!r}; use one of the two.")
        if eval_noise not in ("fixed", "random"):
            raise ValueError(f"eval_noise must be 'fixed' or 'random', got {eval_noise!r}; use one of the two.")
        self.n_channels, self.noise = n_channels, noise
        self.eval_noise, self.eval_seed, self.generator = eval_noise, eval_seed, generator

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of an event of z; raises ValueError if an event has no channels."""
        if len(event_shape) < 1:
            raise ValueError(f"x must have shape [B, C, ...], got events of shape {tuple(event_shape)}; reshape it.")
        return (event_shape[0] + self.n_channels, *event_shape[1:])

    def forward(self, x: Tensor, context: Any = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return z and -log p(u) [B]; context is not used, `call` is that of a container.

        Raises:
            ValueError: x has no channels.
        """
        check_floating(x)
        check_samples(x)
        noise = self._draw(x.new_empty(x.shape[0], self.n_channels, *x.shape[2:]), Call.given(call, x))
        return torch.cat((x, noise), 1), -self._log_prob(noise)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z without the noise, and log p of the noise [B]; context is not used.

        Raises:
            ValueError: z has no channels beside the noise.
        """
        check_tensor(z, "z")
        if z.dim() < 2 or z.shape[1] <= self.n_channels:
            raise ValueError(
                f"z must have shape [B, C, ...] with more than {self.n_channels} channels, got {tuple(z.shape)}; pass "
                f"what forward returned."
            )
        n = z.shape[1] - self.n_channels
        return z[:, :n], self._log_prob(z[:, n:])

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.n_channels}, noise={self.noise!r}, eval_noise={self.eval_noise!r}"

    def _draw(self, like: Tensor, call: Call) -> Tensor:
        gaussian = self.noise == "gaussian"
        if not self.training and self.eval_noise == "fixed":
            keys, seed = call.keys(), self.eval_seed
            return hashed_probe(keys, like, 1, "gaussian", seed) if gaussian else hashed_uniform(keys, like, seed)
        draw = torch.randn if gaussian else torch.rand
        return draw(like.shape, dtype=like.dtype, device=like.device, **drawn_from(self.generator))

    def _log_prob(self, noise: Tensor) -> Tensor:
        if self.noise == "uniform":  # outside [0, 1) too, where a sample of a model may well lie
            return noise.new_zeros(noise.shape[0])
        log_prob = -0.5 * (noise.square() + math.log(2.0 * math.pi))
        return log_prob.sum(tuple(range(1, noise.dim())))
