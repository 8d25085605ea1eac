"""The columns of the table that a run was trained on."""

from __future__ import annotations

import os
from typing import Any

from ..data import TableSchema
from .checkpoint import read_metadata


def load_schema(path: str | os.PathLike[str]) -> TableSchema | None:
    """Return what the columns of a run are: rows go through it on their way into the model, samples on their way out.

    A model sees `schema.encode(table).x`, which for shifted, scaled and categorical columns is not what the file has;
    the log-density of a row in the units of its file is `model.log_prob(x) - schema.log_scale`.

    Args:
        path: as of `load_model`.

    Returns:
        The columns; None if the run was on no table, or is older than they are kept.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    return schema_of(read_metadata(path))


def schema_of(metadata: dict[str, Any]) -> TableSchema | None:
    """Return the columns that the metadata of a run have; None as of `load_schema`."""
    values = metadata["data"].get("table")
    return None if values is None else TableSchema.from_dict(values)
