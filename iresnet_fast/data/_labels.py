"""The labels of the image sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._files import AGAIN, Array
from .dataset import DataError

N_CLASSES = 10  # of most of them


def labels_of(where: object, values: Array, n_images: int, first: int = 0, n_classes: int = N_CLASSES) -> Tensor:
    """Return labels [N], int64, as they are in the file; raises DataError unless there is a right one for each image.

    Args:
        where: what the sentence of an error calls the file.
        values: the labels as read.
        n_images: N.
        first: the smallest label.
        n_classes: number of labels there can be.
    """
    last = first + n_classes - 1
    if values.dtype.kind not in "iu" or values.shape != (n_images,):
        raise DataError(
            f"{where} must hold a whole number as label for each of the {n_images} images, got {values.dtype} of shape "
            f"{values.shape}; {AGAIN}."
        )
    outside = values[(values < first) | (values > last)]
    if len(outside) > 0:
        raise DataError(f"{where} must hold labels from {first} to {last}, got {outside[0]}; {AGAIN}.")
    return torch.from_numpy(values.astype(np.int64))
