"""Modules that only some parts need: a missing one is a sentence that says for what, and what brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# Module: what it is called, and the extra of this package that it comes with.
EXTRAS = {
    "matplotlib": ("matplotlib", "train"),
    "rich": ("rich", "train"),
    "safetensors": ("safetensors", "train"),
    "yaml": ("PyYAML", "train"),
    "pandas": ("pandas", "tables"),
    "pyarrow": ("pyarrow", "tables"),
    "scipy": ("scipy", "tables"),
    "PIL": ("Pillow", "pictures"),
    "tensorboard": ("TensorBoard", "tensorboard"),
    "sklearn": ("scikit-learn", "sklearn"),
}


class MissingModuleError(ModuleNotFoundError):
    """A module of an extra that is not installed: the sentence says what it is needed for, and how to get it."""


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Turn what is raised by an import inside the block, of a module of an extra, into a sentence.

    Args:
        what: the module is needed for, as the subject of the sentence: "reading .csv files".

    Raises:
        MissingModuleError: the module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if isinstance(error, MissingModuleError) or module not in EXTRAS:
            raise
        name, extra = EXTRAS[module]
        raise MissingModuleError(
            f"{what} needs {name}, got none; pip install 'iresnet_fast[{extra}]'.", name=module
        ) from error
