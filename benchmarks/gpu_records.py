"""The JSON lines of what was timed on a GPU: one place that says what the fields mean, writes them and reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

import torch
from gpu_report import card_folder
from graphs import Timing
from machine import processor

__all__ = ["card_folder"]

KIND = "time"  # of these lines; files hold lines of other kinds too
GRAPH, EAGER = "graph", "eager"
PLAIN = "plain"  # the function of iresnet_fast.reference, where there is but one baseline
QUICK = "_quick"  # end of the names of files that no table is made from
# The fields that say what was timed, and how.
_IDENTITY = ("card", "case", "batch", "terms", "mode", "precision", "implementation", "launch")


class GpuRecord(TypedDict):
    """One thing timed in one way; `gpu_us` to `error` are None where `failed` says why."""

    kind: str  # "time"
    measured: str  # UTC, ISO 8601, when the line was written
    card: str  # name of the card, or of the processor of a try without one
    device: str  # "cuda"; "cpu": a try without a GPU, no result
    torch: str  # version
    case: str  # name in GPU_CASES; of a whole training step the model, such as "mnist flow"
    subject: str  # what it is, in a few words
    batch: int  # samples of a call
    terms: int  # of the power series, of a roulette those of a graph; iterations of a spectral norm; 0 of an inverse
    mode: str  # "eval": z and log-det without gradient; "train": with gradients; "step": a whole training step;
    # "spectral norm": power iterations of all layers; "inverse"
    precision: str  # "float32", "tf32" or "bf16"
    implementation: str  # key of baselines.TITLES, or "plain"
    launch: str  # "graph": replays of a CUDA graph (of torch.compile's own for "compiled"); "eager": op by op
    memory_format: str  # "contiguous" or "channels_last", the faster where both were tried
    gpu_us: float | None  # microseconds of a call, by CUDA events around many; eager: bound by the host where small
    host_us: float | None  # microseconds until a call returns that finds the GPU idle
    passes_us: list[float] | None  # gpu_us of each of the two passes, whose mean it is
    spread: float | None  # difference of the two passes as a share of their mean
    peak_mib: float | None  # by how many MiB an eager call raises the memory torch has allocated; None: not known
    error: float | None  # against float64, same probe and terms. eval: mean |log-det error| in nats per dimension;
    # train: largest relative error of a gradient; step: of a gradient or the loss; spectral norm: of a norm; inverse:
    # largest Euclidean error of a sample. None: not known
    failed: str | None  # why there are no figures, in one line


def timed(timing: Timing) -> dict[str, Any]:
    """Return the fields of a record that hold its times."""
    return {
        "gpu_us": timing.gpu_us,
        "host_us": timing.host_us,
        "passes_us": list(timing.passes_us),
        "spread": timing.spread,
    }


def not_timed(error: Exception) -> dict[str, Any]:
    """Return the fields of a record of something that failed."""
    lines = str(error).splitlines() or [""]
    nothing = dict.fromkeys(("gpu_us", "host_us", "passes_us", "spread", "peak_mib", "error"))
    return {**nothing, "failed": f"{type(error).__name__}: {lines[0]}"}


def origin(device: str) -> dict[str, Any]:
    """Return the fields of a record that say where and when it was measured."""
    return {
        "kind": KIND,
        "measured": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "card": card(device),
        "device": device,
        "torch": torch.__version__,
    }


def card(device: str) -> str:
    """Return the name of the GPU, or of the processor that stands in for it in a try."""
    return torch.cuda.get_device_name() if device == "cuda" else processor()


def write(records: Iterable[GpuRecord], path: Path) -> Iterator[GpuRecord]:
    """Append each record to a file as it comes, on disk at once, and hand it on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lines:
        for record in records:
            lines.write(json.dumps(record) + "\n")
            lines.flush()
            yield record


def read(folder: Path) -> list[GpuRecord]:
    """Return the records of a folder's .jsonl files but for quick ones; of what was measured again, the newest."""
    newest: dict[tuple[Any, ...], GpuRecord] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if path.stem.endswith(QUICK):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                record = json.loads(line)
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}, must be a JSON object, got {line[:40]!r}; remove what was cut off."
                ) from None
            if record.get("kind") != KIND:
                continue
            key = tuple(record[field] for field in _IDENTITY)
            if key not in newest or newest[key]["measured"] <= record["measured"]:
                newest[key] = record
    return list(newest.values())
