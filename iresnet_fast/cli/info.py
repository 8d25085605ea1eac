"""Say what a run is: configurations, parameters, Lipschitz constants; without one, what is installed here."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any

import torch

from ..models import certified_lipschitz
from ._options import add_run_argument, open_run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run_argument(parser, nargs="?")


def run(options: argparse.Namespace) -> None:
    """Print it."""
    if options.run_path is None:
        from ..__main__ import report

        print(report())
        return
    model, metadata = open_run(options, torch.device("cpu"))
    size = f"{sum(parameter.numel() for parameter in model.parameters())} parameters"
    print(f"{metadata['model']} of {size}, {metadata['step']} steps in {metadata['minutes']:.2f} minutes")
    print("\n".join(_lines(metadata)))
    print(certified_lipschitz(model))


def _lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """Yield a line for each entry of nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {json.dumps(value)}"
