"""A convolution of bounded spectral norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import _capture, _checks
from ..geometry import ConvGeometry
from ._inputs import check_image_input
from ._layer import SpectralLayer
from .spectral import effective_weights


class SpectralConv2d(SpectralLayer, nn.Conv2d):
    """nn.Conv2d whose weight is W / max(1, sigma / coeff), sigma the norm of the operator on its real input size.

    Gouk et al., arXiv 1804.04368, equation 18. sigma takes stride, zero padding, dilation, groups and the image size
    into account; an image of another size starts the iteration anew. It follows the weights as that of SpectralLinear
    does. Buffers u [out, oh, ow], v [in, h, w], companion (like the smaller of both) and sigma [] are in the
    state_dict, and loading one restores the image size; u and v are empty while it is not known. A 1 x 1 convolution
    with stride 1, no padding and one group is its matrix: u [out], v [in], any image size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number or (height, width).
        stride: one number or (height, width).
        padding: one number, (height, width), "valid", or "same" where that is symmetric.
        dilation: one number or (height, width).
        groups: number of groups.
        bias: whether there is a bias.
        padding_mode: "zeros".
        image_size: one number or (height, width) of the input; None: taken from the first input.
        coeff: bound on the spectral norm; weights below it are left alone.
        n_iterations: in training, Lanczos steps per change of the weights at which a layer stops that is not small: one
            with a smaller side up to 256 takes up to 40, and 100 more follow while the residual is above 3e-2.
        tol: in training, stop at this relative residual |A^T u - sigma v| / sigma, by which sigma is increased, at a
            fifth of it up to side 256; None: run all steps, as is always done up to side 40.
        sigma_gradient: whether the gradient goes through sigma. Its u and v are constants: second derivatives by the
            weight are not those of the normalised map.
        strict: whether sigma is an upper bound of the norm at every step, see `iresnet_fast.certify`, so that the layer
            is bounded by coeff whatever happens; dearer for large layers.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: an argument is out of range, or the padding is neither zeros nor symmetric.
        TypeError: n_iterations is not an integer.
    """

    image_size: tuple[int, int] | None
    _known: ConvGeometry | None = None  # the last one asked for

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        image_size: int | tuple[int, int] | None = None,
        coeff: float = 0.9,
        n_iterations: int = 16,
        tol: float | None = 5e-5,
        sigma_gradient: bool = True,
        strict: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        _checks.check_width("in_channels", in_channels)
        _checks.check_width("out_channels", out_channels)
        for size in _pair(kernel_size):
            _checks.check_width("kernel_size", size)
        stride = _checks.check_pair("stride", stride, "1 or (2, 2)")
        dilation = _checks.check_pair("dilation", dilation, "1 or (2, 2)")
        _checks.check_count("groups", groups, 1)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"groups must divide in_channels and out_channels, {in_channels} and {out_channels}, got {groups}; "
                f"change one of them."
            )
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', got {padding_mode!r}; pad the input before the layer.")
        if isinstance(padding, str):
            padding = _numbers(padding, _pair(kernel_size), stride, dilation)
        padding = _checks.check_pair("padding", padding, "1 or (0, 1)")
        ConvGeometry((1, 1), stride, padding, dilation, groups)  # which refuses what no convolution can have
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", device, dtype
        )
        self.image_size = None
        self._start(coeff, n_iterations, tol, sigma_gradient, strict)
        if image_size is not None:
            self.set_image_size(_checks.check_image_size(image_size))

    @property
    def _is_matrix(self) -> bool:
        plain = (self.kernel_size, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0))
        return plain and self.groups == 1

    @property
    def geometry(self) -> ConvGeometry | None:
        """Where the convolution acts; None for a matrix.

        Raises:
            ValueError: the image size is not known yet.
        """
        if self._is_matrix:
            return None
        if self.image_size is None:
            raise ValueError("image_size must be known, got None; pass it to SpectralConv2d or run the layer once.")
        return self._geometry(self.image_size)

    def acts_as(self, geometry: ConvGeometry | None) -> bool:
        """Whether the map is of this geometry, but for the size of images; somebody may set another stride."""
        return self._is_matrix if geometry is None else geometry == self._geometry(geometry.image_size)

    @property
    def is_ready(self) -> bool:
        """Whether the input size, and so the operator, is known."""
        return self._is_matrix or self.image_size is not None

    def set_image_size(self, image_size: Sequence[int]) -> None:
        """Tell the (height, width) of the inputs; a change starts the iteration anew.

        Raises:
            ValueError: the kernel does not fit into the padded image.
            RuntimeError: it is a change while torch.compile or torch.export traces the layer, or while or after a CUDA
                graph captures it.
        """
        if self._is_matrix or image_size == self.image_size:
            return
        height, width = _checks.check_image_size(image_size)
        if (height, width) == self.image_size:
            return
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"image_size must be {self.image_size} while tracing, got {(height, width)}; call "
                f"set_image_size and update_spectral_norm(model), or run the model once, before."
            )
        if _capture.of(self.weight) is not None:
            raise RuntimeError(
                f"image_size must be {self.image_size} while a CUDA graph is captured, got {(height, width)}; call "
                f"set_image_size, or run the model once on such images, before."
            )
        if self.is_captured:
            raise RuntimeError(
                f"image_size must stay {self.image_size} for a layer that a CUDA graph has captured, got "
                f"{(height, width)}; use a copy.deepcopy of the model for other images."
            )
        kernel = (self.weight.shape[2], self.weight.shape[3])
        if min(height, width, *self._geometry((height, width)).output_size(kernel)) < 1:
            raise ValueError(
                f"image_size must leave at least one output pixel to a kernel {kernel}, got {(height, width)}; "
                f"increase it or the padding."
            )
        self.image_size = (height, width)
        self._draw()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies and pickles what follows from the rest."""
        return {**super().__getstate__(), "_known": None}

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return SpectralConv2d.forward

    def why_no_kernels(self) -> str | None:
        """Return what a call does that kernels with weight and bias would not, for messages; or None."""
        if not is_stage(self):
            return "is no convolution that keeps the image size, with stride 1 and zero padding"
        return super().why_no_kernels()

    @property
    def keeps_size(self) -> bool:
        """Whether it has an odd square kernel k, stride 1, padding k // 2, dilation 1 and one group."""
        return keeps_size(self)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to [B, C, H, W] or [C, H, W]."""
        check_image_input(self, input)
        (weight,) = effective_weights([self], input.shape[-2:])
        output: Tensor = self._conv_forward(input, weight, self.bias)
        return output

    def _geometry(self, image_size: tuple[int, int]) -> ConvGeometry:
        assert not isinstance(self.padding, str)  # turned into numbers when built
        numbers: Any = (image_size, self.stride, self.padding, self.dilation, self.groups)
        known = self._known
        if known is None or known != numbers:
            self._known = known = ConvGeometry(*numbers)  # which checks them, once and not at every call
        return known

    def _vector_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        if self._is_matrix:
            return super()._vector_shapes()
        if self.image_size is None:
            return (0,), (0,)
        output_size = self._geometry(self.image_size).output_size((self.weight.shape[2], self.weight.shape[3]))
        return (self.weight.shape[0], *output_size), (self.weight.shape[1] * self.groups, *self.image_size)

    def _fits(self, u_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> bool:
        if not self._is_matrix and not self.is_captured and len(v_shape) == 3:
            before, self.image_size = self.image_size, (v_shape[1], v_shape[2])
            if (u_shape, v_shape) != self._vector_shapes():
                self.image_size = before
        return super()._fits(u_shape, v_shape)


def keeps_size(layer: nn.Conv2d) -> bool:
    """Whether a convolution has an odd square kernel k, stride 1, zero padding k // 2, dilation 1 and one group."""
    k = layer.kernel_size[0]
    same = layer.kernel_size == (k, k) and k % 2 == 1 and layer.padding in ("same", (k // 2, k // 2))
    plain = (layer.stride, layer.dilation, layer.groups) == ((1, 1), (1, 1), 1)
    return same and plain and layer.padding_mode == "zeros"


def is_stage(layer: nn.Conv2d) -> bool:
    """Whether a convolution keeps the image size as kernels know it, and is computed as torch does."""
    return keeps_size(layer) and type(layer)._conv_forward is nn.Conv2d._conv_forward


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return one number per dimension of the image; the length of a sequence is checked by those who take it."""
    return (
        cast(tuple[int, int], tuple(value))
        if isinstance(value, Iterable) and not isinstance(value, str)
        else (value, value)
    )


def _numbers(
    padding: str, kernel_size: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int]:
    """Return the padding that nn.Conv2d means by "valid" or "same"."""
    if padding == "valid":
        return 0, 0
    totals = [d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True)]
    if padding != "same" or stride != (1, 1) or any(total % 2 for total in totals):
        raise ValueError(
            f"padding must be numbers, 'valid', or 'same' with stride 1 and an odd kernel, got {padding!r} with stride "
            f"{stride} and kernel {kernel_size}; pass numbers."
        )
    return totals[0] // 2, totals[1] // 2
