"""Data sets: two-dimensional densities, scikit-learn's digits, images from their published files, tables.

`load(name, root)` returns a `DataSet`; whoever has tensors of their own makes one: `DataSet("mine", train, test)`.
"""

from ._load import NAMES, load
from ._write import write_table
from .dataset import DataError, DataSet
from .densities import sample_density
from .map_style import from_torchvision
from .schema import Column, TableSchema
from .source import ImageOptions, Source, TableOptions
from .table import Table
from .tabular import SUFFIXES, is_table, read_table

__all__ = [
    "NAMES",
    "SUFFIXES",
    "Column",
    "DataError",
    "DataSet",
    "ImageOptions",
    "Source",
    "Table",
    "TableOptions",
    "TableSchema",
    "from_torchvision",
    "is_table",
    "load",
    "read_table",
    "sample_density",
    "write_table",
]
