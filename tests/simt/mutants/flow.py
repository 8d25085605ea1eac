"""What stands between the blocks of a flow."""

from __future__ import annotations

from collections.abc import Iterator

from .table import Mutant


def steps() -> Iterator[Mutant]:
    """Return mutants of ActNorm, rearrangements and sums of log-determinants."""
    forward = ("flow/actnorm.cu", "flow/actnorm.cu", "test_flow.py", "actnorm")
    yield Mutant(*forward, "  if (thread >= count) return;\n")
    yield Mutant(*forward, "if (column + i < line) z[at + i] = v[i];", "z[at + i] = v[i];")
    yield Mutant(*forward, "line % kVector<T> == 0 && (aligned", "(aligned")
    yield Mutant(*forward, " && (aligned(static_cast<const T*>(pointers)) && ...)")
    yield Mutant(*forward, "static_cast<int>(row % channels)", "static_cast<int>(row)")
    yield Mutant(*forward, "block_sum(sum, partial) * pixels", "block_sum(sum, partial)")
    backward = ("flow/actnorm.cu", "flow/actnorm.cu", "test_flow.py", "gradients_of_actnorm")
    yield Mutant(*backward, "  __syncthreads();\n  if (row > 1", "  if (row > 1")
    yield Mutant(*backward, "if (row > 1 || channel >= channels) return;", "if (row > 1) return;")
    yield Mutant(*backward, "total = block_sum(total, partial) * pixels;", "total = block_sum(total, partial);")
    yield Mutant(*backward, "sum * exp(__ldg(log_scale + channel))", "sum")
    left_out = (*backward[:3], "left_out")
    yield Mutant(*left_out, "weight && b < batch", "b < batch")
    order = ("flow/rearrange.cu", "flow/rearrange.cu", "test_flow.py", "rearrange or nothing")
    yield Mutant(*order, "  if (i >= size) return;\n")
    yield Mutant(*order, "0 <= other && other < size", "other < size")
    yield Mutant(*order, "0 <= other && other < size", "0 <= other")
    yield Mutant(*order, "  if (transpose && !known) return;\n")
    yield Mutant(*order, "from = transpose ? i : other", "from = i")
    total = ("flow/sum_rows.cu", "flow/sum_rows.cu", "test_flow.py", "in_order")
    yield Mutant(*total, "  if (column >= columns) return;\n")
