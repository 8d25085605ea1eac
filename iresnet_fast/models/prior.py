"""The prior of a flow: independent normal variables."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import _capture, _checks
from .._inputs import check_same_kind, check_shape
from .._keys import hashed_normal, row_keys
from ..nn._fsdp import write
from ..nn._layer import plainly
from ..nn._modulation import Modulation
from ..nn._ranks import sum_over_ranks
from ..nn._tensors import gathered

# A dimension that hardly varies over the first batch does not get a prior sharper than this.
_LEAST_SCALE = 0.01


class DiagonalNormal(nn.Module):
    """Normal variables z [B, d] with a mean and a scale each, learned (i-ResNet's `learn_prior`) or 0 and 1.

    With context_features the prior is conditional: `network`, two layers, returns what a context
    [B, context_features] adds to mean and log_scale, each sample its own. It starts from zeros.

    Args:
        n_dims: d.
        learned: whether `mean` [d] and `log_scale` [d] are parameters; otherwise they are buffers of zeros.
        device: of both.
        dtype: of both.
        context_features: width of the context; 0: there is none.
        context_hidden: width between the two layers of the network.

    Raises:
        ValueError: n_dims or context_hidden is not positive, or context_features negative.
        TypeError: one of them is not an integer.
    """

    context_features: int = 0  # also of a prior that an earlier version has pickled
    mean: Tensor
    log_scale: Tensor

    def __init__(
        self,
        n_dims: int,
        learned: bool = True,
        device: Any = None,
        dtype: Any = None,
        context_features: int = 0,
        context_hidden: int = 64,
    ) -> None:
        """Build the prior; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("n_dims", n_dims, 1)
        _checks.check_count("context_features", context_features, 0)
        _checks.check_count("context_hidden", context_hidden, 1)
        for name in ("mean", "log_scale"):
            zeros = torch.zeros(n_dims, device=device, dtype=dtype)
            if learned:
                self.register_parameter(name, nn.Parameter(zeros))
            else:
                self.register_buffer(name, zeros)
        self.n_dims, self.learned, self.context_features = n_dims, learned, context_features
        if context_features:
            self.network = Modulation(context_features, n_dims, context_hidden, device, dtype)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the log-density [B] of z [B, d].

        Args:
            z: [B, d].
            context: [B, context_features]; not used if the prior takes none.

        Raises:
            ValueError: z or the context does not fit.
        """
        standard, log_scale = self._standardized(z, context)
        return (-0.5 * (standard.square() + math.log(2.0 * math.pi)) - log_scale).sum(1)

    def standardized(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return (z - mean) / scale [B, d], standard normal if z is of the prior; else as `log_prob`."""
        return self._standardized(z, context)[0]

    def sample(
        self,
        n: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        first: int = 0,
        context: Tensor | None = None,
    ) -> Tensor:
        """Return samples number first .. first + n - 1 of a seed, [n, d]; differentiable in mean and scale.

        Args:
            n: how many.
            temperature: factor of the scale.
            generator: draw the samples themselves from it, on the device of the prior.
            seed: a sample is a function of it and of its number; None: one from torch's global generator, that of the
                CPU, or in a CUDA graph that of the device, of which each replay draws anew.
            first: number of the first sample.
            context: [n, context_features]; not used if the prior takes none.

        Raises:
            ValueError: temperature, seed or first is out of range, there is a generator beside seed or first, or the
                context does not fit.
            TypeError: seed or first is not an integer.
        """
        _checks.check_count("n", n, 0)
        if seed is not None:
            _checks.check_seed("seed", seed)
        _checks.check_count("first", first, 0)
        if first + n > 1 << 62:
            raise ValueError(f"first + n must be at most 2^62, got {first} + {n}; number the samples from 0.")
        if not temperature >= 0.0:
            raise ValueError(f"temperature must not be negative, got {temperature}; pass e.g. 1.0.")
        if generator is not None and (seed is not None or first):
            raise ValueError("generator must be None where samples are numbered, got one; leave out seed and first.")
        mean, log_scale = self._at(context, n)
        if generator is not None:
            noise = torch.randn(n, self.n_dims, device=mean.device, dtype=mean.dtype, generator=generator)
        else:
            source = torch.device("cpu") if _capture.of(mean) is None else mean.device
            drawn = torch.randint(1 << 62, (), device=source).to(mean.device) if seed is None else seed
            noise = hashed_normal(row_keys(drawn, first, n, mean.device), (self.n_dims,), mean.dtype)
        return mean + log_scale.exp() * (temperature * noise)

    def fit(self, z: Tensor, name: str = "z") -> None:
        """Set mean and scale to those of z [N, d], of all ranks together; does nothing if the prior is not learned.

        Args:
            z: [N, d].
            name: what the caller calls it, or what it comes from, for errors.

        Raises:
            ValueError: z has no sample, or is not finite.
        """
        if not self.learned:
            return
        check_shape(z, (self.n_dims,), "z", "prior")
        with plainly():
            z = z.detach().to(torch.promote_types(z.dtype, torch.float32))
            total = sum_over_ranks(torch.cat((z.sum(0), z.new_tensor([z.shape[0]]))))
            if float(total[-1]) == 0.0:
                raise ValueError(f"{name} must hold at least one sample, got none; pass some hundred.")
            mean = total[:-1] / total[-1]
            variance = sum_over_ranks((z - mean).square().sum(0)) / total[-1]
            if not bool((mean + variance).isfinite().all()):
                raise ValueError(
                    f"{name} must be finite, in the latent too, got NaN or infinity; check the data and the layers."
                )
            write(self.mean, mean)
            write(self.log_scale, variance.sqrt().clamp(min=_LEAST_SCALE).log())

    def extra_repr(self) -> str:
        """Describe the prior in its repr."""
        conditional = f", context_features={self.context_features}" if self.context_features else ""
        return f"{self.n_dims}, learned={self.learned}{conditional}"

    def _standardized(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return (z - mean) / scale [B, d], and log_scale."""
        check_same_kind(z, self.mean, "z", "prior")
        check_shape(z, (self.n_dims,), "z", "prior")
        mean, log_scale = self._at(context, z.shape[0])
        return (z - mean) * (-log_scale).exp(), log_scale

    def _at(self, context: Tensor | None, n: int) -> tuple[Tensor, Tensor]:
        """Return mean and log_scale, [d], or at a context [n, d]."""
        mean, log_scale = gathered(self.mean), gathered(self.log_scale)
        if not self.context_features:
            return mean, log_scale
        shift, change = self.network(context, n, "prior")
        return mean + shift, log_scale + change
