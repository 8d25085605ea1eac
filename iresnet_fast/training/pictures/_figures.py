"""What all pictures share: their colours, how a figure begins, and how it becomes a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._optional import needed
from ..files import writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of Okabe and Ito: they differ for all kinds of colour vision, and in brightness when printed without colours.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#767676"

# What savefig is told for each suffix. JPEG at matplotlib's quality of 75 shows rings around text.
FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "png"},
    ".jpg": {"format": "jpeg", "pil_kwargs": {"quality": 92}},
    ".jpeg": {"format": "jpeg", "pil_kwargs": {"quality": 92}},
    ".svg": {"format": "svg"},
    ".pdf": {"format": "pdf"},
    ".webp": {"format": "webp", "pil_kwargs": {"quality": 92}},
}


def check_path(path: str | Path) -> Path:
    """Return the path of a picture; raises ValueError if its suffix is that of no format."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise ValueError(
            f"the name of a picture must end in {', '.join(FORMATS)}, got {str(path)!r}; name it e.g. "
            f"{path.stem or 'picture'}.png."
        )
    return path


def new_figure(n_axes: int, width: float, height: float) -> Figure:
    """Return a figure with axes in a row, its size in inches."""
    with needed("drawing pictures"):
        from matplotlib.figure import Figure  # heavy, and only needed to draw

    figure = Figure((width, height), dpi=120, layout="constrained")
    if n_axes:
        figure.subplots(1, n_axes)
    return figure


def tidy(axes: Any, grid: bool = True) -> None:
    """Leave out the lines of the frame that say nothing, and draw a faint grid below everything."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color="#e4e4e4", linewidth=0.8)


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure whole: a reader never sees half a picture.

    Raises:
        ValueError: the suffix is that of no format.
        WriteError: the file cannot be written.
    """
    path = check_path(path)
    with writing(path) as file:
        figure.savefig(file, **FORMATS[path.suffix.lower()])
    return path
