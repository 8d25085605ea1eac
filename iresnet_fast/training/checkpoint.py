"""Checkpoints: one safetensors file each, of plain tensors and JSON, that can be read whole or not at all."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _schema
from .._inputs import check_path
from .._optional import needed
from .._regular import NotRegularError, half_of_memory, open_regular
from .._version import __version__
from ..activations import UnknownActivationError
from ..models import (
    ClassifierConfig,
    FlowConfig,
    HybridConfig,
    HybridIResNet,
    IDenseNet,
    IResNetClassifier,
    IResNetFlow,
    ResidualFlow,
)
from .files import TEMPORARY, WriteError, writing
from .metadata import FORMAT, DamagedError, model_config_of, naming, parse, require
from .metadata import CheckpointError as CheckpointError
from .weights import build_for, check_weights, dtype_of

MODEL_FILE = "model.safetensors"
BEST_FILE = "best.safetensors"  # the model that was best on the validation part so far
_PATTERN = "checkpoint-*.safetensors"
_KEY = "iresnet_fast"  # of the metadata
_FOREIGN = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")  # what files of torch.save begin with, new ones and old ones

MODELS: dict[str, tuple[Callable[[Any], nn.Module], type[Any]]] = {
    "IResNetFlow": (IResNetFlow, FlowConfig),
    "ResidualFlow": (ResidualFlow, FlowConfig),
    "IDenseNet": (IDenseNet, FlowConfig),
    "IResNetClassifier": (IResNetClassifier, ClassifierConfig),
    "HybridIResNet": (HybridIResNet, HybridConfig),
}


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: of the file.
        tensors: "model.<key>" and "average.<key>" of the state_dicts, "optimizer.<parameter>.<key>", "log.<name>",
            "best.<key>" of the model that was best on the validation part, "scores.<name>" of training samples.
        metadata: what JSON can hold: format, version, model, model_config, train_config, data, step, minutes, seed,
            backend.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with "<prefix>.", without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def load_model(path: str | os.PathLike[str], average: bool = True) -> nn.Module:
    """Return a trained model in eval mode, on the CPU.

    Torch's global generator is not touched.

    Args:
        path: a checkpoint, a model file, or the folder of a run: its model that was best on the validation part
            (best.safetensors), else its newest checkpoint, else its model file.
        average: take the averaged weights where there are some; False: those of the optimizer, of a folder in its
            newest checkpoint.

    Raises:
        CheckpointError: there is no such file, it is damaged, too large, or it has other weights only.
        TypeError: path is none.
    """
    checkpoint = read(_resolve(path, average))
    path, metadata = checkpoint.path, checkpoint.metadata
    weights = (checkpoint.part("average") if average else {}) or checkpoint.part("model")
    if not weights and checkpoint.part("average"):
        raise CheckpointError(
            f"{path} must hold the weights of the optimizer for average=False, got averaged ones only; pass a "
            f"checkpoint, or average=True."
        )
    require(path, metadata, "model", "model_config", "data.n_levels")
    if metadata["model"] not in MODELS:
        raise CheckpointError(
            f"{path} must hold one of {', '.join(MODELS)}, got {metadata['model'][:80]!r}; build the model yourself "
            f"and give it the weights, a state_dict."
        )
    with naming(path):
        model = _build(metadata["model"], model_config_of(metadata), weights).to(dtype_of(weights))
    load_weights(model, weights, path)
    return model.eval()


def read_run(path: str | os.PathLike[str]) -> Checkpoint:
    """Return all that the file holds which `load_model` takes; arguments and errors as there."""
    return read(_resolve(path))


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a file, without its tensors; arguments and errors as in `load_model`."""
    path = _resolve(path)
    with _opened(path) as file:
        return parse(path, (file.metadata() or {}).get(_KEY))


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load a state_dict that came from a file; raises CheckpointError if it does not fit."""
    with naming(path):
        check_weights(weights, model.state_dict())
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # torch lists all the keys, after a line of its own
        lines = str(error).splitlines()
        said = _shortened(lines[min(1, len(lines) - 1)].strip())
        raise CheckpointError(
            f"{path} must hold the weights of this {type(model).__name__}, but {said} build the model as it was saved."
        ) from error


def path_of(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after so many steps."""
    return folder / f"checkpoint-{step:08d}.safetensors"


