"""A linear layer of bounded spectral norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from ._inputs import check_linear_input
from ._layer import SpectralLayer
from .spectral import effective_weights


class SpectralLinear(SpectralLayer, nn.Linear):
    """nn.Linear whose weight is W / max(1, sigma / coeff), sigma the spectral norm of W.

    Gouk et al., arXiv 1804.04368, equation 18. In training sigma follows the weights by Lanczos steps, increased by
    their residual; at the first forward and outside training it is an upper bound, exact to rounding, for a smaller
    side of at most 128, and else known to a residual of 1e-5. It follows by itself, see `update_spectral_norm`.
    Buffers u [out], v [in], companion (like the shorter of both) and sigma [] are in the state_dict.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: whether there is a bias.
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
        ValueError: coeff, n_iterations or tol is out of range.
        TypeError: n_iterations is not an integer.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        coeff: float = 0.9,
        n_iterations: int = 16,
        tol: float | None = 5e-5,
        sigma_gradient: bool = True,
        strict: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        _checks.check_width("in_features", in_features)
        _checks.check_width("out_features", out_features)
        super().__init__(in_features, out_features, bias, device, dtype)
        self._start(coeff, n_iterations, tol, sigma_gradient, strict)

    @staticmethod
    def plain_forward() -> Callable[..., Tensor]:
        """Return the forward of this class."""
        return SpectralLinear.forward

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to [..., in_features]."""
        check_linear_input(self, input)
        (weight,) = effective_weights([self])
        return F.linear(input, weight, self.bias)
