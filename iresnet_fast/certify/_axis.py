"""One dimension of a convolution: which pixels its taps connect, and the torus that it fits on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One of the two dimensions of a convolution."""

    size: int
    output_size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    circular: bool

    @cached_property
    def positions(self) -> Tensor:
        """Return where on the input, continued beyond its borders, every tap is for every output pixel, [k, out]."""
        starts = torch.arange(self.output_size) * self.stride - self.padding
        return starts + torch.arange(self.kernel).unsqueeze(1) * self.dilation

    def selection(self, device: torch.device) -> Tensor:
        """Return 1 where a tap sends an input pixel to an output pixel, else 0, [k, out, in]."""
        positions = self.positions
        if self.circular:
            positions = positions % self.size
        pixels = torch.arange(self.size)
        return (positions.unsqueeze(-1) == pixels).to(device=device, dtype=torch.float64)

    def meeting(self) -> tuple[int, int]:
        """Return an output pixel and the input pixel that the first tap sends to it; 0 and 0 if there are none."""
        pairs = self.selection(torch.device("cpu"))[0].nonzero()
        return (int(pairs[0, 0]), int(pairs[0, 1])) if len(pairs) else (0, 0)

    @property
    def overlaps(self) -> bool:
        """Whether two taps may see the same pixel."""
        return self.circular and self.dilation * (self.kernel - 1) >= self.size

    @cached_property
    def n(self) -> int:
        """The size of the torus."""
        if self.circular:
            return self.size
        # What lies outside the image on one side may come round to what lies outside it on the other, not further.
        positions = self.positions
        beyond = max(self.padding, int(positions.max()) - self.size + 1)
        n = max(self.size + beyond, (self.output_size - 1) * self.stride + 1)
        return -(-n // self.stride) * self.stride

    @property
    def folds(self) -> int:
        """Number of frequencies that the stride folds into one; 1 where the stride does not fit round the torus."""
        return self.stride if self.n % self.stride == 0 else 1

    @property
    def coarse(self) -> int:
        """Number of frequencies after folding."""
        return self.n // self.folds

    @cached_property
    def multiplicity(self) -> int:
        """How often one output pixel of the torus is written: more than once if circular padding goes round it."""
        places = self.positions[0] % self.n
        return int(places.bincount().max())

    @property
    def is_whole(self) -> bool:
        """Whether the outputs are those of the torus, each once."""
        return self.multiplicity == 1 and self.output_size == self.coarse

    def phases(self, frequencies: Tensor, device: torch.device) -> Tensor:
        """Return exp(2 pi i a f / n) [k, frequencies, folds] of every tap a at the frequencies f folded into these."""
        folded = frequencies.unsqueeze(1) + self.coarse * torch.arange(self.folds)
        turns = (torch.arange(self.kernel).view(-1, 1, 1) * self.dilation * folded) % self.n
        angles = turns.to(device=device, dtype=torch.float64) * (2.0 * math.pi / self.n)
        return torch.polar(torch.ones_like(angles), angles)
