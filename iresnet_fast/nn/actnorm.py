"""A scale and a shift per channel that start by normalising the first batch."""

from __future__ import annotations

import math
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import forward_ad

from .. import _checks
from .._autograd import apply
from .._tracing import is_eager, may_read
from ._fsdp import write
from ._layer import plainly
from ._transform import Transform, check_channels


class ActNorm(Transform):
    """z = (x + bias) * exp(log_scale) per channel (Glow, arXiv 1807.03039, section 3.1).

    The first batch in training sets bias and log_scale so that every channel of its z has mean 0 and variance 1; a
    channel that is constant over it, such as one of InjectivePad, keeps scale 1. The statistics are those of all ranks
    if torch.distributed is initialised, so all of them must run that batch. Buffer `initialized` [] is in the
    state_dict: a loaded layer goes on from its parameters. Until then it is the identity, which evaluation and the
    inverse say in a warning.

    Args:
        num_features: channels of x, [B, num_features, ...].
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: num_features is not positive.
        TypeError: num_features is not an integer.
    """

    bias: Tensor
    log_scale: Tensor
    initialized: Tensor

    def __init__(self, num_features: int, device: Any = None, dtype: Any = None) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("num_features", num_features, 1)
        self.num_features = num_features
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Go back to the identity; the next batch in training initialises the layer again."""
        with torch.no_grad():
            self.bias.zero_()
            self.log_scale.zero_()
            self.initialized.zero_()
        self._is_known = False  # that `initialized` is set: reading it waits for the device

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z, the shape of x, and the log-determinant [B]; context is not used.

        Raises:
            ValueError: x does not fit, or the first batch has values that are not finite.
            RuntimeError: the first batch comes while tracing, inside torch.func or while a CUDA graph is captured.
        """
        check_channels(x, self.num_features)
        self._prepare(x)
        alone = torch.is_grad_enabled() and is_eager() and not _has_tangent(x, self.bias, self.log_scale)
        z, logdet = (partial(apply, _Normalize) if alone else _normalize)(x, self.bias, self.log_scale)
        return z, logdet

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant of the inverse [B]; context is not used.

        Raises:
            ValueError: z does not fit.
        """
        check_channels(z, self.num_features, "z")
        self._prepare(None)
        log_scale, bias = _like(self.log_scale, z), _like(self.bias, z)
        return z * (-log_scale).exp() - bias, _logdet(-self.log_scale, z)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.num_features}"

    def _prepare(self, x: Tensor | None) -> None:
        """See that the layer is initialised: from x in training, else warn."""
        if self._is_known:
            return
        if not is_eager() or not may_read(self.initialized):
            raise RuntimeError(
                "ActNorm must be initialised before it is traced or transformed by torch.func, or captured in a CUDA "
                "graph, got a first call there; run the model once on a batch before."
            )
        if not bool(self.initialized) and self.training and x is not None:
            self._initialize(x)
        self._is_known = bool(self.initialized)
        if not self._is_known and (x is None or not self.training):
            what = "the inverse" if x is None else "evaluation"
            warnings.warn(
                f"iresnet_fast: {what} of an ActNorm that has seen no batch is the identity; run the model on a batch "
                f"in training mode or load a checkpoint.",
                RuntimeWarning,
                stacklevel=3 if x is None else 5,  # the caller, behind forward and what calls it in torch
            )

    def _initialize(self, x: Tensor) -> None:
        with plainly():
            rows = x.detach().transpose(0, 1).flatten(1).to(torch.promote_types(x.dtype, torch.float32))  # [C, n]
            total = _sum_over_ranks(torch.cat((rows.sum(1), rows.new_tensor([rows.shape[1]]))))
            if float(total[-1]) == 0.0:
                return  # an empty batch: wait for the next one
            mean = total[:-1] / total[-1]
            squares = torch.stack(((rows - mean[:, None]).square().sum(1), rows.square().sum(1)))
            variance, power = (_sum_over_ranks(squares) / total[-1]).unbind()
            if not bool((variance + mean).isfinite().all()):
                raise ValueError(
                    "the first batch of an ActNorm must be finite, got NaN or infinity in it; check the data and the "
                    "layers before."
                )
            # Rounding leaves a constant channel a standard deviation of some eps times its value.
            varies = variance > (64.0 * torch.finfo(rows.dtype).eps) ** 2 * power
            write(self.log_scale, torch.where(varies, -0.5 * variance.log(), 0.0))
            write(self.bias, -mean)
            self.initialized.fill_(True)

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._is_known = not self.initialized.is_meta and bool(self.initialized)


class _Normalize(torch.autograd.Function):
    """`_normalize` as one node of the graph where plain torch has nine."""

    @staticmethod
    def forward(x: Tensor, bias: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        return _normalize(x, bias, log_scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[0], inputs[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_logdet: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        z, log_scale = ctx.saved_tensors
        scale, all_but_channels = log_scale.exp(), [0, *range(2, z.dim())]
        by_log_scale = torch.add((grad * z).sum(all_but_channels), grad_logdet.sum(), alpha=math.prod(z.shape[2:]))
        by_x = grad * _like(scale, z) if ctx.needs_input_grad[0] else None
        return by_x, grad.sum(all_but_channels) * scale, by_log_scale


def _normalize(x: Tensor, bias: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    return (x + _like(bias, x)) * _like(log_scale.exp(), x), _logdet(log_scale, x)


def _has_tangent(*tensors: Tensor) -> bool:
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]


def _like(values: Tensor, x: Tensor) -> Tensor:
    """Return values [C] so that they broadcast over x [B, C, ...]."""
    return values.view(values.shape + (1,) * (x.dim() - 2))


def _logdet(log_scale: Tensor, x: Tensor) -> Tensor:
    return log_scale.expand(x.shape[0], -1).sum(1) * math.prod(x.shape[2:])


def _sum_over_ranks(values: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        distributed.all_reduce(values)
    return values