def paths(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    return sorted(folder.glob(_PATTERN), reverse=True)


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a file: under its name there is the old one or the new one, at any moment.

    Args:
        path: of the file.
        tensors: as in Checkpoint; they are not changed.
        metadata: as in Checkpoint, without format and version.

    Raises:
        WriteError: the disk is full, or the folder cannot be written to.
    """
    with needed("writing checkpoints"):
        from safetensors.torch import save

    tensors = {name: value.detach().contiguous() for name, value in tensors.items()}
    metadata = {"format": FORMAT, "version": __version__, **metadata}
    metadata["checksum"] = _checksum(tensors, metadata)
    with writing(path) as file:
        file.write(save(tensors, {_KEY: json.dumps(metadata)}))


def read(path: Path) -> Checkpoint:
    """Read a file and check that it is complete.

    Raises:
        DamagedError: it is not.
        CheckpointError: there is none, or a later version has written it.
    """
    with _opened(path) as file:
        metadata = parse(path, (file.metadata() or {}).get(_KEY))
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    checksum = metadata.pop("checksum")
    if _checksum(tensors, metadata) != checksum:
        raise DamagedError(f"{path} must hold what was written, got something else by its checksum.")
    return Checkpoint(path, tensors, metadata)


def read_newest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint of a folder that can be read, None if there are no files; warns of damaged ones.

    Raises:
        CheckpointError: all of them are damaged, or a later version has written one.
    """
    candidates = paths(folder)
    for path in candidates:
        try:
            return read(path)
        except DamagedError as error:
            warnings.warn(f"iresnet_fast: {error} Going back to the one before.", RuntimeWarning, stacklevel=2)
    if candidates:
        raise CheckpointError(
            f"{folder} must hold a checkpoint that can be read, got {len(candidates)} damaged ones; start again in "
            f"another folder."
        )
    return None


def clean(folder: Path, newest: Path | None) -> None:
    """Remove what a killed run was writing, and set aside the damaged checkpoints after `newest`."""
    for path in folder.glob(f"*{TEMPORARY}"):
        _remove(path)
    for path in paths(folder):
        if newest is not None and path > newest:
            try:
                path.rename(path.with_name(path.name + ".damaged"))
            except OSError as error:
                raise WriteError(path.with_name(path.name + ".damaged"), error) from error


def prune(folder: Path, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`."""
    for path in paths(folder)[keep:]:
        _remove(path)


def _remove(path: Path) -> None:
    try:
        if not path.is_dir():  # which no run has made
            path.unlink()
    except OSError as error:
        raise WriteError(path, error) from error


def _resolve(path: str | os.PathLike[str], average: bool = True) -> Path:
    check_path("path", path, "the folder of a run")
    path = Path(path)
    try:
        if not path.is_dir():
            return path
        best = [path / BEST_FILE] if average and os.path.lexists(path / BEST_FILE) else []
        taken = next(iter(best + paths(path)), path / MODEL_FILE)
        found = taken.exists()
    except OSError as error:
        raise CheckpointError(f"{path} must be a folder that can be read, got: {error.strerror}; correct it.") from None
    if not found:
        raise CheckpointError(f"{path} must hold a checkpoint or {MODEL_FILE}, got neither; pass the folder of a run.")
    return taken


def _build(name: str, config: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """Return a new model for the weights; raises ValueError if there can be none, or only a much larger one."""
    build, kind = MODELS[name]
    try:
        _schema.check("model_config", config, _schema.fields_of(kind))
        checked = kind.from_dict(config)
        with torch.random.fork_rng([]):
            return build_for(weights, lambda: build(checked))
    except UnknownActivationError:
        raise  # one of the user's own that is not registered: the file is all right
    except (ValueError, TypeError, ArithmeticError, RecursionError, RuntimeError, MemoryError) as error:
        said = _shortened((" ".join(str(error).split()) or type(error).__name__).rstrip("."))
        raise ValueError(f"the configuration of an {name}, got one that cannot be built ({said})") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    with needed("reading checkpoints"):
        from safetensors import SafetensorError, safe_open

    try:
        with open_regular(path) as file:  # what is no file would be waited for
            size, start = os.fstat(file.fileno()).st_size, file.read(4)
        if size > half_of_memory():
            raise MemoryError
        if start.startswith(_FOREIGN):
            raise DamagedError(
                f"{path} must be a safetensors file that fit has written, got one that torch.save has; pass the folder "
                f"of a run, or load it as it was saved and give its weights to a model with load_state_dict."
            )
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} must be a checkpoint, got no such file; check the path.") from error
    except NotRegularError as error:
        raise CheckpointError(f"{path} must be a checkpoint, got {error}; check the path.") from error
    except MemoryError:
        raise CheckpointError(
            f"{path} must fit in half of the memory, got one of {size} bytes; free some, or use a larger machine."
        ) from None
    except (SafetensorError, OSError) as error:
        # Where the first bytes are no length of a header it is not even the beginning of such a file.
        got = "a file of another kind; pass the folder of a run" if "header too" in str(error) else f"one with {error}"
        raise DamagedError(f"{path} must be a complete safetensors file, got {got}.") from error


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> int:
    total = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(tensors[name].cpu().reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def _shortened(text: str) -> str:
    return text if len(text) <= 600 else f"{text[:600]} ..."
