"""Data sets: two-dimensional densities, scikit-learn's digits, images from their published files, tables.

`load(name, root)` returns a `DataSet`; whoever has tensors of their own makes one: `DataSet("mine", train, test)`.
"""

from ._load import NAMES, load
from .dataset import DataError, DataSet
from .densities import sample_density

__all__ = ["NAMES", "DataError", "DataSet", "load", "sample_density"]
