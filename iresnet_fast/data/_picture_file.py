"""One image file as pixels: whatever it holds, decoded by Pillow, upright, opaque, in one colour or three."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .._optional import needed
from .._regular import half_of_memory
from . import _files
from ._files import Array
from .dataset import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_FORMATS = ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"]
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_LONG = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112  # a tag of EXIF
_BITS = 258  # a tag of TIFF
_TURNED = (5, 6, 7, 8)  # orientations with height and width exchanged

CROPPED = "have 16 bits for each colour, of which the upper 8 were read"
TRANSPARENT = "have transparent pixels, which were put on white"
ANIMATED = "have several frames, of which the first was read"


class Head(NamedTuple):
    """What an image is before it is decoded.

    Attributes:
        size: height and width, upright.
        is_grey: whether its format has one colour.
        is_long: whether it has 16 bits.
    """

    size: tuple[int, int]
    is_grey: bool
    is_long: bool


def read_head(path: Path) -> Head:
    """Return what an image is; raises DataError if it is damaged."""
    with _opened(path) as image:
        width, height = image.size
        turned = _orientation(image) in _TURNED
        return Head((width, height) if turned else (height, width), image.mode in _GREY, image.mode in _LONG)


def read_pixels(path: Path, grey: bool, done: Counter[str]) -> Array:
    """Return the pixels of an image, [1, H, W] or [3, H, W], bytes or 16 bits in uint16, upright and opaque.

    Args:
        path: of the file.
        grey: whether to return one colour.
        done: counts what was lost in images.

    Raises:
        DataError: it is damaged, or holds numbers that are no levels.
    """
    with needed(f"reading {path}"):
        from PIL import Image, ImageOps

    with _opened(path) as image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about metadata
                done[CROPPED] += _has_long_colours(image)
                done[ANIMATED] += bool(getattr(image, "is_animated", False))
                image.load()
                whole = ImageOps.exif_transpose(image)
        except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
            raise _damaged(path, error) from None
        if whole.mode in _LONG:
            return _long(path, whole)
        if whole.mode == "F":
            raise DataError(f"{path} must be an image of 8 or 16 bits, got floats; save such images as one .npy file.")
        if whole.has_transparency_data:
            layered = whole.convert("RGBA")
            if layered.getchannel("A").getextrema() != (255, 255):
                done[TRANSPARENT] += 1
            whole = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
        pixels = np.asarray(whole.convert("L" if grey else "RGB"))
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _long(path: Path, image: Image.Image) -> Array:
    """Return the pixels [1, H, W] of a grey image of 16 bits."""
    pixels = np.asarray(image)
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise DataError(
            f"{path} must hold levels from 0 to 65535, got {low} to {high}; save such images as one .npy file."
        )
    return pixels[None].astype(np.uint16)


def _opened(path: Path) -> Image.Image:
    with needed(f"reading {path}"):
        from PIL import Image, UnidentifiedImageError
    content = _files.read(path, half_of_memory())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes that Pillow still reads
            return Image.open(io.BytesIO(content), formats=_FORMATS)
    except Image.DecompressionBombError:  # of twice the number that Pillow warns of
        raise DataError(
            f"{path} must have at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, got more; make it smaller, or raise "
            f"PIL.Image.MAX_IMAGE_PIXELS if it is to be trusted."
        ) from None
    except UnidentifiedImageError:  # its own sentence names an object in memory
        raise DataError(
            f"{path} must be an image in {', '.join(_FORMATS)}, got another or a damaged file; replace or remove it."
        ) from None
    except Exception as error:  # of a damaged file the reader raises whatever it stumbles over
        raise _damaged(path, error) from None


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged metadata: exif_transpose leaves such an image as it is
        return 1


def _has_long_colours(image: Image.Image) -> bool:
    """Whether Pillow keeps 8 of 16 bits of a colour."""
    if image.mode in _LONG:
        return False
    if image.format == "TIFF":
        bits: tuple[int, ...] = image.tag_v2.get(_BITS, (8,))  # type: ignore[attr-defined]
        return max(bits) > 8
    return image.format == "PNG" and ";16B" in str(image.tile)  # type: ignore[attr-defined]


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} must be a whole image, got a damaged one ({_files.said(error)}); replace or remove it.")
