"""What SpectralLinear and SpectralConv2d share: the power-iteration vectors, and what their last refresh saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import _capture, _checks
from .._torch_private import copy_all, outside_transforms
from ..geometry import ConvGeometry
from ._versions import written_by_a_graph

Norm = tuple[Tensor, Tensor, Tensor]  # sigma, u, v


class LastRefresh(NamedTuple):
    """The weights a refresh saw and what it left behind."""

    weight: Tensor  # an alias: while it lives, no other tensor can have its address
    version: int
    buffer: Tensor  # sigma as it was then: a swapped or moved buffer is not it
    norm: Norm  # never written again, since what is saved for backward must survive the next refresh
    converged: bool
    capture: int | None  # of the CUDA graph that computes the norm when it is replayed; None: it is there


class SpectralLayer(nn.Module):
    """A linear map with weight W / max(1, sigma / coeff), sigma its largest singular value.

    A mixin to put before the torch layer. Its subclass gives the `geometry` and calls `_start` when built.
    """

    weight: Tensor
    u: Tensor
    v: Tensor
    sigma: Tensor
    coeff: float
    n_iterations: int
    tol: float | None
    sigma_gradient: bool
    # Python state, none of it in the state_dict.
    _warm: bool  # u, v have converged once: a few iterations follow the weights
    _captured: bool = False  # a CUDA graph reads and writes the buffers, so they must stay where they are
    _last: LastRefresh | None
    _baked: tuple[LastRefresh, float, Tensor] | None  # effective weight without a graph, its refresh and coeff

    def _start(self, coeff: float, n_iterations: int, tol: float | None, sigma_gradient: bool) -> None:
        if not 0.0 < coeff < math.inf:
            raise ValueError(f"coeff must be positive and finite, got {coeff}; pass e.g. 0.9.")
        _checks.check_count("n_iterations", n_iterations, 1)
        if tol is not None:
            _checks.check_tolerance(tol)
        self.coeff, self.n_iterations, self.tol, self.sigma_gradient = float(coeff), n_iterations, tol, sigma_gradient
        for name in ("u", "v", "sigma"):
            self.register_buffer(name, torch.empty(0))
        self._draw()

    @property
    def geometry(self) -> ConvGeometry | None:
        """Where the map acts: None for a matrix."""
        return None

    @property
    def is_ready(self) -> bool:
        """Whether the input size, and so the operator, is known."""
        return True

    def extra_repr(self) -> str:
        """Describe the layer in its repr."""
        return f"{super().extra_repr()}, coeff={self.coeff}"

    def train(self, mode: bool = True) -> SpectralLayer:
        """Switch the mode. A change also forgets the last refresh, which a write through `.data` does not show."""
        if mode != self.training:
            self._forget()
        super().train(mode)
        return self

    def reset_parameters(self) -> None:
        """Draw new weights, and start the power iteration anew."""
        super().reset_parameters()  # type: ignore[misc]  # of the torch layer
        if "u" in self._buffers:
            self._draw()

    @property
    def may_have_been_replayed(self) -> bool:
        """Whether a CUDA graph may have changed weight and buffers since anyone looked: a replay leaves no trace."""
        in_a_graph = self._captured or written_by_a_graph(self.weight)
        return in_a_graph and _capture.of(plain(self.weight)) is None

    def is_stale(self) -> bool:
        """Whether the weights, the buffers, the mode or a CUDA graph ask for another refresh."""
        last = self._last
        if last is None or last.buffer is not self.sigma or not (self.training or last.converged):
            return True
        weight, seen = plain(self.weight), last.weight
        # A graph being captured must hold a refresh of its own, since the weight may change between its replays.
        if self.may_have_been_replayed or last.capture != _capture.of(weight):
            return True
        return (
            weight.is_inference()  # its changes are not counted
            or weight._version != last.version
            or weight.data_ptr() != seen.data_ptr()
            or weight.dtype != seen.dtype
            or weight.device != seen.device
        )

    def _forget(self) -> None:
        self._last = self._baked = None

    def _vector_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (self.weight.shape[0],), (self.weight.shape[1],)

    def _draw(self) -> None:
        """Start u, v from a seed of their own: the global generator is not touched, all DDP ranks agree."""
        generator = torch.Generator().manual_seed(0)
        with plainly():
            weight = plain(self.weight)
            for name, shape in zip(("u", "v"), self._vector_shapes(), strict=True):
                vector = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
                unit = vector / torch.linalg.vector_norm(vector).clamp(min=1e-30)
                self._write(name, unit.to(device=weight.device, dtype=weight.dtype))
            self._write("sigma", torch.zeros((), device=weight.device, dtype=weight.dtype))
        self._warm = False
        self._forget()

    def _write(self, name: str, value: Tensor) -> None:
        """Set a buffer: a new tensor, unless a CUDA graph would go on with the old one."""
        if self._captured:
            getattr(self, name).copy_(value)
        else:
            setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the caches out of copies and pickles, which no CUDA graph knows."""
        return {**self.__dict__, "_last": None, "_baked": None, "_captured": False}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in ("u", "v", "sigma"):  # after a refresh they are slices of one tensor, which a file should not hold
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
            for name in ("u", "v", "sigma"):
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
            self._warm = sigma is not None and not sigma.is_meta and bool(sigma > 0)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _fits(self, u_shape: tuple[int, ...], v_shape: tuple[int, ...]) -> bool:
        """Whether vectors of these shapes belong to this layer; takes over what they tell of its input size."""
        return (u_shape, v_shape) == self._vector_shapes()


def accept(
    layers: Sequence[SpectralLayer], sigmas: Tensor, us: Sequence[Tensor], vs: Sequence[Tensor], converged: bool
) -> None:
    """Take the results of a refresh of these layers, new tensors, which nothing else writes."""
    kept: list[Tensor] = []
    written: list[Tensor] = []
    for layer, *found in zip(layers, sigmas.unbind(), us, vs, strict=True):
        weight = plain(layer.weight)
        capture = _capture.of(weight)
        sigma, u, v = (as_dtype(tensor, weight.dtype) for tensor in found)
        if capture is not None:
            layer._captured = True
        if layer._captured:
            kept += [layer.sigma, layer.u, layer.v]
            written += [sigma, u, v]
        else:
            # Not by setattr, whose checks cost more than the rest.
            layer._buffers.update(sigma=sigma, u=u, v=v)
        version = 0 if weight.is_inference() else weight._version
        last = LastRefresh(weight.detach(), version, layer.sigma, (sigma, u, v), converged, capture)
        # A capture computes nothing: u and v have not converged before a replay.
        warm = layer._warm or (converged and capture is None)
        layer.__dict__.update(_warm=warm, _last=last, _baked=None)
    if kept:
        copy_all(kept, written)


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
