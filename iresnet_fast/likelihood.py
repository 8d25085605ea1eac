"""Likelihoods in the unit papers report."""

from __future__ import annotations

import math

from torch import Tensor

from . import _checks
from ._inputs import check_tensor


def bits_per_dim(log_prob: Tensor, n_dims: int, n_levels: int = 1) -> Tensor:
    """Return -log_prob / (n_dims log 2) + log2(n_levels), the shape of log_prob: the bits a value of the data takes.

    Args:
        log_prob: natural logarithm of the density of the data, [] or [B].
        n_dims: values in one sample as the data set has them, 784 for MNIST: copies of a channel, padding or margins
            that the model adds do not count.
        n_levels: 1 if log_prob is that of the integers themselves, as with nn.Dequantize in the model; the number of
            levels, 256 for bytes, if it is that of (integers + noise) / n_levels.

    Raises:
        ValueError: n_dims or n_levels is not positive.
        TypeError: n_dims or n_levels is not an integer.
    """
    if not hasattr(log_prob, "__truediv__"):
        check_tensor(log_prob, "log_prob")
    _checks.check_count("n_dims", n_dims, 1)
    _checks.check_count("n_levels", n_levels, 1)
    return log_prob / (-n_dims * math.log(2.0)) + math.log2(n_levels)
