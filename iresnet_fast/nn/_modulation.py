"""What a context adds to a shift and a log-scale: a small network that returns zeros until it is trained."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_same_kind, check_tensor
from ._tensors import gathered


class Modulation(nn.Module):
    """Two layers from a context [B, context_features] to a shift and a log-scale [B, width] each.

    The second layer starts from zeros, so that whatever adds them begins as it would without a context.

    Args:
        context_features: width of the context.
        width: of the shift and of the log-scale.
        hidden_features: between the two layers.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: a number is not positive.
        TypeError: a number is not an integer.
    """

    def __init__(
        self, context_features: int, width: int, hidden_features: int = 64, device: Any = None, dtype: Any = None
    ) -> None:
        """Build the network; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("context_features", context_features, 1)
        _checks.check_count("hidden_features", hidden_features, 1)
        self.first = nn.Linear(context_features, hidden_features, device=device, dtype=dtype)
        self.second = nn.Linear(hidden_features, 2 * width, device=device, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to zeros for each context."""
        with torch.no_grad():
            self.second.weight.zero_()
            self.second.bias.zero_()

    def forward(self, context: Any, n: int, owner: str) -> tuple[Tensor, Tensor]:
        """Return the shift and the log-scale [n, width].

        Args:
            context: [n, context_features].
            n: number of samples.
            owner: what the sentence of an error calls the module that has the network.

        Raises:
            ValueError: there is no context, or it does not fit.
            TypeError: it is no tensor, or of another dtype.
        """
        width = self.first.in_features
        if context is None:
            raise ValueError(
                f"context must be given for a conditional {owner}, got None; pass one of shape {(n, width)}."
            )
        check_tensor(context, "context")
        if context.shape != (n, width):
            raise ValueError(
                f"context must have shape {(n, width)}, got {tuple(context.shape)}; pass one row for each sample."
            )
        weight = gathered(self.first.weight)
        check_same_kind(context, weight, "context", owner)
        hidden = F.elu(F.linear(context, weight, gathered(self.first.bias)))
        shift, log_scale = F.linear(hidden, gathered(self.second.weight), gathered(self.second.bias)).chunk(2, 1)
        return shift, log_scale
