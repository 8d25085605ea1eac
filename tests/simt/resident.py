"""Cases for the resident kernels: branches, their weights and derivatives packed, and the structs of the entries."""

import ctypes
from ctypes import Structure, c_char_p, c_double, c_int, c_int64, c_void_p, pointer
from typing import NamedTuple

import torch

from .emulator import Buffer
from .operands import _address, _spread
from .rounding import BF16, FULL, TF32, stored
from .structs import SCALARS, STAGES, Branch, Target

DEPTH = {FULL: 4, TF32: 8, BF16: 16}
MAX_STAGES = 16
FLOOR_EPS = {torch.float32: 4.0, torch.float64: 32.0}  # as in comparison.py
ROUNDING = {FULL: 0.0, TF32: 2.0**-11, BF16: 2.0**-8}  # of an operand on tensor cores


class Choice(Structure):
    _fields_ = tuple((name, c_int) for name in ("items", "threads", "weights_shared", "derivatives_shared", "family"))

    def __init__(self, items=0, threads=0, weights_shared=-1, derivatives_shared=-1, family=-1):
        super().__init__(items, threads, weights_shared, derivatives_shared, family)

    @property
    def layered(self):
        return self.items < 0


LAYERED = Choice(items=-1)  # no block owns that many, so no plan is resident


CASE_FIELDS = (
    ("choice", Choice),
    ("text", c_char_p),
    ("weights", c_void_p * MAX_STAGES),
    ("derivatives", c_void_p * MAX_STAGES),
)


class ChainCase(Structure):
    _fields_ = (
        *CASE_FIELDS,
        *((n, c_int64) for n in ("transpose", "probes", "first_unit", "terms", "per_sample", "relative")),
        ("tolerance", c_double),
        *(
            (n, c_void_p)
            for n in ("probe", "coefficients", "tail", "value", "neumann", "norms", "terms_used", "powers")
        ),
        *((n, c_int64) for n in ("power_stride", "probe_stride", "sample_stride")),
    )


class ForwardCase(Structure):
    _fields_ = (
        *CASE_FIELDS,
        ("inverse", c_int64),
        *((n, c_void_p) for n in ("x", "z", "g")),
        ("residual_limit", c_double),
        ("max_iterations", c_int64),
        ("lipschitz", c_double),
        *((n, c_void_p) for n in ("solution", "iterations", "residual")),
    )


class Shape(NamedTuple):
    """Channels before and after every stage, the kernels of convolutions (none: dense), image and batch."""

    channels: tuple[int, ...]
    batch: int
    kernels: tuple[int, ...] = ()
    image: tuple[int, ...] = ()

    @property
    def event(self):
        return (self.channels[0], *self.image)

    def random_weights(self, generator, scale=0.9):
        weights = []
        for i, (K, N) in enumerate(zip(self.channels[:-1], self.channels[1:], strict=True)):
            taps = (self.kernels[i],) * 2 if self.kernels else ()
            fan = max(K, N) * (taps[0] ** 2 if taps else 1)
            weights.append(scale / fan**0.5 * torch.randn(N, K, *taps, generator=generator, dtype=torch.float64))
        return weights


def pad_channels(channels, precision):
    return -(-channels // DEPTH[precision]) * DEPTH[precision]


def pack_rows(x, precision):
    """[B, C, *image] -> rows [B, *image, channel_pad]."""
    rows = x.movedim(1, -1)
    return torch.nn.functional.pad(rows, (0, pad_channels(rows.shape[-1], precision) - rows.shape[-1])).contiguous()


def pack_weight(weight, transpose, precision):
    """The packed form of csrc/cuda/device/pack.h, as resident walks take it: values."""
    return _packed(
        weight, transpose, precision, lambda n: -(-n // 4) * 4 if precision == FULL else 8 * (-(-n // 8) | 1)
    )


def pack_operands(weight, transpose, precision):
    """The packed form of csrc/cuda/device/pack.h, as layered walks take it: rounded, in TF32 by quads of k."""
    if precision == BF16:
        return stored(_packed(weight, transpose, precision, lambda n: -(-n // 16) * 16), precision)
    packed = stored(pack_weight(weight, transpose, precision), precision)
    return packed.reshape(-1, 4, packed.shape[-1]).transpose(1, 2).contiguous() if precision == TF32 else packed


def _packed(weight, transpose, precision, pitch):
    w = weight if weight.dim() == 4 else weight[:, :, None, None]
    w = w.flip(2, 3).permute(2, 3, 0, 1) if transpose else w.permute(2, 3, 1, 0)  # [tap, tap, K, N]
    K, N = w.shape[2:]
    return torch.nn.functional.pad(w, (0, pitch(N) - N, 0, pad_channels(K, precision) - K)).contiguous()


def branch_struct(shape, activations, weights, biases=None, betas=None, factors=None, constants=None):
    """A Branch whose pointers are those of the given tensors."""
    count = len(shape.channels) - 1
    biases, betas, factors = (tensors or [None] * count for tensors in (biases, betas, factors))
    constants = constants or [0.0] * count
    kind = STAGES[getattr(weights[0], "dtype", torch.float32)]
    stages = (kind * count)(
        *(
            kind(
                activations[i],
                *shape.channels[i : i + 2],
                shape.kernels[i] if shape.kernels else 1,
                *map(_address, (weights[i], biases[i], betas[i], factors[i])),
                constants[i],
                _spread(biases[i]),
                _spread(factors[i]),
            )
            for i in range(count)
        )
    )
    result = Branch(count, ctypes.addressof(stages), *(shape.image or (0, 0)), shape.batch)
    result.array = stages  # which lives as long
    return result


def call(emulator, name, case, branch, dtype, given, made, card="h100", precision=FULL):
    """Call an entry; return the description of its plan. None among the tensors: not wanted."""
    text = ctypes.create_string_buffer(8192)
    case.text = ctypes.cast(text, c_char_p)
    buffers = [Buffer(n, t, n in made) for n, t in (given | made).items() if t is not None and t.numel()]
    target = Target(card.encode(), precision)
    emulator.call(f"{name}_{SCALARS[dtype][0]}", pointer(branch), pointer(case), target, buffers=buffers)
    return text.value.decode()
