"""What a mutant is."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One bug: `old`, found exactly once in a file of csrc/cuda, becomes `new`."""

    file: str
    unit: str  # what is compiled: a file of csrc/cuda, or else of entries
    tests: str  # a file of tests/simt
    select: str  # pytest's -k
    old: str
    new: str = ""

    @property
    def title(self) -> str:
        """What is changed, on one line."""
        return " ".join(f"{self.old} -> {self.new}".split()) if self.new else f"without {' '.join(self.old.split())}"


class Equivalent(NamedTuple):
    """Synchronisation that no result depends on, with the reason why it is there."""

    file: str
    old: str
    reason: str
