"""Resident walks."""

from __future__ import annotations

from collections.abc import Iterator

from .table import Mutant

_DOUBLE = ("resident/chain_double.cu", "test_resident_chain.py", "test_float64 and (odd or probes or two or tall)")
_TANGENT = (*_DOUBLE[:2], "test_float64 and False and (odd or probes or two or tall)")
_GROUPS = ("resident/chain.cu", "test_resident_chain.py", "test_unit_probes and single")
_NO_TERMS = ("resident/chain.cu", "test_resident_chain.py", "test_transposed and terms")
_ENDS = ("resident/chain.cu", "test_series_end.py", "dense or behind")
_STOPS = ("resident/chain.cu", "test_resident_chain.py", "test_items_stop and (probes or two)")


def products() -> Iterator[Mutant]:
    """Return mutants of the products that forward walks and chains share."""
    group = ("resident/weights.cuh", *_DOUBLE)
    yield Mutant(*group, "      __syncthreads();\n      return shared_ + resident;", "      return shared_ + resident;")
    yield Mutant(*group, "    __pipeline_wait_prior(0);\n")
    yield Mutant(*group, "    __syncthreads();  // the chunk is complete", "    // the chunk is complete")
    yield Mutant(*group, "plan_.stream + buffer_ * plan_.stream_size", "plan_.stream")
    yield Mutant(*group, "left < stage.chunk ? left : stage.chunk;\n    copy", "stage.chunk;\n    copy")
    group = ("resident/product.cuh", *_DOUBLE)
    yield Mutant(
        *group, "  __syncthreads();  // nobody reads the state any more", "  // nobody reads the state any more"
    )
    yield Mutant(*group, "const int depth = K - k < end - flat ? K - k : end - flat;", "const int depth = end - flat;")
    yield Mutant(*group, "if (++dx > radius) dx = -radius, ++dy;", "++dx;")
    yield Mutant(*group, "if (column >= stage.N_padded) continue;")
    yield Mutant(*group, "offset[i] = at >= 0 ? at : ~at;", "offset[i] = at;")
    yield Mutant(*group, "at(task.split - (task.split > task.owner(i)), i, g)", "at(task.split, i, g)")
    group = ("resident/block.cuh", *_DOUBLE)
    yield Mutant(
        *group,
        "    __syncthreads();\n#pragma unroll\n    for (int i = 0; i < COUNT",
        "#pragma unroll\n    for (int i = 0; i < COUNT",
    )
    yield Mutant(*group, "      store16(state() + i, zero16<T>());", "      ;")
    yield Mutant(*group, "slot < group.count && x < plan.width;", "slot < group.count;")
    yield Mutant(*group, "i < group.count * size; i += block_threads()", "i < plan.items * size; i += block_threads()")
    yield Mutant(*group, "    if (all_items - first < items) count = static_cast<int>(all_items - first);\n")
    yield Mutant(*group, "return (first + slot) / batch;", "return first / batch;")


def chain() -> Iterator[Mutant]:
    """Return mutants of the resident chain."""
    group = ("resident/chain.cuh", *_DOUBLE)
    yield Mutant("resident/chain.cuh", *_NO_TERMS, "  __syncthreads();  // y is complete\n")
    yield Mutant(
        "resident/chain.cuh", *_GROUPS, "    __syncthreads();  // the previous group", "    // the previous group"
    )
    yield Mutant(*group, "    __syncthreads();\n    load_probe", "    load_probe")
    yield Mutant(*group, "    __pipeline_wait_prior(0);\n    __syncthreads();\n", "    __syncthreads();\n")
    yield Mutant(*group, "    __pipeline_wait_prior(0);\n    __syncthreads();\n", "    __pipeline_wait_prior(0);\n")
    yield Mutant(
        "resident/chain.cuh",
        *_TANGENT,
        "        __syncthreads();\n        if (threads.slot",
        "        if (threads.slot",
    )
    yield Mutant(*group, "      __syncthreads();\n      if (p.powers)", "      if (p.powers)")
    yield Mutant("resident/chain.cuh", *_STOPS, "!__syncthreads_or(pass.state.active)", "!pass.state.active")
    yield Mutant(*group, "active = k < last && ", "active = ")
    yield Mutant(
        "resident/chain.cuh", *_ENDS, "last_term(series.coefficients, series.terms) : series", "series.terms : series"
    )
    yield Mutant("resident/chain.cuh", *_ENDS, "(series.tail || series.per_sample) && ", "series.tail && ")
    nan = ("resident/chain.cu", "test_resident_chain.py", "test_nan_stays")
    yield Mutant(
        "resident/chain.cuh",
        *nan,
        "!(series.tail && norm * __ldg(series.tail + k - 1) <= limit)",
        "(!series.tail || norm * __ldg(series.tail + k - 1) > limit)",
    )
    yield Mutant(*group, "    if (mine)\n")
    yield Mutant(*group, "threads.slot < group.count && threads.index == 0", "threads.index == 0")


