"""The 8 x 8 digits that scikit-learn ships."""

from __future__ import annotations

import numpy as np
import torch

from .._optional import needed
from .dataset import DataSet

N_TRAIN = 1437  # of 1797: four fifths


def load_digits(seed: int) -> DataSet:
    """Return the digits as images [N, 1, 8, 8] of 17 levels: 1437 to train on and 360 to test on, split by the seed."""
    with needed("the data set digits"):
        from sklearn import datasets  # type: ignore[import-untyped]

    bunch = datasets.load_digits()
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(bunch.images)))
    images = torch.from_numpy(bunch.images).to(torch.uint8)[order, None]
    labels = torch.from_numpy(bunch.target).to(torch.int64)[order]
    return DataSet("digits", images[:N_TRAIN], images[N_TRAIN:], labels[:N_TRAIN], labels[N_TRAIN:], 17, 10)
