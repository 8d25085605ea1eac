"""Pictures of data and of what a model makes of them, as files: matplotlib without a display.

The suffix of a path decides the format: .png, .jpg, .jpeg, .svg, .pdf or .webp. Nothing here depends on the backend
that the caller uses, or changes it.
"""

from ._calibration import Calibration, calibration
from ._compare import compare
from ._curves import curves
from ._figures import FORMATS, check_path
from ._images import image_grid, reconstructions
from ._pairs import pairs, rows_of
from ._plane import density, points
from ._signals import signals

__all__ = [
    "FORMATS",
    "Calibration",
    "calibration",
    "check_path",
    "compare",
    "curves",
    "density",
    "image_grid",
    "pairs",
    "points",
    "reconstructions",
    "rows_of",
    "signals",
]
