"""One dimension of a convolution: which pixels its taps connect, and the torus that it fits on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """One of the two dimensions of a convolution.

    All sizes are numbers of Python, and tensors are made on their device, so that nothing waits for it.
    """

    size: int
    output_size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    circular: bool

    @property
    def starts(self) -> range:
        """Where on the input, continued beyond its borders, the first tap is for every output pixel."""
        return range(-self.padding, self.output_size * self.stride - self.padding, self.stride)

    @cached_property
    def meeting(self) -> tuple[int, int]:
        """An output pixel and the input pixel that the first tap sends to it; 0 and 0 if there are none."""
        if self.circular:
            return 0, -self.padding % self.size
        pairs = ((i, start) for i, start in enumerate(self.starts) if 0 <= start < self.size)
        return next(pairs, (0, 0))

    @cached_property
    def seeing(self) -> tuple[bool, ...]:
        """For every tap, whether it ever sees a pixel, and not the padding alone."""
        taps = range(0, self.kernel * self.dilation, self.dilation)
        return tuple(self.circular or any(0 <= start + tap < self.size for start in self.starts) for tap in taps)

    def selection(self, device: torch.device) -> Tensor:
        """Return 1 where a tap sends an input pixel to an output pixel, else 0, [k, out, in]."""
        starts = torch.arange(self.output_size, device=device) * self.stride - self.padding
        positions = starts + torch.arange(self.kernel, device=device).unsqueeze(1) * self.dilation
        if self.circular:
            positions = positions % self.size
        pixels = torch.arange(self.size, device=device)
        return (positions.unsqueeze(-1) == pixels).to(torch.float64)

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
        last = self.starts[-1] + self.dilation * (self.kernel - 1)
        n = max(self.size + max(self.padding, last - self.size + 1), (self.output_size - 1) * self.stride + 1)
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
        return max(Counter(start % self.n for start in self.starts).values())

    @property
    def is_whole(self) -> bool:
        """Whether the outputs are those of the torus, each once."""
        return self.multiplicity == 1 and self.output_size == self.coarse

    @property
    def half_turns(self) -> tuple[int, ...]:
        """By how many half turns the torus may be twisted: what comes round is cut off, so any phase may be on it.

        A half turn puts the frequencies between those of the torus as it is. Zero padding on small images is nearer to
        either of them than to both; circular padding is the torus as it is, and large images know no difference.
        """
        overhang = self.n - self.size
        return (0,) if self.circular or self.size >= 32 * overhang else (0, 1)

    def frequencies(self, half_turns: int) -> int:
        """Return how many of the coarse frequencies there are but for conjugation."""
        return (self.coarse - half_turns) // 2 + 1

    def phases(self, first: int, last: int, half_turns: int, device: torch.device) -> Tensor:
        """Return exp(2 pi i a f / n) [k, last - first, folds] of every tap a at the frequencies f folded into these."""
        coarse = torch.arange(first, last, device=device).unsqueeze(1)
        folded = coarse + self.coarse * torch.arange(self.folds, device=device)
        taps = torch.arange(self.kernel, device=device).view(-1, 1, 1) * self.dilation
        angles = (taps * (2 * folded + half_turns) % (2 * self.n)).to(torch.float64) * (math.pi / self.n)
        return torch.polar(torch.ones_like(angles), angles)
