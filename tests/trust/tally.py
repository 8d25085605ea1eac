"""How often a claim was tried, and how close it came to failing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Tally:
    """How often a claim was tried and how close it came to failing.

    A ratio is what was observed over what the claim allows: above 1 is a violation, and so is NaN.
    """

    claim: str  # one line, shown in the table
    cases: int = 0
    violations: int = 0
    worst: float = 0.0  # the largest ratio; infinite after a NaN

    def add(self, ratios: Tensor | Sequence[float]) -> None:
        """Count cases by their ratios, of any shape."""
        ratios = torch.as_tensor(ratios, dtype=torch.float64).detach().cpu().flatten()
        if ratios.numel() == 0:
            return
        ratios = ratios.masked_fill(ratios.isnan(), float("inf"))
        self.cases += ratios.numel()
        self.violations += int((ratios > 1.0).sum())
        self.worst = max(self.worst, float(ratios.max()))
