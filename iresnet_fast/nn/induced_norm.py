"""Linear layers bounded in an operator norm between l1, l2 and l-infinity that has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from ..reference.spectral_norm import power_of_two
from ._hooks import Skippable
from ._inputs import check_image_input, check_linear_input
from ._tensors import weight_of

_FORMS = ((1.0, 1.0), (1.0, 2.0), (1.0, math.inf), (2.0, math.inf), (math.inf, math.inf), (2.0, 2.0))


def induced_norm(weight: Tensor, domain: float = math.inf, codomain: float = math.inf, groups: int = 1) -> Tensor:
    """Return max |W x|_codomain / |x|_domain, [], differentiable, without iteration.

    From l1 it is the largest norm of a column, to l-infinity the largest dual norm of a row. From l2 to l2 it is the
    upper bound sqrt(|W|_1 |W|_inf) of the spectral norm (Schur), never below it, where power iteration is never above.
    For a convolution the rows and columns are those of its operator: exact for stride 1 and images of at least 2 k - 1
    pixels a side, else an upper bound.

    Args:
        weight: [out, in], or [out, in / groups, kh, kw].
        domain: 1, 2 or inf, the norm of the input.
        codomain: 1, 2 or inf, the norm of the output.
        groups: of a convolution.

    Raises:
        ValueError: there is no closed form for this pair of norms.
    """
    check_norms(domain, codomain)
    if domain == codomain == 2.0:
        columns, rows = (induced_norm(weight, norm, norm, groups) for norm in (1.0, math.inf))
        # The root has no slope at zero: a weight of zeros gets the gradient that the other norms give it, zero.
        is_zero = columns == 0.0
        return columns.masked_fill(is_zero, 1.0).sqrt() * rows.masked_fill(is_zero, 1.0).sqrt() * ~is_zero
    scale = power_of_two(weight)  # squares of what is left neither overflow nor underflow
    weight = weight / scale
    if domain == 1.0:
        vectors = weight.reshape(groups, -1, weight.shape[1], math.prod(weight.shape[2:]))
        vectors, order = vectors.transpose(1, 2).flatten(0, 1).flatten(1), codomain
    else:
        vectors, order = weight.flatten(1), 2.0 if domain == 2.0 else 1.0
    norms: Tensor = torch.linalg.vector_norm(vectors, order, dim=1)
    return norms.amax() * scale


class InducedNormLayer(Skippable):
    """A linear map with weight W / max(1, norm / coeff); a mixin before the torch layer, which calls `_start`."""

    weight: Tensor
    coeff: float
    domain: float
    codomain: float

    def _start(self, coeff: float, domain: float, codomain: float) -> None:
        _checks.check_number("coeff", coeff, "0.9")
        _checks.check_number("domain", domain, "float('inf')")
        _checks.check_number("codomain", codomain, "float('inf')")
        if not 0.0 < coeff < math.inf:
            raise ValueError(f"coeff must be positive and finite, got {coeff}; pass e.g. 0.9.")
        check_norms(domain, codomain)
        self.coeff, self.domain, self.codomain = float(coeff), float(domain), float(codomain)

    def norm(self) -> Tensor:
        """Return the induced norm [] of the raw weight."""
        return self._norm_of(weight_of(self))

    def effective_weight(self) -> Tensor:
        """Return W / max(1, norm / coeff), with the gradient through the norm."""
        weight = weight_of(self)
        return weight / (self._norm_of(weight) / self.coeff).clamp(min=1.0)

    def _norm_of(self, weight: Tensor) -> Tensor:
        return induced_norm(weight, self.domain, self.codomain, int(getattr(self, "groups", 1)))

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{super().extra_repr()}, coeff={self.coeff}, domain={self.domain:g}, codomain={self.codomain:g}"


class InducedNormLinear(InducedNormLayer, nn.Linear):
    """nn.Linear with `induced_norm` at most coeff: exact at every call, no buffers, nothing to update.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is a bias.
        coeff: bound on the norm; weights below it are left alone.
        domain: norm of the input, 1, 2 or inf.
        codomain: norm of the output, 1, 2 or inf.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: coeff is out of range, or the pair of norms has no closed form.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        coeff: float = 0.9,
        domain: float = math.inf,
        codomain: float = math.inf,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        _checks.check_width("in_features", in_features)
        _checks.check_width("out_features", out_features)
        super().__init__(in_features, out_features, bias, device, dtype)
        self._start(coeff, domain, codomain)

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return InducedNormLinear.forward

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to [..., in_features]."""
        check_linear_input(self, input)
        return F.linear(input, self.effective_weight(), self.bias)


class InducedNormConv2d(InducedNormLayer, nn.Conv2d):
    """nn.Conv2d, zero padding, with `induced_norm` at most coeff, on images of any size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one number or (height, width).
        stride: one number or (height, width).
        padding: as for nn.Conv2d.
        dilation: one number or (height, width).
        groups: number of groups.
        bias: whether there is a bias.
        coeff: bound on the norm; weights below it are left alone.
        domain: norm of the input, 1, 2 or inf, over all its channels and pixels.
        codomain: norm of the output, likewise.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: coeff is out of range, or the pair of norms has no closed form.
    """

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
        *,
        coeff: float = 0.9,
        domain: float = math.inf,
        codomain: float = math.inf,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        _checks.check_width("in_channels", in_channels)
        _checks.check_width("out_channels", out_channels)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, "zeros", device, dtype
        )
        self._start(coeff, domain, codomain)

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return InducedNormConv2d.forward

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to [B, C, H, W]."""
        check_image_input(self, input)
        output: Tensor = self._conv_forward(input, self.effective_weight(), self.bias)
        return output


def check_norms(domain: float, codomain: float) -> None:
    """Raise ValueError unless the pair of norms has a closed form."""
    if (domain, codomain) not in _FORMS:
        pairs = ", ".join(f"({p:g}, {q:g})" for p, q in _FORMS)
        raise ValueError(
            f"domain and codomain must be one of {pairs}, which have closed forms, got ({domain:g}, {codomain:g}); "
            f"use one of these pairs."
        )
