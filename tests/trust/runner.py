"""Finds the subjects, runs them in processes of their own, and writes the table."""

from __future__ import annotations

import importlib
import multiprocessing
import pkgutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch

from .tally import Tally


@dataclass(frozen=True)
class Result:
    """What came of a subject: its tally, or the error that ended it."""

    subject: str  # module.function
    tally: Tally | None
    seconds: float
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether the claim was tried and never failed."""
        return self.tally is not None and self.tally.cases > 0 and self.tally.violations == 0

    def cells(self) -> list[str]:
        """Return the row of the table."""
        if self.tally is None:
            return [f"{self.subject} ended: {self.error}", "-", "-", "-", f"{self.seconds:.0f}"]
        tally = self.tally
        return [tally.claim, f"{tally.cases:,}", f"{tally.violations:,}", f"{tally.worst:.3g}", f"{self.seconds:.0f}"]


def subjects(package: str) -> list[str]:
    """Return the names, module.function, of all subjects of a package."""
    found = []
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if module.name != "__main__":
            functions = getattr(importlib.import_module(f"{package}.{module.name}"), "SUBJECTS", ())
            found += [f"{module.name}.{function.__name__}" for function in functions]
    return found


def run(package: str, subject: str, share: float = 1.0) -> Result:
    """Run one subject on one thread, so that its figures are those of every machine."""
    torch.set_num_threads(1)
    module, name = subject.split(".")
    began = time.monotonic()
    try:
        functions = importlib.import_module(f"{package}.{module}").SUBJECTS
        tally = next(function for function in functions if function.__name__ == name)(share)
    except Exception as error:  # the other subjects go on, and the table says what happened
        return Result(subject, None, time.monotonic() - began, f"{type(error).__name__}: {error}")
    return Result(subject, tally, time.monotonic() - began)


def run_all(package: str, chosen: Sequence[str], jobs: int, share: float = 1.0) -> Iterator[Result]:
    """Yield the results of subjects as they end, `jobs` of them run at once."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(run, package, subject, share): subject for subject in chosen}
        for future in as_completed(futures):
            crash = future.exception()  # of the process
            yield Result(futures[future], None, 0.0, str(crash)) if crash else future.result()


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table, a row for each result."""
    rows = [["claim", "cases", "violations", "worst ratio", "seconds"], *(result.cells() for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)])
    lines = (
        " | ".join(row[i].rjust(width) if i else row[i].ljust(width) for i, width in enumerate(widths)) for row in rows
    )
    return "\n".join(f"| {line} |" for line in lines)
