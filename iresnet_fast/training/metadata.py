"""What a checkpoint says beside its tensors: JSON, each entry of a type of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import _schema
from ..activations import UnknownActivationError

FORMAT = 1
_MOST = 1 << 53  # steps, or minutes: whole numbers up to here are exact as floats

_METADATA = {
    "format": int,
    "version": str,
    "checksum": int,
    "model": str,
    "model_config": dict,
    "train_config": dict,
    "data": dict,
    "step": int,
    "minutes": float,
    "seed": int,
    "backend": str,
}
_DATA = {
    "name": str,
    "event_shape": tuple[int, ...],
    "n_levels": int | None,
    "n_classes": int | None,
    "n_train": int,
    "context": tuple[str, ...] | None,
    "fingerprint": int | None,
    "source": dict | None,
    "table": dict | None,
    "class_names": tuple[str, ...] | None,
}


class CheckpointError(ValueError):
    """A file that is no checkpoint, or not this one: the sentence says which, and what to do."""


class DamagedError(CheckpointError):
    """A file that holds no complete checkpoint."""


def require(path: Path, metadata: dict[str, Any], *names: str) -> None:
    """Raise CheckpointError unless the metadata of a file have all of these entries, such as "data.n_levels"."""
    for name in names:
        part, _, entry = name.rpartition(".")
        if entry not in (metadata.get(part, {}) if part else metadata):
            raise CheckpointError(
                f"{path} must say in its metadata what the {name} is, got a file without; take one that fit wrote."
            )


def model_config_of(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the model; older ones of classifiers leave n_levels to the data."""
    config: dict[str, Any] = metadata["model_config"]
    if metadata["model"] != "IResNetClassifier" or "n_levels" in config:
        return config
    return {**config, "n_levels": metadata["data"].get("n_levels")}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a ValueError about what a file holds, "<expected>, got <what>", into a CheckpointError that names the file.

    Raises:
        CheckpointError: a ValueError was raised inside the block.
    """
    try:
        yield
    except UnknownActivationError as error:
        raise CheckpointError(
            f"{path} must hold activations that are registered, got {error.name!r:.60}; call "
            f"iresnet_fast.activations.register first, as where the model was trained."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path} must hold {error}; get the file again, or begin anew.") from error


def parse(path: Path, text: str | None) -> dict[str, Any]:
    """Return the metadata of a file from their JSON; what has to be in it depends on who reads it, see `require`.

    Raises:
        DamagedError: there is no text, or it is no JSON of ours.
        CheckpointError: a later version has written it, or an entry is of another type or out of range.
    """
    try:
        metadata: dict[str, Any] = json.loads(text or "", object_pairs_hook=_object, parse_constant=_constant)
        written, version, _ = metadata["format"], metadata["version"], metadata["checksum"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} must have the metadata of iresnet_fast, got a file without.") from error
    if written != FORMAT:
        raise CheckpointError(
            f"{path} must have format {FORMAT}, got {str(written)[:20]} of version {str(version)[:20]}; use that "
            f"version of iresnet_fast."
        )
    try:
        _schema.check("", metadata, _METADATA)
        _schema.check("data", metadata.get("data", {}), _DATA)
    except TypeError as error:
        raise CheckpointError(f"{path} must have the metadata of a run, but {error}") from error
    n_levels = metadata.get("data", {}).get("n_levels")
    if n_levels is not None and n_levels < 2:
        raise CheckpointError(
            f"{path} must have data.n_levels of two at least, got {n_levels}; take one that fit wrote."
        )
    if not (0 <= metadata.get("step", 0) < _MOST and 0 <= metadata.get("minutes", 0) < _MOST):
        raise CheckpointError(
            f"{path} must have taken a number of steps and minutes, got {metadata.get('step')} and "
            f"{metadata.get('minutes')}; take a file that fit has written."
        )
    return metadata


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raises ValueError if a name comes twice, of which readers take different ones."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name comes twice")
    return result


def _constant(name: str) -> float:
    if name == "NaN":
        raise ValueError("NaN is no setting")
    return float(name)
