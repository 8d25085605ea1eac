"""What the examples share: their options, the machine line, and the files they write."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import matplotlib
import torch

from iresnet_fast import _library
from iresnet_fast.data import DataSet

matplotlib.use("Agg")

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the options every example has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: docs/results)")
    options.add_argument("--quick", action="store_true", help="seconds instead of minutes: a test, not a result")
    options.add_argument("--seed", type=int, default=0, help="of weights, batches and noise (default: 0)")
    options.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    return options


def start(options: argparse.Namespace) -> None:
    """Apply the options of every example."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)


def machine(backend: str | None = None) -> str:
    """Return the line that says what figures were measured on."""
    backend = backend or _library.backend()
    kernels = f"kernels ({_library.cpu_isa()})" if backend == "kernels" else backend
    date = datetime.now(timezone.utc).date().isoformat()
    return f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {date}; backend: {kernels}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def fresh_folder(parent: Path, name: str) -> Path:
    """Return parent/name, or parent/name-2, -3, ...: a folder that is not there yet, for one training run."""
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(parent / name for name in names if not (parent / name).exists())


def shortened(dataset: DataSet, n: int = 128) -> DataSet:
    """Return a data set of a few samples, for --quick."""
    parts = ("train", "test", "train_labels", "test_labels", "train_context", "test_context")
    kept = {part: value[:n] for part in parts if (value := getattr(dataset, part)) is not None}
    return dataclasses.replace(dataset, **kept)


def page(title: str, *paragraphs: str) -> str:
    """Return a Markdown page."""
    return "\n\n".join([f"# {title}", *paragraphs])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column left-aligned and the others right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        " | ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(columns))
        for columns in (list(zip(row, widths, strict=True)) for row in (header, rule, *rows))
    ]
    return "\n".join(f"| {line} |" for line in lines)


def earlier(options: argparse.ArgumentParser, file: Path, settings: dict[str, Any], keep: bool) -> dict[str, Any]:
    """Return the results that a run of a part of an example adds to: those of `file` if they shall be kept, else none.

    Results of other settings are not comparable: that ends the program with a sentence.
    """
    if not keep or not file.exists():
        return {"settings": settings, "runs": {}}
    results: dict[str, Any] = json.loads(file.read_text())
    if results["settings"] != settings:
        options.error(f"{file} must hold a run of {settings}, got one of {results['settings']}; choose another --out.")
    return results


def write(out: Path, name: str, results: dict[str, Any], text: str) -> None:
    """Write <name>.json and <name>.md, and print the latter."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n")
    (out / f"{name}.md").write_text(text + "\n")
    print(text)


def save(figure: Any, out: Path, name: str) -> None:
    """Write a picture to <name>.png."""
    from matplotlib import pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=140, bbox_inches="tight")
    plt.close(figure)