def forward() -> Iterator[Mutant]:
    """Return mutants of the resident forward walk and of its inverse."""
    walk = ("resident/forward_double.cu", "test_resident_forward.py", "test_float64")
    inverse = (*walk[:2], "test_inverse and float64 and (dense or streamed or images or three)")
    groups = ("resident/forward.cu", "test_resident_forward.py", "test_a_block_takes_many_groups")
    group = ("resident/forward.cuh", *walk)
    yield Mutant(
        "resident/forward.cuh", *groups, "    __syncthreads();  // the previous group", "    // the previous group"
    )
    yield Mutant(*group, "    __syncthreads();\n    load_events", "    load_events")
    yield Mutant(*group, "    __pipeline_wait_prior(0);\n    __syncthreads();\n", "    __syncthreads();\n")
    yield Mutant(*group, "    __pipeline_wait_prior(0);\n    __syncthreads();\n", "    __pipeline_wait_prior(0);\n")
    yield Mutant(*group, "        __syncthreads();\n      }\n      if (p.own_bias", "      }\n      if (p.own_bias")
    yield Mutant("resident/forward.cuh", *inverse, "!__syncthreads_or(item.active)", "!item.active")
    yield Mutant(*group, "p.bias[i] && c < stage.N ? __ldg", "p.bias[i] ? __ldg")
    yield Mutant(*group, "channel < plan.event_channels ? __ldg(events", "true ? __ldg(events")
    yield Mutant(
        *group,
        "rows.global(row)) * stage.K_padded + channel;\n    const int pixel",
        "rows.local(row)) * stage.K_padded + channel;\n    const int pixel",
    )
    own = (*walk[:2], "test_biases_and_factors_of_samples and float64")
    yield Mutant("resident/forward.cuh", *own, "        __syncthreads();  // g(x) is complete\n")
    yield Mutant("resident/forward.cuh", *own, "if (p.own_bias[plan.stages].numbers && !tangent)", "if (false)")
    yield Mutant("resident/forward.cuh", *own, "pixel = row - threads.slot * p.plan.pixels;", "pixel = row;")
    yield Mutant("resident/forward.cuh", *own, "load(sample, row - threads.slot * plan.pixels", "load(sample, row")
    yield Mutant("resident/forward.cuh", *own, "real ? f[e] * value.d : T(0)", "real ? value.d : T(0)")
    yield Mutant(
        "resident/forward_arguments.cuh",
        *own,
        "own_bias[i + 1] = bias_of(branch, i);",
        "own_bias[i] = bias_of(branch, i);",
    )
    later = (*groups[:2], "test_samples_of_later_groups")
    yield Mutant(
        "resident/forward.cuh",
        *later,
        "activate(p, block, threads, group.first + threads.slot, i)",
        "activate(p, block, threads, threads.slot, i)",
    )
    yield Mutant(
        "resident/inverse.cuh",
        *inverse,
        "    if (item.active) {  // the step of an item that has stopped may be NaN",
        "    {",
    )
    yield Mutant("resident/inverse.cuh", *inverse, "|| evaluation == p.max_iterations)", ")")
    undone = ("resident/forward_double.cu", "test_resident_forward.py", "undone or (accelerated_inverse and float64)")
    group = ("resident/inverse.cuh", *undone)
    yield Mutant(*group, "__syncthreads_or(anderson.tried)", "anderson.tried")
    yield Mutant(*group, "      sums[i + 1] = pair[1];\n      __syncthreads();\n", "      sums[i + 1] = pair[1];\n")
    yield Mutant(*group, "        now = load16(history.x(1) + at - first);\n")
    yield Mutant(*group, "        r = load16(history.r(1) + at - first);\n")
    yield Mutant(
        *group,
        "        store16(x + at, now);\n      }\n      store16(history.x(0)",
        "      }\n      store16(history.x(0)",
    )
    yield Mutant(*group, "    *kept = anderson;\n")
    yield Mutant(
        "resident/inverse.cuh",
        *inverse,
        "if (threads.slot < group.count && threads.index == 0) {",
        "if (threads.index == 0) {",
    )


