"""Images as a DataSet holds them, [N, C, H, W]: which axis is which, one colour or three, one size, how many levels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import _files
from ._files import Array
from ._notes import note
from .dataset import DataError
from .source import ImageOptions

TEST_SHARE = 10  # one event in so many is for testing where nobody has split them
_PIECE = 256  # images resized at a time
# ITU-R 601, as Pillow has it: exact where the three are equal.
_LUMA = (19595, 38470, 7471)
_LUMA_SUM = 1 << 16
# A multiple k / 255 of float32 is off by 2^-24 of itself, and so is its product with 255.
_WHOLE = 255.0 * 2.0**-23


class Images(NamedTuple):
    """Images [N, C, H, W], and the number of their levels; None: they are continuous."""

    x: Tensor
    n_levels: int | None


def split_order(n: int, seed: int) -> tuple[Array, Array]:
    """Return the numbers of the events to train on and of those to test on, a tenth drawn by the seed."""
    order = np.random.default_rng(seed).permutation(n)
    n_test = max(1, n // TEST_SHARE)
    return order[n_test:], order[:n_test]


def channels_first(where: str, shape: tuple[int, ...]) -> bool:
    """Return whether the channels of images [N, C, H, W] or [N, H, W, C] come first; raises DataError if unclear."""
    first, last = shape[1] in (1, 3, 4), shape[3] in (1, 3, 4)
    if first == last:
        why = "both could be channels" if first else "neither can be channels"
        raise DataError(
            f"{where} must have 1, 3 or 4 channels in its second or in its last axis, and not in both, got the shape "
            f"{shape}, where {why}; transpose it to [N, C, H, W] and make a DataSet of it."
        )
    return first


def levels_of(where: str, array: Array) -> tuple[Array, int | None]:
    """Return images as bytes or float32, and the number of their levels, None if they are continuous.

    Bytes have 256 levels, longer whole numbers 65,536 unless 256 are enough, and truth values 2. Floats are continuous
    unless all are whole multiples of 1 / 255 from 0 to 1, or whole numbers from 0 to 255 with some above 1: those are
    bytes that were converted.

    Raises:
        DataError: a number is negative or too large, or not finite.
    """
    if array.dtype == np.bool_:
        return array.astype(np.uint8), 2
    if array.dtype == np.uint8 or array.size == 0:
        return array, 256
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind in "iu":
        if low < 0 or high > 65535:
            raise DataError(
                f"{where} must hold whole numbers from 0 to 65535 for images, got {low:g} to {high:g}; rescale them, "
                f"or convert them to float32 for continuous values."
            )
        if array.dtype.itemsize > 2 and high < 256:
            return array.astype(np.uint8), 256
        return array.astype(np.float32), 65536
    values = array.astype(np.float32) if array.dtype != np.float32 else array
    if not (np.isfinite(low) and np.isfinite(high)) or not np.isfinite(values).all():
        raise DataError(
            f"{where} must hold finite numbers that fit in float32, got {low:g} to {high:g}; remove the others."
        )
    factor = 255.0 if high <= 1.0 else 1.0
    whole = _as_bytes(values, factor) if low >= 0.0 and 0.0 < high * factor <= 255.0 else None
    if whole is None:
        return values, None
    kind = "multiples of 1/255" if factor > 1.0 else "whole numbers"
    note(f"the floats of {where} are {kind} and were taken for images of 256 levels.")
    return whole, 256


def _as_bytes(values: Array, factor: float) -> Array | None:
    """Return factor * values as bytes if they are whole, piece by piece; None: they are not."""
    found = np.empty(values.shape, np.uint8)
    for i in range(0, len(values), _PIECE):
        scaled = np.float32(factor) * values[i : i + _PIECE]
        whole = np.rint(scaled)
        if np.abs(scaled - whole).max(initial=0.0) > (_WHOLE if factor > 1.0 else 0.0):
            return None
        found[i : i + _PIECE] = whole
    return found


def arranged(where: str, images: Images, options: ImageOptions) -> Images:
    """Return images [N, C, H, W] without transparency, in the colours and the size asked for.

    Four channels are red, green, blue and opacity: what is transparent shows white. Three that are the same everywhere
    are one, unless colour is asked for.

    Raises:
        DataError: there are two channels, or more than four, and a change was asked for.
    """
    x, n_levels = images
    if x.shape[1] == 4:
        white = 1.0 if n_levels is None else n_levels - 1.0
        if bool((x[:, 3] != white).any()):
            note(f"transparent pixels of {where} were put on white.")
        x = _on_white(x, white, n_levels is not None)
    if options.mode != "auto" and x.shape[1] not in (1, 3):
        raise DataError(
            f"{where} must have 1 or 3 channels for the mode {options.mode!r}, got {x.shape[1]}; leave the mode out."
        )
    if x.shape[1] == 3 and options.mode == "grey":
        x = _grey(x, n_levels is not None)
    elif x.shape[1] == 3 and options.mode == "auto" and _is_grey(x):
        note(f"the colours of {where} are all grey, so one channel was kept of three; ask for colour to keep them.")
        x = x[:, :1].clone()
    elif x.shape[1] == 1 and options.mode == "colour":
        x = x.expand(-1, 3, -1, -1).contiguous()
    return Images(resized(x, options.size, n_levels), n_levels)


def resized(x: Tensor, size: tuple[int, ...], n_levels: int | None) -> Tensor:
    """Return images [N, C, H, W] of another size: the largest centred part of its proportions, filtered linearly.

    Without a size, or with that which they have, they are returned as they are.
    """
    if size in ((), tuple(x.shape[2:])):
        return x
    top, left, height, width = centre(tuple(x.shape[2:]), size)
    found = x.new_empty(*x.shape[:2], *size)
    for i in range(0, len(x), _PIECE):
        part = x[i : i + _PIECE, :, top : top + height, left : left + width].float()
        made = F.interpolate(part, size, mode="bilinear", antialias=True, align_corners=False)
        found[i : i + _PIECE] = made if n_levels is None else made.round().clamp(0.0, n_levels - 1.0)
    return found


def centre(of: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the largest centred part of an image with the proportions of `size`."""
    scale = min(of[0] / size[0], of[1] / size[1])
    height, width = (min(whole, max(1, round(scale * wanted))) for whole, wanted in zip(of, size, strict=True))
    return (of[0] - height) // 2, (of[1] - width) // 2, height, width


