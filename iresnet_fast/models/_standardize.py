"""Statistics of the data and of their context that a flow keeps, so that it takes both as they come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._inputs import check_data
from ..nn import ActNorm, Affine, MultiScale, Sequential, Whiten
from ._contexts import check_contexts
from .flow_config import FlowConfig
from .prior import DiagonalNormal

_FITTED = ("standardize", "whiten")


class Standardizes(nn.Module):
    """A flow whose preprocessing may have to be fitted."""

    config: FlowConfig
    preprocessing: Sequential
    body: Sequential | MultiScale
    context_preprocessing: Affine | None
    prior: DiagonalNormal

    @property
    def standardizes(self) -> bool:
        """Whether data or context are to be standardised or whitened, see `fit_preprocessing`."""
        return self.config.preprocess in _FITTED or self.context_preprocessing is not None

    @torch.no_grad()
    def fit_preprocessing(self, data: Tensor, context: Tensor | None = None, weights: Tensor | None = None) -> None:
        """Take mean and variance of every entry of what is to be standardised, or the covariance to whiten by.

        They are computed in float64, with the variance of the noise that dequantises.

        Args:
            data: [N, *event_shape], for preprocess="standardize" or "whiten".
            context: [N, context_features], for context_preprocess="standardize".
            weights: [N], how much each sample counts; None: all the same.

        Raises:
            ValueError: the model standardises neither, the data or the context do not fit or are not finite, or the
                weights do not fit.
        """
        if not self.standardizes:
            raise ValueError(
                f"preprocess must be 'standardize' or 'whiten' to take statistics, got {self.config.preprocess!r}; "
                f"change it."
            )
        check_data(data, self.config.event_shape, self.prior.mean, "data")
        check_contexts(context, len(data), self.config.context_features, self.prior.mean)
        if self.config.preprocess in _FITTED:
            n_levels = self.config.n_levels
            self._fit(data if n_levels is None else (data + 0.5) / n_levels, weights)
        if self.context_preprocessing is not None and context is not None:
            _refit(self.context_preprocessing, Affine.standardize(context, weights=weights))
        if self.config.starts_normal:
            for layer in self.body.modules():
                if isinstance(layer, ActNorm):  # which would find what it is given normalised
                    layer.initialized.fill_(1.0)

    def _fit(self, data: Tensor, weights: Tensor | None) -> None:
        steps = torch.tensor(self.config.dequantize, dtype=torch.float64, device=data.device)
        noise = steps.square() / 12.0 if self.config.dequantize else None
        layer = next(layer for layer in self.preprocessing if isinstance(layer, (Affine, Whiten)))
        fitted = Whiten.fit if isinstance(layer, Whiten) else Affine.standardize
        _refit(layer, fitted(data, noise, weights))


def _refit(layer: nn.Module, fitted: nn.Module) -> None:
    """Write the numbers of a fitted map into the one that is there."""
    for name, buffer in layer.named_buffers():
        buffer.copy_(fitted.get_buffer(name))
