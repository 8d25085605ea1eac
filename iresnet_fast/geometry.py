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
        (height, width), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), _ = self
        return (
            (height + 2 * pad_h - dilation_h * (kernel_size[0] - 1) - 1) // stride_h + 1,
            (width + 2 * pad_w - dilation_w * (kernel_size[1] - 1) - 1) // stride_w + 1,
        )
