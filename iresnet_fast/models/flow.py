"""The density model: invertible residual blocks between the data and a normal prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_data, check_same_kind, check_shape, check_tensor
from ..nn import Call
from ..nn._call import DeferredInverse, Solution, TakesCall, not_kept
from ._contexts import check_contexts, for_all
from ._density import BODY, Density
from ._flow_parts import body_of, context_preprocessing_of, preprocessing_of, prior_of
from ._modes import training
from ._presets import Presets, check_config
from ._standardize import Standardizes
from .distribution import FlowDistribution
from .flow_config import FlowConfig
from .flow_presets import FLOWS
from .reconstruction import Reconstruction


class IResNetFlow(Presets[FlowConfig], Standardizes, Density, TakesCall):
    """Density of vectors or images by invertible residual blocks (i-ResNet, arXiv 1811.00995).

    The latent z [B, d] is flat. Preprocessing is part of the model: log_prob is that of the data as they come, of
    whole numbers where `n_levels` is set, a lower bound then since noise makes them continuous. Every block is an
    ActNorm, optionally an invertible 1 x 1 map, and an InvertibleResidualBlock; the spectral norms of all of them are
    refreshed in one kernel call. A model is also a transform: `forward(x, context) -> (z, logdet [B])` and
    `inverse(z, context) -> (x, logdet [B])`.

    Args:
        config: everything; `IResNetFlow.preset(name, **changes)` builds one that has a name.

    Raises:
        ValueError: the configuration does not make a model.

    Attributes:
        latent_shapes: shapes of the pieces of the latent, one for each scale with factor_out, else one.
    """

    _table = FLOWS

    def __init__(self, config: FlowConfig) -> None:
        """Build the model; the argument is that of the class."""
        Density.__init__(self)
        check_config(config, FlowConfig)
        self.config = config
        self.preprocessing = preprocessing_of(config)
        self.body, self.latent_shapes = body_of(config)
        self.prior = prior_of(config, sum(self._sizes()))
        self.context_preprocessing = context_preprocessing_of(config)

    @property
    def takes_context(self) -> bool:
        """Whether the model needs a context."""
        return self.config.context_features > 0

    def output_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return (d,); raises ValueError if `event_shape` is not that of the data."""
        self._check_event(tuple(event_shape), "x")
        return (self.prior.n_dims,)

    def forward(self, x: Tensor, context: Tensor | None = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return the latent z [B, d] and log|det dz/dx| [B].

        Outside training both are functions of each sample alone: the noise and the probes of a sample are hashes of its
        bits, the same in any batch, order, process or device, and independent between samples.

        Args:
            x: [B, *event_shape].
            context: [B, context_features]; None if the model takes none.
            call: of the container, if this is a part of one; `nn.Call.of(x, seed)` for other noise and probes.

        Raises:
            ValueError: a shape does not fit, a value is outside the range of the data, or the context is missing or
                not wanted.
        """
        x = self._data(x)
        call = Call.given(call, x)
        u, logdet = self.preprocessing(x, call=call)
        with self._grouped_norms():
            z, more = self.body(u, self._contexts(context, x.shape[0]), call=call.part(BODY))
        return z, logdet + more

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return x [B, *event_shape] and log|det dx/dz| [B], minus that of forward at x; else as in `forward`."""
        with self._grouped_norms():
            found = self.deferred_inverse(z, context)
            return found.x, found.logdet(Call.of(found.x))

    def solve(self, z: Tensor, context: Tensor | None = None) -> Solution:
        """Return x without the cost of the log-determinant; arguments, warnings and errors as in `inverse`."""
        return Solution.of(self.deferred_inverse(z, context, logdet=False))

    def deferred_inverse(self, z: Tensor, context: Tensor | None = None, logdet: bool = True) -> DeferredInverse:
        """Return x, and its log-determinant for whoever wants it if `logdet`; else as `inverse`."""
        with self._grouped_norms():
            body = self.body.deferred_inverse(self._latent(z), self._contexts(context, z.shape[0]), logdet)
        data = self.preprocessing.deferred_inverse(body.x, None, logdet)

        def total(call: Call) -> Tensor:
            return data.logdet(call) + body.logdet(call.part(BODY))

        return DeferredInverse(data.x, total if logdet else not_kept, body.steps)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        temperature: float = 1.0,
        seed: int | None = None,
        first: int = 0,
    ) -> Tensor:
        """Return n samples [n, *event_shape], without gradient and without the cost of log-determinants.

        Samples are numbered, and each is a function of the seed and its number: samples 0 .. 99 drawn at once are those
        drawn in batches or on several devices, to rounding.

        Args:
            n: how many.
            context: [n, context_features], or [context_features], the same for all.
            temperature: factor of the standard deviations of the prior.
            seed: of the samples; None: one from torch's global generator.
            first: number of the first sample.

        Raises:
            ValueError: n, temperature, seed or first is negative, or the context does not fit.
            TypeError: n, seed or first is not an integer.
        """
        _checks.check_count("n", n, 0)
        _checks.check_number("temperature", temperature, "1.0")
        if not 0.0 <= temperature < math.inf:
            raise ValueError(f"temperature must be finite and not negative, got {temperature}; pass e.g. 1.0.")
        context = for_all(context, n)
        given = self._contexts(context, n)
        return self.solve(self.prior.sample(n, temperature, seed=seed, first=first, context=given), context).x

    def sample_and_log_prob(self, n: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return n samples [n, *event_shape] and their log-densities [n], differentiable unless the data are integers.

        With `n_levels` or `noise_channels` the density is the bound at the noise the sample itself has. Arguments and
        errors as in `sample`.
        """
        _checks.check_count("n", n, 0)
        context = for_all(context, n)
        z = self.prior.sample(n, context=self._contexts(context, n))
        x, logdet = self.inverse(z, context)
        return x, self.latent_log_prob(z, context) - logdet

    def transform_to_noise(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the latent [B, d] without the cost of log-determinants; arguments and errors as in `forward`."""
        x = self._data(x)
        z: Tensor = self(x, context, call=Call.of(x, logdet=False))[0]
        return z

    def standardized_latents(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the latent [B, d] in units of the prior: standard normal for data of the distribution of the model.

        Arguments and errors as in `forward`.
        """
        z = self.transform_to_noise(x, context)
        return self.prior.standardized(z, self._contexts(context, x.shape[0]))

    @torch.no_grad()
    def reconstruct(self, x: Tensor, context: Tensor | None = None) -> Reconstruction:
        """Return x after x -> z -> x, and how exact that was; arguments and errors as in `forward`."""
        x, context = self._data(x), self._contexts(context, x.shape[0])
        call = Call.of(x, logdet=False)
        u, _ = self.preprocessing(x, call=call)
        with self._grouped_norms():
            z, _ = self.body(u, context, call=call.part(BODY))
            again, iterations, block_error = self.body.solve(z, context)
        error = torch.linalg.vector_norm((again - u).flatten(1), dim=1)
        return Reconstruction(self.preprocessing.inverse(again)[0], z, error, block_error, iterations)

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, steps: int, context: Tensor | None = None) -> Tensor:
        """Return samples on the straight line between two latents, [steps, *a.shape], from a to b.

        Args:
            a: [*event_shape] or [B, *event_shape].
            b: the shape of a.
            steps: number of points, the ends included.
            context: [context_features], or [B, context_features].

        Raises:
            ValueError: a shape does not fit or steps is below 2.
            TypeError: steps is not an integer.
        """
        _checks.check_count("steps", steps, 2)
        check_tensor(a, "a")
        check_tensor(b, "b")
        if a.shape != b.shape:
            raise ValueError(f"b must have the shape of a, {tuple(a.shape)}, got {tuple(b.shape)}; reshape it.")
        alone = a.dim() == len(self.config.event_shape)
        check_data(a[None] if alone else a, self.config.event_shape, self.prior.mean, "a")
        ends = (a[None], b[None]) if alone else (a, b)
        n = ends[0].shape[0]
        context = for_all(context, n)
        start, end = (self.transform_to_noise(x, context) for x in ends)
        weight = torch.linspace(0.0, 1.0, steps, dtype=start.dtype, device=start.device)[:, None, None]
        contexts = None if context is None else context.repeat(steps, 1)
        x = self.solve(torch.lerp(start, end, weight).flatten(0, 1), contexts).x
        return x.view(steps, *a.shape)

    def pieces(self, z: Tensor) -> list[Tensor]:
        """Return the pieces [B, *latent_shapes[i]] of z [B, d], as views; raises ValueError if it does not fit."""
        parts = torch.split_with_sizes(self._latent(z), self._sizes(), 1)
        return [part.reshape(z.shape[0], *shape) for part, shape in zip(parts, self.latent_shapes, strict=True)]

    @torch.no_grad()
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Start from a first batch, some hundred samples: every ActNorm that holds nothing, and a learned prior.

        A flow that starts as the normal density of the data of `fit_preprocessing` keeps its prior.

        Training without it starts the ActNorms from its first batch, and the prior from a standard normal one.
        Arguments and errors as in `forward`.
        """
        with training(self):
            z = self.transform_to_noise(x, context)
        if not self.config.starts_normal:
            self.prior.fit(z, "x")

    def as_distribution(self, context: Tensor | None = None) -> FlowDistribution:
        """Return the model as a torch.distributions.Distribution.

        A flow with a context needs one of shape [*batch_shape, context_features]: a distribution for each.
        """
        return FlowDistribution(self, context)

    def _data(self, x: Tensor) -> Tensor:
        check_data(x, self.config.event_shape, self.prior.mean)
        return x if x.is_floating_point() else x.to(self.prior.mean.dtype)

    def _check_event(self, shape: tuple[int, ...], name: str) -> None:
        if shape != self.config.event_shape:
            raise ValueError(
                f"{name} must have shape [B, {', '.join(map(str, self.config.event_shape))}], got events of shape "
                f"{shape}; reshape it or build the model for it."
            )

    def _latent(self, z: Tensor) -> Tensor:
        check_same_kind(z, self.prior.mean, "z", "model")
        check_shape(z, (self.prior.n_dims,), "z", "model")
        return z

    def _contexts(self, context: Tensor | None, n: int) -> Tensor | None:
        """Return a context [n, context_features] as the networks see it."""
        check_contexts(context, n, self.config.context_features, self.prior.mean)
        scaling = self.context_preprocessing
        if context is None or scaling is None:
            return context
        scaled: Tensor = scaling(context)[0]
        return scaled

    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.latent_shapes]
