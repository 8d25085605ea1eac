"""The parser, and how a command ends: 0, or one sentence on stderr and 2, or 130 if it was interrupted."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

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

_PREFIX = "iresnet_fast: "  # of the package's own warnings
_INTERRUPTED = 130  # what a shell reports after Ctrl-C
_NO_READER = 141  # and after SIGPIPE: of output into a pipe that head, say, has closed


class Parser(argparse.ArgumentParser):
    """A parser whose errors are ValueErrors, of one sentence like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise ValueError."""
        left = message.partition("unrecognized arguments: ")[2]
        if left and not left.startswith("-"):
            message += ", which no option takes: a file of data goes with --data"
        raise ValueError(f"{message}; see {self.prog} --help.")


def parser() -> Parser:
    """Return the parser of all commands."""
    result = Parser("iresnet-fast", description="Invertible residual networks: train them, and use what was trained.")
    result.add_argument("--version", action="version", version=f"iresnet-fast {__version__}")
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        # That of train says what the recipe for the data is, once they are known.
        command = commands.add_parser(name, help=summary, description=module.__doc__, add_help=module is not train)
        module.add_options(command)
        command.set_defaults(run=module.run)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; None: those of the process.

    Returns:
        The exit code: 0; 2 after an error, which stderr has in one sentence; 130 if interrupted; 141 without a
        word if nobody reads the output any longer.
    """
    try:
        with _short_warnings():
            options = parser().parse_args(arguments)
            options.run(options)
            sys.stdout.flush()  # here, where a full disk has its sentence
    except KeyboardInterrupt:
        return _end(_INTERRUPTED, "interrupted.")
    except TrainingInterrupted as error:
        return _end(_INTERRUPTED, str(error).replace(", or fit(..., resume=True)", ""))
    except ModuleNotFoundError as error:
        return _end(2, str(error))
    except BrokenPipeError:
        _drop_output()
        return _NO_READER
    except OSError as error:
        if error.filename is None and error.strerror:  # of standard output, or of something that did not say
            _drop_output()
            return _end(2, f"all output must be written, got: {error.strerror}; make room for it or write elsewhere.")
        if str(error).startswith("[Errno"):
            return _end(2, f"{error.filename} must be a path that can be used, got: {error.strerror}; correct it.")
        return _end(2, str(error))
    except (ValueError, TypeError) as error:
        return _end(2, str(error))
    return 0


@contextmanager
def _short_warnings() -> Iterator[None]:
    """Show warnings of this package as a line each, without the place in its source."""
    before = warnings.formatwarning

    def shown(message: Warning | str, *arguments: Any, **options: Any) -> str:
        text = str(message)
        if text.startswith(_PREFIX):
            return f"iresnet-fast: {' '.join(text.removeprefix(_PREFIX).split())}\n"
        return before(message, *arguments, **options)

    warnings.formatwarning = shown
    try:
        yield
    finally:
        warnings.formatwarning = before


def _drop_output() -> None:
    """Let standard output lead nowhere: what could not be written would be tried again at the end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end(code: int, sentence: str) -> int:
    print(f"iresnet-fast: {sentence}", file=sys.stderr)
    return code