def tangents() -> Iterator[Mutant]:
    """Return mutants of what a training step keeps, and of its last term."""
    step = ("test_kept.py", "test_step_matches and (two-terms or images) and h100 and dtype1")
    group = ("resident/forward.cuh", "resident/forward_double.cu", *step)
    yield Mutant(*group, "        __syncthreads();  // g(x) has been read\n")
    yield Mutant(*group, "p.v);\n        __syncthreads();\n        continue;", "p.v);\n        continue;")
    yield Mutant(*group, "tangent ? nullptr : shared", "shared")
    yield Mutant(*group, "load_events(p, block, group, p.v);", "load_events(p, block, group, p.x);")
    yield Mutant(*group, "threads, i, p.derivative[i], p.kept[i]", "threads, i, p.derivative[0], p.kept[i]")
    yield Mutant(*group, "threads, i, p.derivative[i], p.kept[i]", "threads, i, p.derivative[i], p.kept[1]")
    yield Mutant(*group, "*before = p.kept[i].a, *after = p.kept[i].h;", "*before = p.kept[i].h, *after = p.kept[i].a;")
    yield Mutant(*group, "if (p.v && real)", "if (p.v)")
    some_idle = ("test_kept.py", "test_step_matches and images and single and dtype1")
    yield Mutant(*group[:2], *some_idle, "if (!p.v && (p.z || p.g))", "if (p.z || p.g)")
    group = ("resident/tangent.cuh", *group[1:])
    yield Mutant(*group, "    if (kept.t) store16(kept.t + place, t);\n")
    yield Mutant(*group, "store16(kept.t + place, t);", "store16(kept.t + place, load16(derivative + place));")
    yield Mutant(*group, "    if (derivative) {", "    if (false) {")
    yield Mutant(*group, "      store16(at, t);\n")
    yield Mutant(
        *group,
        "kept.scaled, place, t, block.plan.precision",
        "kept.scaled, place, load16(kept.h + place), block.plan.precision",
    )
    yield Mutant(
        *group,
        "rows.global(row)) * stage.K_padded + channel;\n    Vector<T> t",
        "rows.local(row)) * stage.K_padded + channel;\n    Vector<T> t",
    )
    yield Mutant(*group, "rows.global(row)) * pitch", "rows.local(row)) * pitch")
    group = ("resident/forward.cu", "resident/forward.cu", step[0], step[1].replace("dtype1", "dtype0"))
    yield Mutant(*group, "p.kept[i] = forward.tangent.kept[i];", "p.kept[i] = forward.tangent.kept[i - 1];")
    group = ("resident/chain.cuh", "resident/chain_double.cu", *step)
    yield Mutant(*group, "k > 0 && k == terms;", "false;")
    yield Mutant(*group, "p.tangent && k > 0 && k == terms;", "p.tangent && k > 0;")
    yield Mutant(*group, "p.tangent && k == terms ? 0 : plan.stages", "plan.stages")
    yield Mutant(*group, "p.tangent + int64_t(rows.global(row))", "p.tangent + int64_t(rows.local(row))")
    yield Mutant(
        *group, "value += (k % 2 ? q(series, sample, k) : -q(series, sample, k))", "value += q(series, sample, k)"
    )
    yield Mutant(*group[:3], "test_the_norm_is", "sums[1] += w[e] * w[e];", "sums[1] += u[e] * u[e];")
