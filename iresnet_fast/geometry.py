"""Where a convolution acts: everything its operator norm depends on besides the weight."""

from __future__ import annotations

from typing import NamedTuple


class ConvGeometry(NamedTuple):
    """Input size, stride, zero padding, dilation and groups of a 2-d convolution, each pair as (height, width)."""

    image_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_size(self, kernel_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the output for a kernel (kh, kw); below 1 if the kernel is too large."""
        height, width = (
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, pad, dilation, kernel, stride in zip(
                self.image_size, self.padding, self.dilation, kernel_size, self.stride, strict=True
            )
        )
        return height, width
