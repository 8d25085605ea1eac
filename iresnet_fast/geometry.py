"""Where a convolution acts: everything its operator norm depends on besides the weight."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

Self = TypeVar("Self", bound="ConvGeometry")

LARGEST_SIZE = 2**31 - 1  # the kernels count pixels and channels in 32 bits


class _Fields(NamedTuple):
    image_size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


class ConvGeometry(_Fields):
    """Input size, stride, zero padding, dilation and groups of a 2-d convolution, each pair as (height, width).

    Raises:
        ValueError: a number is below 1 (padding: below 0) or beyond 32 bits.
        TypeError: a number is no integer, or there are not two of them.
    """

    __slots__ = ()

    def __new__(
        cls,
        image_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> ConvGeometry:
        """Check the numbers; the arguments are those of the class."""
        return super().__new__(
            cls,
            _pair("image_size", image_size, 1),
            _pair("stride", stride, 1),
            _pair("padding", padding, 0),
            _pair("dilation", dilation, 1),
            _number("groups", groups, groups, 1),
        )

    @classmethod
    def _make(cls: type[Self], iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        return cls(*iterable)  # that of a tuple would go round the checks, and so would _replace, which calls it

    def output_size(self, kernel_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the output for a kernel (kh, kw); below 1 if the kernel is too large."""
        (height, width), (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), _ = self
        return (
            (height + 2 * pad_h - dilation_h * (kernel_size[0] - 1) - 1) // stride_h + 1,
            (width + 2 * pad_w - dilation_w * (kernel_size[1] - 1) - 1) // stride_w + 1,
        )

    def vector_shapes(
        self, weight_shape: Sequence[int], weight: str = "weight", geometry: str = "geometry"
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the shapes of u, [out, oh, ow], and of v, [in, h, w], for a weight [out, in / groups, kh, kw].

        Args:
            weight_shape: that of the weight.
            weight: what the caller calls the weight.
            geometry: what the caller calls the geometry.

        Raises:
            ValueError: there is no such convolution, or it is too large.
        """
        shape = tuple(weight_shape)
        (height, width), _, (pad_h, pad_w), (dilation_h, dilation_w), groups = self
        if len(shape) != 4 or shape[0] % groups != 0 or groups > max(shape[0], 1) or min(shape[2:]) < 1:
            raise ValueError(
                f"{weight} must have shape [out, in / groups, kh, kw] with out divisible by groups = {groups}, "
                f"got {shape}; pass None as {geometry} for a matrix."
            )
        out, per_group, kernel_h, kernel_w = shape
        size = out_h, out_w = self.output_size((kernel_h, kernel_w))
        if out_h < 1 or out_w < 1:
            raise ValueError(
                f"{geometry} must leave at least one output pixel, got output size {size} for kernel {shape[2:]}; "
                f"increase the image size or the padding."
            )
        in_channels = per_group * groups
        # The image with its padding, and as far beyond it as a kernel reaches.
        reach_h = height + 2 * (pad_h + dilation_h * (kernel_h - 1))
        reach_w = width + 2 * (pad_w + dilation_w * (kernel_w - 1))
        most = max(
            2 * kernel_h * max(height, out_h),
            2 * kernel_w * max(width, out_w),
            reach_h * reach_w,
            out * out_h * out_w,
            in_channels * height * width,
            out * per_group * kernel_h * kernel_w,
        )
        if most > LARGEST_SIZE:
            raise ValueError(
                f"{geometry} must have at most {LARGEST_SIZE} numbers in the padded image, the input, the output and "
                f"the weight each, got {most} for {weight} of shape {shape}; make the image or the padding smaller."
            )
        return (out, out_h, out_w), (in_channels, height, width)


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (height, width) of integers, got {value!r}; pass one for each.")
    return _number(name, value, value[0], least), _number(name, value, value[1], least)


def _number(name: str, value: Any, number: Any, least: int) -> int:
    """Return one number of the argument `value` if it is an integer in range."""
    if type(number) is not int:
        if isinstance(number, bool) or not hasattr(number, "__index__"):
            raise TypeError(f"{name} must hold integers, got {value!r}; pass whole numbers.")
        number = operator.index(number)
    if not least <= number <= LARGEST_SIZE:
        raise ValueError(f"{name} must be from {least} to {LARGEST_SIZE}, got {value!r}; change it.")
    return int(number)
