"""Exact traces: their values, what the series leaves to them, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator

from .table import Mutant


def values() -> Iterator[Mutant]:
    """Return mutants of traces and of the terms that they take the place of."""
    tests = ("layered/traces.cu", "test_traces.py", "test_value_and_gradient and dtype1 and layered")
    group = ("layered/traces.cu", *tests)
    yield Mutant(*group, "    __syncthreads();\n    if (lane == 0)", "    if (lane == 0)")
    yield Mutant(*group, "sum += warp_sums[warp + i];", "sum += warp_sums[i];")
    yield Mutant(*group, "sample * of.count[i];", "sample;")
    yield Mutant(*group, "if (lane == 0 && sample < samples) value", "if (lane == 0) value")
    yield Mutant(*group, "value[sample] += sum;", "value[sample] = sum;")
    yield Mutant(*group, "4 * lanes < sums.count[i]", "64 * lanes < sums.count[i] && lanes < 4")
    rounded = (*group[:3], "tensor_cores")
    yield Mutant(*rounded, "    from = round.out;\n")
    group = ("layered/series.cuh", "layered/chain.cu", *tests[1:])
    yield Mutant(*group, "    if (k <= this->traces.count) return T(0);\n")
    neumann = ("layered/chain.cu", "layered/chain.cu", "test_traces.py", "neumann_vectors and layered")
    yield Mutant(*neumann, "k >= chain_.series.traces.count && ", "")
    yield Mutant(*neumann, "k >= chain_.series.traces.count", "k > chain_.series.traces.count")
    resident = ("resident/chain.cuh", "resident/chain.cu", "test_traces.py", "neumann_vectors and h100")
    yield Mutant(*resident, "k > series.traces.count ?", "k >= series.traces.count ?")


def gradients() -> Iterator[Mutant]:
    """Return mutants of what traces add to the backward pass, and of the gradients of their maps."""
    tests = ("layered/trace_gradients.cu", "test_traces.py", "test_backward_matches and dtype1 and True")
    group = ("layered/trace_gradients.cu", *tests)
    yield Mutant(*group, "  lane_sums[lane][x] = sum;\n  __syncthreads();\n", "  lane_sums[lane][x] = sum;\n")
    yield Mutant(*group, "lane > 0 || at >= size || channel", "lane > 0 || channel")
    yield Mutant(*group, "sample += kSampleLanes)", "sample += kSampleLanes + 1)")
    yield Mutant(*group, "      if (place) place += size;\n")
    yield Mutant(*group, "  result += op_.traces.trace[i].size;\n".strip(" "))
    yield Mutant(*group, "right ? left_[i] : scaled_right_[i]", "right ? left_[i] : right_[i]")
    yield Mutant(*group, "(right ? transposed_ : forward_)", "(right ? forward_ : transposed_)")
    yield Mutant(*group, "    join.by_derivative = true;\n")
    yield Mutant(*group, "if (!reads_tangent(stage) || (at == 0", "if (at == 0 || (at == 0")
    group = ("layered/backward.cu", "layered/backward.cu", *tests[1:])
    yield Mutant(*group, "curved_[i] + op_.pairs * size", "curved_[i]")
    yield Mutant(*group, "factors_[i] + (1 + op_.pairs) * size", "factors_[i] + size")
    yield Mutant(*group, "op_.pairs + described_.traces.sides(i)", "op_.pairs")
    yield Mutant(*group, "      gradient.slope_term_count += traces.slope_terms(i);\n")
