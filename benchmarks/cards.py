"""The cards of the modelled figures, by their makers' data sheets; nothing here was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Rates at boost clock."""

    title: str
    source: str
    multiprocessors: int
    lanes: int  # float32 multiply-adds a clock and multiprocessor
    gigahertz: float
    dram: float  # GB/s
    tf32: float  # TFLOP/s of the tensor cores without sparsity, float32 accumulation

    @property
    def fma_per_us(self) -> float:
        """float32 multiply-adds per microsecond."""
        return self.multiprocessors * self.lanes * self.gigahertz * 1e3

    @property
    def tf32_fma_per_us(self) -> float:
        """TF32 multiply-adds per microsecond."""
        return self.tf32 / 2 * 1e6

    @property
    def bytes_per_us(self) -> float:
        """Bytes of DRAM per microsecond."""
        return self.dram * 1e3


# By the names under which the kernels' plans know them (csrc/cuda/device/card.h).
CARDS = {
    "a100": Card("A100 SXM 80 GB", "NVIDIA A100 data sheet", 108, 64, 1.41, 2039.0, 156.0),
    "h100": Card("H100 SXM", "NVIDIA H100 data sheet; clock: white paper v1.04", 132, 128, 1.98, 3350.0, 494.7),
    "rtx4090": Card("RTX 4090", "NVIDIA Ada white paper v2.02, appendix A", 128, 128, 2.52, 1008.0, 82.6),
}  # fmt: skip
