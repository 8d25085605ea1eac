"""From features to logits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..nn import ActNorm


class PooledHead(nn.Module):
    """ActNorm, ReLU, mean over the image, linear (i-ResNet; ActNorm has no running statistics that could be stale).

    Args:
        channels: of the features [B, channels, H, W].
        n_classes: of the logits [B, n_classes].
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        """Build the head; the arguments are those of the class."""
        super().__init__()
        self.norm = ActNorm(channels)
        self.linear = nn.Linear(channels, n_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        normal, _ = self.norm(features)
        logits: Tensor = self.linear(normal.relu().flatten(2).mean(2))
        return logits


class PiecesHead(nn.Module):
    """A small network for each piece of a latent, joined by a linear layer (Residual Flows, arXiv 1906.02735).

    A piece [B, C, H, W] goes through a 3 x 3 convolution, ActNorm, ReLU and the mean over the image, a piece [B, d]
    through a linear layer, ActNorm and ReLU.

    Args:
        shapes: of the pieces.
        hidden: channels of each network.
        n_classes: of the logits [B, n_classes].
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], hidden: int, n_classes: int) -> None:
        """Build the head; the arguments are those of the class."""
        super().__init__()
        self.maps = nn.ModuleList(
            nn.Conv2d(shape[0], hidden, 3, padding=1) if len(shape) == 3 else nn.Linear(math.prod(shape), hidden)
            for shape in shapes
        )
        self.norms = nn.ModuleList(ActNorm(hidden) for _ in shapes)
        self.linear = nn.Linear(hidden * len(shapes), n_classes)

    def forward(self, pieces: Sequence[Tensor]) -> Tensor:
        """Return the logits of the pieces, one for each shape."""
        pooled = []
        for piece, layer, norm in zip(pieces, self.maps, self.norms, strict=True):
            normal, _ = norm(layer(piece))
            pooled.append(normal.relu().flatten(2).mean(2) if normal.dim() == 4 else normal.relu())
        logits: Tensor = self.linear(torch.cat(pooled, 1))
        return logits
