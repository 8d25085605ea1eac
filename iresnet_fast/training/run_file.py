"""The file that says what a run is, for people and for `train --config`: data, model, recipe and seed, in YAML."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import _schema
from .._optional import needed
from .._regular import open_regular
from .._version import __version__
from ..data.source import ImageOptions, Source, TableOptions
from .checkpoint import MODELS
from .config import TrainConfig
from .files import writing

RUN_FILE = "run.yaml"
_MOST_BYTES = 1 << 20
_HEADER = (
    "# What this run is. To do it again: iresnet-fast train --config run.yaml [--folder FOLDER] [options]\n"
    "# Options of the command line change what is said here; data are where they were, by their absolute paths.\n"
)
_KEYS = {
    "version": str,
    "data": dict | str,
    "model": str,
    "model_config": dict,
    "train_config": dict,
    "initial_seed": int | None,
}
# What is no text, as JSON has it: YAML 1.1 would take "no" for false, 1:30 for 90 and 1e-3 for a text.
_SCALARS = {
    "bool": (r"true|false", "tf"),
    "null": (r"null|~|", ["n", "~", ""]),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (r"[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf)", "-+0123456789."),
}


@dataclass(frozen=True)
class RunFile:
    """What a run.yaml says.

    Attributes:
        source: how `data.load` gets the data; None for data that were made in Python.
        data: name of the data.
        model: name of the class.
        model_config: of the class that belongs to it.
        train_config: how it is trained.
        initial_seed: what torch.manual_seed got before the model was made; None: that is not known.
    """

    source: Source | None
    data: str
    model: str
    model_config: Any
    train_config: TrainConfig
    initial_seed: int | None


def check_available() -> None:
    """Raise MissingModuleError unless there are PyYAML and safetensors: before a run, not in it."""
    with needed("training"):
        import safetensors  # noqa: F401
        import yaml  # type: ignore[import-untyped]  # noqa: F401


def write(folder: Path, identity: dict[str, Any], initial_seed: int | None) -> None:
    """Write the run.yaml of a run.

    Args:
        folder: of the run.
        identity: what its checkpoints say, as `resume.identity` returns it.
        initial_seed: of the initial weights, None if it is not known.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
    """
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]
        """Quotes every text that this or another reader of YAML might take for something else."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    for tag, (pattern, first) in _SCALARS.items():
        Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
    data = identity["data"]
    content = {
        "version": __version__,
        "data": data["source"] or data["name"],
        "model": identity["model"],
        "model_config": identity["model_config"],
        "train_config": identity["train_config"],
        "initial_seed": initial_seed,
    }
    text = yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=None)
    with writing(folder / RUN_FILE) as file:
        file.write((_HEADER + text).encode("utf-8", "surrogateescape"))


def read(path: str | os.PathLike[str]) -> RunFile:
    """Read a run.yaml, which may have been edited: nothing in it is called, and what it may hold is bounded.

    Raises:
        ValueError: the file is missing, too large or no YAML, or a key is unknown, missing, or has a value of another
            type or out of range; the sentence names the file and the key.
    """
    path = Path(path)
    values = _parsed(path)
    try:
        return _built(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must say what a run is, but {error}") from error


def _built(values: Any) -> RunFile:
    _schema.check("the whole", values, _KEYS)
    unknown = [str(name) for name in values if name not in _KEYS]
    if unknown:
        raise ValueError(f"its keys must be of {', '.join(_KEYS)}, got {unknown[0]!r:.60}; remove or rename it.")
    missing = [name for name in ("data", "model", "model_config", "train_config") if name not in values]
    if missing:
        raise ValueError(f"{missing[0]} must be given, got none; add it.")
    if values["model"] not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {values['model']!r:.60}; correct it.")
    _, kind = MODELS[values["model"]]
    for key, part in (("model_config", kind), ("train_config", TrainConfig)):
        _check_names(key, values[key], part)
        _schema.check(key, values[key], _schema.fields_of(part))
    source = None
    if isinstance(values["data"], dict):
        _check_names("data", values["data"], Source)
        for name, part in (("table", TableOptions), ("images", ImageOptions)):
            if isinstance(values["data"].get(name), dict):
                _check_names(f"data.{name}", values["data"][name], part)
        if "names" not in values["data"]:
            raise ValueError("data.names must be given, got none; add the name of a data set, or files.")
        try:
            source = Source.from_dict(values["data"])
        except (ValueError, TypeError) as error:
            raise ValueError(f"data: {error}") from error
    return RunFile(
        source,
        values["data"] if source is None else ", ".join(source.names),
        values["model"],
        _config("model_config", kind, values["model_config"]),
        _config("train_config", TrainConfig, values["train_config"]),
        values.get("initial_seed"),
    )


def _check_names(where: str, values: dict[str, Any], part: type[Any]) -> None:
    """Raise ValueError for a key that is no field of a dataclass; first, as its value tells little."""
    fields = {field.name for field in dataclasses.fields(part)}
    unknown = [str(name) for name in values if name not in fields]
    if unknown:
        raise ValueError(f"{where} must have keys that there are, got {unknown[0]!r:.60}; remove or rename it.")


def _config(where: str, kind: Any, values: dict[str, Any]) -> Any:
    try:
        return kind.from_dict(values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}.{error}") from error


def _parsed(path: Path) -> Any:
    """Return what a file of YAML holds; raises ValueError if it is none."""
    with needed("reading run.yaml"):
        import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Knows numbers as JSON does, and neither aliases, which may stand for more than there is memory, nor twins."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # of this class alone

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias, *name, which is not allowed")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key.value, str)]
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise yaml.YAMLError(f"the key {twice!r:.60} twice")
            return super().construct_mapping(node, deep)

    for tag, (pattern, first) in _SCALARS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ValueError(f"{path} must be the run.yaml of a run, got no such file; check the path.") from None
    except OSError as error:
        raise ValueError(f"{path} must be a file that can be read, got {error}; check the path.") from error
    if len(content) > _MOST_BYTES:
        raise ValueError(f"{path} must have {_MOST_BYTES} bytes at most, got more; pass the run.yaml of a run.")
    try:
        return yaml.load(content, Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} must be YAML as fit writes it, got {_said(error)}; correct it.") from error


def _said(error: Exception) -> str:
    """Return what is wrong with a text, in a line."""
    if isinstance(error, RecursionError):
        return "too many levels"
    mark = getattr(error, "problem_mark", None)
    text = getattr(error, "problem", None) or str(error)
    where = "" if mark is None else f" in line {mark.line + 1}"
    return " ".join(str(text).split())[:200] + where
