"""What SpectralLinear and SpectralConv2d share: their options, their singular vectors, and how those are stored."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _checks
from .._torch_private import outside_transforms
from ..geometry import ConvGeometry
from ._hooks import Skippable

if TYPE_CHECKING:
    from ._group import SpectralGroup

Norm = tuple[Tensor, Tensor, Tensor]  # sigma, u, v

# The leading singular vectors, what leads from them to the next ones (`ops.lanczos_norm`), and the norm divided by.
BUFFERS = ("u", "v", "companion", "sigma")

# Code under torch.compile can hold the number of a layer, not the layer.
_handles = itertools.count()
_layers: weakref.WeakValueDictionary[int, SpectralLayer] = weakref.WeakValueDictionary()


class SpectralLayer(Skippable):
    """A linear map with weight W / max(1, sigma / coeff), sigma its largest singular value.

    A mixin to put before the torch layer. Its subclass gives the `geometry` and calls `_start` when built.
    """

    weight: Tensor
    u: Tensor
    v: Tensor
    companion: Tensor
    sigma: Tensor
    coeff: float
    n_iterations: int
    tol: float | None
    sigma_gradient: bool
    strict: bool = False
    # Python state, none of it in the state_dict. All that is known of the norm beside it is the group's.
    group: SpectralGroup | None = None  # who is refreshed together with this layer; None: nobody has asked yet
    is_warm: bool  # u, v have converged once: a few iterations follow the weights
    is_doubtful: bool = False  # they come from a checkpoint, or no companion has led from them to the next ones yet
    is_captured: bool = False  # a CUDA graph reads and writes the buffers, so they must stay where they are
    handle: int  # for `layer_of`

    def _start(self, coeff: float, n_iterations: int, tol: float | None, sigma_gradient: bool, strict: bool) -> None:
        _checks.check_number("coeff", coeff, "0.9")
        if not 0.0 < coeff < math.inf:
            raise ValueError(f"coeff must be positive and finite, got {coeff}; pass e.g. 0.9.")
        _checks.check_count("n_iterations", n_iterations, 1)
        if tol is not None:
            _checks.check_tolerance(tol)
        self.coeff, self.n_iterations, self.tol = float(coeff), n_iterations, tol
        _checks.check_flag("sigma_gradient", sigma_gradient)
        _checks.check_flag("strict", strict)
        self.sigma_gradient, self.strict = sigma_gradient, strict
        for name in BUFFERS:
            self.register_buffer(name, torch.empty(0))
        self.handle = _register(self)
        self._draw()

    @property
    def geometry(self) -> ConvGeometry | None:
        """Where the map acts: None for a matrix."""
        return None

    @property
    def is_ready(self) -> bool:
        """Whether the input size, and so the operator, is known."""
        return True

    def acts_as(self, geometry: ConvGeometry | None) -> bool:
        """Whether the map is of this geometry, but for the size of images; somebody may set another stride."""
        return geometry is None

    def set_image_size(self, image_size: Sequence[int]) -> None:
        """Tell the (height, width) of the inputs; a matrix is the same for all."""

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{super().extra_repr()}, coeff={self.coeff}"

    def reset_parameters(self) -> None:
        """Draw new weights, and start the iteration anew."""
        super().reset_parameters()  # type: ignore[misc]  # of the torch layer
        if "u" in self._buffers:
            self._draw()

    def _vector_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.weight.shape[0],), (self.weight.shape[1],)

    def has_its_vectors(self) -> bool:
        """Whether u and v are vectors of the map as it is now."""
        return (tuple(self.u.shape), tuple(self.v.shape)) == self._vector_shapes()

    def restart(self) -> None:
        """Start the iteration anew, for another operator."""
        if self.is_captured:
            raise RuntimeError(
                f"the shape of the weight, stride, padding, dilation and groups must stay as they were in a layer that "
                f"a CUDA graph has captured, got a change to {self}; use a copy.deepcopy of the model for others."
            )
        self._draw()

    def _draw(self) -> None:
        """Start u, v from a seed of their own: the global generator is not touched, all DDP ranks agree."""
        generator = torch.Generator().manual_seed(0)
        with plainly():
            weight = plain(self.weight)
            for name, shape in zip(("u", "v"), self._vector_shapes(), strict=True):
                vector = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
                unit = vector / torch.linalg.vector_norm(vector).clamp(min=1e-30)
                self._write(name, unit.to(device=weight.device, dtype=weight.dtype))
            self._write("companion", torch.zeros_like(min(self.v, self.u, key=torch.Tensor.numel)))
            self._write("sigma", torch.zeros((), device=weight.device, dtype=weight.dtype))
        self.is_warm = self.is_doubtful = False

    def _write(self, name: str, value: Tensor) -> None:
        """Set a buffer: a new tensor, unless a CUDA graph would go on with the old one."""
        if self.is_captured:
            getattr(self, name).copy_(value)
        else:
            setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of copies and pickles what is this layer's alone: no group and no CUDA graph knows them."""
        return {**self.__dict__, "group": None, "is_captured": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, and a number of one's own."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # of torch
        self.handle = _register(self)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in BUFFERS:  # after a refresh they are slices of one tensor, which a file should not hold
            destination[prefix + name] = destination[prefix + name].clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        error_msgs: list[str] = others[-1]
        weight, u, v, sigma = (state_dict.get(prefix + name) for name in ("weight", "u", "v", "sigma"))
        if weight is not None and weight.shape != self.weight.shape:
            error_msgs.append(
                f"{prefix}weight must have shape {tuple(self.weight.shape)}, got {tuple(weight.shape)} from the "
                f"checkpoint; build the layer with the checkpoint's sizes."
            )
            return
        if u is None or v is None or u.numel() == 0 or v.numel() == 0:
            # An unready layer was saved, or a plain one: nothing of ours fits other weights.
            self._draw()
            for name in BUFFERS:
                if prefix + name in state_dict:
                    state_dict[prefix + name] = getattr(self, name)
        elif not self._fits(tuple(u.shape), tuple(v.shape)):
            error_msgs.append(
                f"{prefix}u and {prefix}v must be the vectors of a weight of shape {tuple(self.weight.shape)}, got "
                f"shapes {tuple(u.shape)} and {tuple(v.shape)} from the checkpoint; build the layer as it was saved."
            )
            return
        else:
            self._draw()  # tensors of the saved shapes; super() copies into them
            self.is_warm = self.is_doubtful = sigma is not None and not sigma.is_meta and bool(sigma > 0)
            companion = state_dict.get(prefix + "companion")
            if companion is None or companion.shape != self.companion.shape:  # of a version that had none
                state_dict[prefix + "companion"] = self.companion
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _fits(self, u_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> bool:
        """Whether vectors of these shapes belong to this layer; takes over what they tell of its input size."""
        return (u_shape, v_shape) == self._vector_shapes()


def layer_of(handle: int) -> SpectralLayer:
    """Return the layer of this number."""
    return _layers[int(handle)]  # torch.compile may trace it as a symbol, which has no hash


def _register(layer: SpectralLayer) -> int:
    handle = next(_handles)
    _layers[handle] = layer
    return handle


@contextmanager
def plainly() -> Iterator[None]:
    """Compute ordinary tensors without a graph, also inside inference mode and inside a torch.func transform."""
    with torch.inference_mode(False), torch.no_grad(), outside_transforms():
        yield


def as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return tensor.to(dtype), at the cost of a comparison if that is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def plain(tensor: Tensor) -> Tensor:
    """Return the tensor that torch.func transforms have wrapped, if any."""
    return torch.func.debug_unwrap(tensor)
