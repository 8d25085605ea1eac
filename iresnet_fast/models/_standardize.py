"""Statistics of the data and of their context that a flow keeps, so that it takes both as they come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .._inputs import check_data
from ..nn import Affine, Sequential
from ._contexts import check_contexts
from .flow_config import FlowConfig
from .prior import DiagonalNormal


class Standardizes(nn.Module):
    """A flow whose preprocessing may have to be fitted."""

    config: FlowConfig
    preprocessing: Sequential
    context_preprocessing: Affine | None
    prior: DiagonalNormal

    @property
    def standardizes(self) -> bool:
        """Whether data or context are to be standardised, see `fit_preprocessing`."""
        return self.config.preprocess == "standardize" or self.context_preprocessing is not None

    @torch.no_grad()
    def fit_preprocessing(self, data: Tensor, context: Tensor | None = None) -> None:
        """Take mean and variance of every entry of what is to be standardised.

        Args:
            data: [N, *event_shape], for preprocess="standardize".
            context: [N, context_features], for context_preprocess="standardize".

        Raises:
            ValueError: the model standardises neither, or the data or the context do not fit or are not finite.
        """
        if not self.standardizes:
            raise ValueError(
                f"preprocess must be 'standardize' to take statistics, got {self.config.preprocess!r}; change it."
            )
        check_data(data, self.config.event_shape, self.prior.mean, "data")
        check_contexts(context, len(data), self.config.context_features, self.prior.mean)
        if self.config.preprocess == "standardize":
            of_data = next(layer for layer in self.preprocessing if isinstance(layer, Affine))
            n_levels = self.config.n_levels
            _refit(of_data, data if n_levels is None else (data + 0.5) / n_levels)
        if self.context_preprocessing is not None and context is not None:
            _refit(self.context_preprocessing, context)


def _refit(affine: Affine, data: Tensor) -> None:
    """Write the map that standardises `data` into one that is there."""
    fitted = Affine.standardize(data)
    affine.scale.copy_(fitted.scale)
    affine.shift.copy_(fitted.shift)