def classes_of(where: str, labels: Array, n: int) -> Tensor:
    """Return labels, [n] or [n, 1], as int64; raises DataError unless there is a whole number from 0 on for each."""
    flat = labels.reshape(-1) if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if flat.shape != (n,):
        raise DataError(f"{where} must hold a label for each of {n} events, got the shape {labels.shape}; correct it.")
    whole = flat.astype(np.int64) if flat.dtype.kind in "iub" else _whole(flat)
    if whole is None or whole.min(initial=0) < 0 or whole.max(initial=0) >= 1 << 20:
        raise DataError(
            f"{where} must hold whole numbers from 0 on as labels, got {_files.shown(str(flat[:5].tolist()))} at its "
            f"start; number the classes."
        )
    return torch.from_numpy(np.ascontiguousarray(whole))


def _whole(values: Array) -> Array | None:
    if values.dtype.kind != "f" or not np.isfinite(values).all() or (values != np.floor(values)).any():
        return None
    return values.clip(-1, 1 << 20).astype(np.int64)


def _is_grey(x: Tensor) -> bool:
    """Whether three channels are the same in all images; the first that is not ends the search."""
    parts = (x[i : i + _PIECE] for i in range(0, len(x), _PIECE))
    return all(bool((part[:, 1:] == part[:, :1]).all()) for part in parts)


def _grey(x: Tensor, whole: bool) -> Tensor:
    found = x.new_empty(len(x), 1, *x.shape[2:])
    luma = torch.tensor(_LUMA, dtype=torch.float64).view(1, 3, 1, 1)
    for i in range(0, len(x), _PIECE):
        made = (x[i : i + _PIECE].double() * luma).sum(1, keepdim=True) / _LUMA_SUM
        found[i : i + _PIECE] = made.round() if whole else made
    return found


def _on_white(x: Tensor, white: float, whole: bool) -> Tensor:
    found = x.new_empty(len(x), 3, *x.shape[2:])
    for i in range(0, len(x), _PIECE):
        part = x[i : i + _PIECE].double()
        opacity = part[:, 3:] / white
        made = part[:, :3] * opacity + white * (1.0 - opacity)
        found[i : i + _PIECE] = made.round() if whole else made
    return found
