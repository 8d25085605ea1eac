"""Tries what the package guarantees over very many cases: `make trust`; docs/guarantees.md names the claims.

A module of this folder with a tuple SUBJECTS holds subjects: seeded functions `subject(share: float = 1.0) -> Tally`.
Each tries one claim, the given share of its cases; all of them take at most two and a half minutes. `make trust` finds
and runs all subjects, the test suite a small share of each.
"""
