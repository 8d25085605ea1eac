"""Reading a pickle of numpy arrays from a file of others: nothing in it is called but what makes an array."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from ._files import AGAIN, said
from .dataset import DataError

_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    # The function that pickles of arrays name; numpy 2 moved it.
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what makes arrays, and nothing else: an ordinary pickle can name any function to be called."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not needed for arrays and may do harm")
        return _ALLOWED[module, name]


def loads(where: str, content: bytes) -> Any:
    """Return the arrays, numbers, byte strings, lists and dictionaries that Python 2 or 3 pickled.

    Args:
        where: what the sentence of an error calls the file.
        content: the pickle.

    Raises:
        DataError: it is damaged, or names something else.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle ends in whatever its instructions happen to do
        raise DataError(
            f"{where} must be a whole pickle of arrays and numbers, got one that is damaged or holds more "
            f"({said(error)}); {AGAIN}."
        ) from None
