"""Saying what was done to somebody's data without being asked."""

from __future__ import annotations

import warnings


def note(sentence: str) -> None:
    """Warn of what was decided about data, in one sentence that says how to decide otherwise."""
    warnings.warn(f"iresnet_fast: {sentence}", RuntimeWarning, stacklevel=3)


def listed(names: list[str] | tuple[str, ...]) -> str:
    """Return names for a sentence, the first ones if there are many."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
