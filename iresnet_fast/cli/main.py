"""The parser, and how a command ends: 0, or one sentence on stderr and 2, or 130 if it was interrupted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..training.distributed import TrainingInterrupted
from . import evaluate, impute, info, reconstruct, report, sample, score, train

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "score": score,
    "sample": sample,
    "impute": impute,
    "reconstruct": reconstruct,
    "report": report,
    "info": info,
}

_INTERRUPTED = 130  # what a shell reports after Ctrl-C


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ValueErrors, of one sentence like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"{message}; see {self.prog} --help.")


def parser() -> Parser:
    """Return the parser of all commands."""
    result = Parser("iresnet-fast", description="Invertible residual networks: train them, and use what was trained.")
    result.add_argument("--version", action="version", version=f"iresnet-fast {__version__}")
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_options(command)
        command.set_defaults(run=module.run)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; None: those of the process.

    Returns:
        The exit code: 0; 2 after an error, which stderr has in one sentence; 130 if interrupted.
    """
    try:
        options = parser().parse_args(arguments)
        options.run(options)
    except KeyboardInterrupt:
        return _end(_INTERRUPTED, "interrupted.")
    except TrainingInterrupted as error:
        return _end(_INTERRUPTED, str(error))
    except ModuleNotFoundError as error:
        return _end(2, str(error))
    except (ValueError, TypeError, OSError) as error:
        return _end(2, str(error))
    return 0


def _end(code: int, sentence: str) -> int:
    print(f"iresnet-fast: {sentence}", file=sys.stderr)
    return code
