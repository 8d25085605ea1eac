"""An invertible linear map of the channels, kept as its LU factors."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_channels, check_same_kind
from ._layer import plainly
from ._transform import Transform, for_each_sample


class InvertibleLinear(Transform):
    """z = P L U x over the channels of [B, C, ...]; on images, Glow's invertible 1x1 convolution (arXiv 1807.03039).

    P is a fixed permutation, L has a unit diagonal, and the diagonal of U is sign * exp of a parameter, so that the map
    stays invertible whatever training does. The log-determinant, the sum of that parameter for each pixel, is exact;
    the inverse is two triangular solves. One parameter `packed` [C, C] holds L below its diagonal, U above it and
    log|diag U| on it; buffers `sign` [C] and `permutation` [C, C], P as a matrix, are in the state_dict. They hold
    1, -1 and 0 in floating point: averages of models take no integers, and any dtype holds these. The indices [C] of
    earlier checkpoints, (P y)[i] = y[indices[i]], are loaded as a matrix.

    Args:
        num_features: channels C of x.
        init: "orthogonal": a random rotation or reflection from torch's global generator; "identity".
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: num_features is not positive or init is unknown.
        TypeError: num_features is not an integer.
    """

    packed: Tensor
    sign: Tensor
    permutation: Tensor

    def __init__(self, num_features: int, init: str = "orthogonal", device: Any = None, dtype: Any = None) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("num_features", num_features, 1)
        if init not in ("orthogonal", "identity"):
            raise ValueError(f"init must be 'orthogonal' or 'identity', got {init!r}; use one of the two.")
        self.num_features, self.init = num_features, init
        self.packed = nn.Parameter(torch.empty(num_features, num_features, device=device, dtype=dtype))
        self.register_buffer("sign", torch.empty(num_features, device=device, dtype=dtype))
        self.register_buffer("permutation", torch.empty(num_features, num_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start again as `init` says."""
        with plainly():
            matrix = torch.eye(self.num_features, dtype=torch.float64, device="cpu")
            if self.init == "orthogonal":
                nn.init.orthogonal_(matrix)
            permutation, lower, upper = torch.linalg.lu(matrix)
            diagonal = upper.diagonal()
            self.packed.copy_(lower.tril(-1) + upper.triu(1) + diagonal.abs().log().diag())
            self.sign.copy_(diagonal.sign())
            self.permutation.copy_(permutation)

    def weight(self) -> Tensor:
        """Return P L U [C, C]."""
        lower, upper = self._factors(self.packed, self.sign)
        return (lower @ upper)[self.permutation.argmax(1)]

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z, the shape of x, and the log-determinant [B]; context is not used.

        Raises:
            ValueError: x does not fit.
        """
        check_same_kind(x, self.packed)
        check_channels(x, self.num_features)
        if x.dim() == 2:
            z = F.linear(x, self.weight())
        else:
            z = torch.matmul(self.weight(), x.reshape(*x.shape[:2], math.prod(x.shape[2:]))).view(x.shape)
        return z, for_each_sample(self._logdet(x), x)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant of the inverse [B]; context is not used.

        Raises:
            ValueError: z does not fit.
        """
        check_same_kind(z, self.packed, "z")
        check_channels(z, self.num_features, "z")
        dtype = torch.promote_types(z.dtype, torch.float32)  # there are no triangular solves of half precision
        lower, upper = self._factors(self.packed.to(dtype), self.sign)
        columns = z.transpose(0, 1)[self.permutation.argmax(0)]  # [C, B, ...], P undone
        y = torch.linalg.solve_triangular(
            lower, columns.reshape(z.shape[1], -1 if z.numel() else 0).to(dtype), upper=False, unitriangular=True
        )
        x = torch.linalg.solve_triangular(upper, y, upper=True)
        return x.to(z.dtype).view(columns.shape).transpose(0, 1), for_each_sample(-self._logdet(z), z)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.num_features}, init={self.init!r}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        permutation = state_dict.get(f"{prefix}permutation")
        if permutation is not None and permutation.dim() == 1:
            state_dict[f"{prefix}permutation"] = self._matrix(permutation)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, also of an earlier version, whose permutation was an order of channels."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # of torch
        if self.permutation.dim() == 1:
            self.permutation = self._matrix(self.permutation)

    def _matrix(self, order: Tensor) -> Tensor:
        return F.one_hot(order.long(), self.num_features).to(self.packed.dtype)

    @staticmethod
    def _factors(packed: Tensor, sign: Tensor) -> tuple[Tensor, Tensor]:
        eye = torch.eye(packed.shape[0], dtype=packed.dtype, device=packed.device)
        # FSDP casts parameters, not buffers.
        return packed.tril(-1) + eye, packed.triu(1) + (sign.to(packed.dtype) * packed.diagonal().exp()).diag()

    def _logdet(self, x: Tensor) -> Tensor:
        return self.packed.diagonal().sum() * math.prod(x.shape[2:])
