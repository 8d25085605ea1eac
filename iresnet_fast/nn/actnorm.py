"""A scale and a shift per channel that start by normalising the first batch."""

from __future__ import annotations

import math
import threading
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .. import _checks
from .._autograd import apply
from .._inputs import check_channels, check_same_kind
from .._torch_private import is_in_backward
from .._tracing import is_eager, may_read
from ._fsdp import write
from ._layer import plainly
from ._modulation import Modulation
from ._ranks import sum_over_ranks
from ._transform import Transform

# Of all layers: initialising is over in a millisecond, and copies of a model need no lock of their own.
_initializing = threading.Lock()


class ActNorm(Transform):
    """z = (x + bias) * exp(log_scale) per channel (Glow, arXiv 1807.03039, section 3.1).

    The first batch in training sets bias and log_scale so that every channel of what comes out has mean 0 and variance
    1: of z if `forward` comes first, of x if `inverse` does, as in training by reverse KL; either way the layers behind
    get numbers of order 1. A channel that is constant over the batch, such as one of InjectivePad, keeps scale 1. The
    statistics are those of all ranks if torch.distributed is initialised, so all of them must run that batch.

    It happens once, and never to parameters that hold something already: those of a checkpoint, those that a step of an
    optimizer, a copy, an average or their owner has written since they were zero, and frozen ones. An inverse
    without gradients initialises nothing either: it draws samples, perhaps before a training on data begins. Until the
    layer is initialised it is the identity, which evaluation and the inverse say in a warning.

    Buffer `initialized` [] is 0 or 1, and in the state_dict. It is of floating point since averages of models take no
    others: torch's own of integers raises where it divides and truncates where it does not. Any value but 0 counts as
    set, so the flag of an average is that of the models in it. The bool of earlier checkpoints is loaded as a number.

    With context_features the layer is conditional: `network`, two layers, returns what a context [B, context_features]
    adds to bias and log_scale, each sample its own. It starts from zeros and takes no part in the first batch.

    Args:
        num_features: channels of x, [B, num_features, ...].
        device: of the parameters.
        dtype: of the parameters.
        context_features: width of the context; 0: there is none.
        context_hidden: width between the two layers of the network.

    Raises:
        ValueError: num_features or context_hidden is not positive, or context_features negative.
        TypeError: one of them is not an integer.
    """

    context_features: int = 0  # also of a layer that an earlier version has pickled
    network: Modulation
    bias: Tensor
    log_scale: Tensor
    initialized: Tensor
    _is_known = False  # that the flag is set
    _known_flag: Tensor | None = None  # the tensor that said so

    def __init__(
        self,
        num_features: int,
        device: Any = None,
        dtype: Any = None,
        context_features: int = 0,
        context_hidden: int = 64,
    ) -> None:
        """Build the layer; the arguments are those of the class."""
        super().__init__()
        _checks.check_count("num_features", num_features, 1)
        _checks.check_count("context_features", context_features, 0)
        _checks.check_count("context_hidden", context_hidden, 1)
        self.num_features, self.context_features = num_features, context_features
        if context_features:
            self.network = Modulation(context_features, num_features, context_hidden, device, dtype)
        self.bias = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.log_scale = nn.Parameter(torch.empty(num_features, device=device, dtype=dtype))
        self.register_buffer("initialized", torch.zeros((), device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def takes_context(self) -> bool:  # type: ignore[override]  # that of a layer, not of the class
        """Whether the layer depends on a context."""
        return self.context_features > 0

    def reset_parameters(self) -> None:
        """Go back to the identity; the next batch in training initialises the layer again."""
        with torch.no_grad():
            self.bias.zero_()
            self.log_scale.zero_()
            self.initialized.zero_()
        if self.context_features:
            self.network.reset_parameters()
        self._is_known = False

    def forward(self, x: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return z, the shape of x, and the log-determinant [B].

        Args:
            x: [B, num_features, ...].
            context: [B, context_features]; not used if the layer takes none.

        Raises:
            ValueError: x or the context does not fit, or the first batch has values that are not finite.
            RuntimeError: the first batch comes while tracing, inside torch.func or while a CUDA graph is captured.
        """
        check_same_kind(x, self.bias)
        check_channels(x, self.num_features)
        self._prepare(x, inverse=False)
        if self.context_features:
            return _normalize(x, *self._at(context, x))
        bias, log_scale = self.bias, self.log_scale
        if torch.is_grad_enabled() and is_eager() and not _has_tangent(x, bias, log_scale):
            z, logdet = apply(_Normalize, x, bias, log_scale)
            return z, logdet
        return _normalize(x, bias, log_scale)

    def inverse(self, z: Tensor, context: Any = None) -> tuple[Tensor, Tensor]:
        """Return x and the log-determinant of the inverse [B]; else as `forward`."""
        check_same_kind(z, self.bias, "z")
        check_channels(z, self.num_features, "z")
        self._prepare(z, inverse=True)
        bias, log_scale = self._at(context, z) if self.context_features else (self.bias, self.log_scale)
        return z * _like((-log_scale).exp(), z) - _like(bias, z), _logdet(-log_scale, z)

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{self.num_features}" + f", context_features={self.context_features}" * self.takes_context

    def _at(self, context: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return bias and log_scale [B, num_features] at a context."""
        shift, log_scale = self.network(context, x.shape[0], "ActNorm")
        return self.bias + shift, self.log_scale + log_scale

    def _prepare(self, values: Tensor, inverse: bool) -> None:
        """See that the layer is initialised: from the values that come in if it is being trained, else warn."""
        if self._is_known if not is_eager() else self.is_known_to_be_initialized():
            return
        if not is_eager() or not may_read(self.initialized):
            raise RuntimeError(
                "ActNorm must be initialised before it is traced or transformed by torch.func, or captured in a CUDA "
                "graph, got a first call there; run the model once on a batch before."
            )
        is_frozen = not (self.bias.requires_grad and self.log_scale.requires_grad)
        # A reentrant checkpoint enables gradients for a call that it made without them before.
        makes_graph = torch.is_grad_enabled() and not is_in_backward()
        is_trained = self.training and not is_frozen and (makes_graph or not inverse)
        with _initializing, plainly():  # other threads wait for what the first one finds
            if not bool(self.initialized):
                if bool(self.bias.any() or self.log_scale.any()):
                    self.initialized.fill_(1.0)
                elif is_trained:
                    self._initialize(values.detach(), inverse)
            self._know()
        if not self._is_known and not is_trained:
            what = "the inverse" if inverse else "training" if self.training else "evaluation"
            advice = "run the model on a batch in training mode or load a checkpoint"
            if is_frozen and self.training:
                what, advice = f"{what} with frozen parameters", "let them require gradients in a first batch"
            warnings.warn(
                f"iresnet_fast: {what} of an ActNorm that has seen no batch is the identity; {advice}.",
                RuntimeWarning,
                stacklevel=3 if inverse else 5,  # the caller, behind forward and what calls it in torch
            )

    def is_known_to_be_initialized(self) -> bool:
        """Whether the flag has been read and was set, and no other one has been put in its place since."""
        return self._is_known and self._known_flag is self.initialized

    def _know(self) -> None:
        """Read the flag, which waits for the device, and note which tensor it was: functional_call lends others."""
        self._is_known, self._known_flag = bool(self.initialized), self.initialized

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, also of an earlier version, whose flag was a bool."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # of torch
        if self.initialized.dtype == torch.bool:
            self.initialized = self.initialized.to(self.bias.dtype)

    def _initialize(self, values: Tensor, inverse: bool) -> None:
        """Set the parameters so that these values come out normalised."""
        rows = values.transpose(0, 1).flatten(1).to(torch.promote_types(values.dtype, torch.float32))  # [C, n]
        total = sum_over_ranks(torch.cat((rows.sum(1), rows.new_tensor([rows.shape[1]]))))
        if float(total[-1]) == 0.0:
            return  # an empty batch: wait for the next one
        mean = total[:-1] / total[-1]
        squares = torch.stack(((rows - mean[:, None]).square().sum(1), rows.square().sum(1)))
        variance, power = (sum_over_ranks(squares) / total[-1]).unbind()
        if not bool((variance + mean).isfinite().all()):
            raise ValueError(
                "the first batch of an ActNorm must be finite, got NaN or infinity in it; check the data and the "
                "layers before."
            )
        # Rounding leaves a constant channel a standard deviation of some eps times its value.
        varies = variance > (64.0 * torch.finfo(rows.dtype).eps) ** 2 * power
        log_deviation = torch.where(varies, 0.5 * variance.log(), 0.0)
        # z = (x + bias) * exp(log_scale), and x = z * exp(-log_scale) - bias.
        write(self.log_scale, log_deviation if inverse else -log_deviation)
        write(self.bias, mean * (-log_deviation).exp() if inverse else -mean)
        self.initialized.fill_(1.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        flag = state_dict.get(f"{prefix}initialized")
        if flag is not None:  # a bool in earlier versions, which load_state_dict(assign=True) would keep
            state_dict[f"{prefix}initialized"] = flag.to(self.initialized.dtype)
        super()._load_from_state_dict(state_dict, prefix, *others)
        if not self.initialized.is_meta:
            self._know()


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
    """Return values [C] or [B, C] so that they broadcast over x [B, C, ...]."""
    return values if x.dim() == 2 else values.view(values.shape + (1,) * (x.dim() - 2))


def _logdet(log_scale: Tensor, x: Tensor) -> Tensor:
    total = log_scale.expand(x.shape[0], -1).sum(1)
    return total if x.dim() == 2 else total * math.prod(x.shape[2:])
