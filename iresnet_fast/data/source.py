"""Where a data set came from: enough to load it again, in a form that JSON can hold."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from .. import _checks, _schema
from .._checks import check_choice

MISSING = ("error", "drop", "mean")
MODES = ("auto", "grey", "colour")


def _freeze(options: Any) -> None:
    """Turn lists into tuples; raises TypeError for a text in their place."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, list):
            object.__setattr__(options, field.name, tuple(value))
        if isinstance(value, str) and field.type != "str":
            raise TypeError(f"{field.name} must be a list or tuple, got the text {value!r}; pass e.g. ({value!r},).")


@dataclass(frozen=True)
class TableOptions:
    """How a table is read, and what its columns are.

    Attributes:
        columns: whose density is modelled, by name and in this order; empty: all that are nothing else.
        categorical: columns of texts, or of numbers that stand for categories, whose codes become continuous by noise.
        one_hot: such columns, with an entry for each category.
        continuous: columns of whole numbers that stay as they are; others become continuous by noise.
        weights: the column that says how much each row counts in training; "": none.
        missing: what becomes of a row with a missing cell: "error", "drop", or "mean", which fills it.
        separator: of the cells of a text file; "": found out.
        decimal: mark of its numbers, "." or ","; "": found out.
        encoding: of its bytes; "": UTF-8 or UTF-16 with a mark, else Windows-1252.
        header: whether its first line has the names: "yes", "no", or "auto".

    Raises:
        ValueError: an attribute has another value.
    """

    columns: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    one_hot: tuple[str, ...] = ()
    continuous: tuple[str, ...] = ()
    weights: str = ""
    missing: str = "error"
    separator: str = ""
    decimal: str = ""
    encoding: str = ""
    header: str = "auto"

    def __post_init__(self) -> None:
        """Turn lists into tuples and check the choices."""
        _freeze(self)
        check_choice("missing", self.missing, MISSING)
        check_choice("decimal", self.decimal, ("", ".", ","))
        check_choice("header", self.header, ("auto", "yes", "no"))


@dataclass(frozen=True)
class ImageOptions:
    """How images of a folder, or of an array, are read.

    Attributes:
        size: height and width they are brought to; empty: as they are, all the same then.
        mode: "grey", "colour", or "auto": grey if all of them are.

    Raises:
        ValueError: an attribute has another value.
    """

    size: tuple[int, ...] = ()
    mode: str = "auto"

    def __post_init__(self) -> None:
        """Turn lists into tuples and check the values."""
        _freeze(self)
        check_choice("mode", self.mode, MODES)
        if len(self.size) not in (0, 2):
            raise ValueError(f"size must be height and width, got {self.size!r}; pass e.g. (32, 32).")
        for value in self.size:
            _checks.check_count("every number of size", value, 1)


@dataclass(frozen=True)
class Source:
    """The arguments of `load`.

    Attributes:
        names: of the data set, or absolute paths of its files.
        root: absolute path; "": none.
        seed: of the split.
        context: names of columns.
        table: how a table is read.
        images: how images are read.
    """

    names: tuple[str, ...]
    root: str = ""
    seed: int = 0
    context: tuple[str, ...] = ()
    table: TableOptions = TableOptions()
    images: ImageOptions = ImageOptions()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Source:
        """Return what `to_dict` has written; raises ValueError or TypeError if it cannot have been that."""
        parts: dict[str, type[TableOptions] | type[ImageOptions]] = {"table": TableOptions, "images": ImageOptions}
        hints = {**_schema.fields_of(cls), "table": dict, "images": dict}
        _schema.check("source", values, hints)
        built = {**values, "names": tuple(values["names"]), "context": tuple(values.get("context", ()))}
        for name, part in parts.items():
            given = values.get(name, {})
            _schema.check(f"source.{name}", given, _schema.fields_of(part))
            built[name] = part(**given)
        return cls(**built)
