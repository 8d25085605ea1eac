"""Tries every claim over all its cases and prints a table: `make trust`.

    PYTHONPATH=tests python -m trust [NAME ...] [--jobs N]

NAME: a module or module.function; all of them without one. The exit status is 1 if a claim failed or was not tried.
"""

from __future__ import annotations

import argparse
import sys
import time

from .runner import run_all, subjects, table


def main(package: str = "trust") -> None:
    """Run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    parser = argparse.ArgumentParser(description="Try every claim of docs/guarantees.md over all its cases.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a module or module.function (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="subjects that run at once, a thread each (default: 2)")
    parser.add_argument("--share", type=float, default=1.0, help="of the cases: below 1 is no result (default: 1)")
    options = parser.parse_args()
    known = subjects(package)
    for name in options.names:
        if not any(name in (subject, subject.split(".")[0]) for subject in known):
            parser.error(f"NAME must be a module or one of {', '.join(known)}; got {name}.")
    chosen = [s for s in known if not options.names or s in options.names or s.split(".")[0] in options.names]
    began, results = time.monotonic(), {}
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for result in progress.track(
            run_all(package, chosen, options.jobs, options.share), len(chosen), description="subjects"
        ):
            results[result.subject] = result
            progress.console.print(f"{result.subject}: {' | '.join(result.cells()[1:])}", highlight=False)
    print(table([results[subject] for subject in chosen]))
    failed = [subject for subject in chosen if not results[subject].holds]
    held, seconds = len(chosen) - len(failed), time.monotonic() - began
    print(f"{held} of {len(chosen)} claims hold over {options.share:.0%} of their cases; {seconds:.0f} s")
    sys.exit(f"trust: {', '.join(failed)} failed" if failed or not chosen else 0)


if __name__ == "__main__":
    main()
