"""The names under which the plans know a card (csrc/cuda/device/card.h), by its architecture."""

from __future__ import annotations

import sys

CARDS = {75: "t4", 80: "a100", 86: "rtx3090", 89: "rtx4090", 90: "h100", 100: "b200", 120: "rtx5090"}
DRY_ARCHITECTURE = 90


def known_card(step: str, architecture: int) -> str:
    """Return the name of a card of an architecture; exit with a sentence if there is none."""
    card = CARDS.get(architecture)
    if card is None:
        sys.exit(f"{step}: card.h knows no card of architecture {architecture}: add it there, and a row to "
                 "plan/constants.cpp")  # fmt: skip
    return card
