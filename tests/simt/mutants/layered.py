"""Layer by layer: products, rows, chains, inverses."""

from __future__ import annotations

from collections.abc import Iterator

from .table import Mutant


def products() -> Iterator[Mutant]:
    """Return mutants of a product, its epilogues and its sums."""
    series = ("layered/chain.cu", "test_layered_chain.py", "test_series and dtype0 and (ragged or narrow or above)")
    stops = ("layered/chain.cu", "test_layered_chain.py", "test_items_stop")
    group = ("layered/product.cuh", *series)
    yield Mutant("layered/product.cuh", *stops, "return __syncthreads_or(active);", "return active;")
    yield Mutant(*group, "    __pipeline_wait_prior(Shape::kBuffers - 2);\n")
    yield Mutant(*group, "    __syncthreads();  // the step has arrived", "    // the step has arrived")
    yield Mutant(*group, "  __syncthreads();  // the pipeline's memory is free", "  // the pipeline's memory is free")
    yield Mutant(*group[:3], "test_series and dtype1 and (wide or above)", "  __syncwarp();\n")
    yield Mutant(
        *group,
        "apply<Shape::kLanes>(epilogue, place[u], column, place[u].row < rows &&",
        "apply<Shape::kLanes>(epilogue, place[u], column,",
    )
    yield Mutant(
        *group,
        "row[u].load(epilogue, place[u], column, place[u].row < rows && column < product.columns);",
        "row[u].load(epilogue, place[u], column, column < product.columns);",
    )
    yield Mutant(*group, "left < Shape::kStep ? left : Shape::kStep", "Shape::kStep")
    yield Mutant(*group, "fetch.next(empty);", "fetch.next(full);")
    group = ("layered/product_fetch.cuh", *series)
    yield Mutant(*group, "row < rows_left ? pixel / product.width - reach : kOutside", "pixel / product.width - reach")
    yield Mutant(*group, "static_cast<unsigned>(x_[i] + tap_x_) < static_cast<unsigned>(product_.width)", "true")
    yield Mutant(*group, "from, 16, inside ? 0 : 16);", "from, 16, 0);")
    yield Mutant(*group, "row < Shape::kRowsB && (b_row_ + i) * Shape::kAdjacent < end_", "row < Shape::kRowsB")
    yield Mutant(*group, "b_inside_ = tap < product.taps && tap_column < product.pitch;", "b_inside_ = true;")
    yield Mutant(*group, "from_ += int64_t(product_.width - product_.kernel) * product_.depth;")
    group = ("layered/row_place.cuh", *series)
    yield Mutant(*group, "item_ < samples ? item_ : item_ % samples", "item_")
    yield Mutant(*group, "    place.sample -= place.sample >= samples_ ? samples_ : 0;\n")
    yield Mutant(*group, "carry ? place.pixels : 0;", "0;")
    group = ("layered/item_sums.cuh", *series)
    yield Mutant(*group, "if (!inside || column % kColumns != 0) return;", "if (column % kColumns != 0) return;")
    yield Mutant(*group, "    if (wanted) {", "    {")
    yield Mutant(
        *group[:3], "test_series and dtype1 and wide", "place.row * tiles + column / kColumns", "place.row * tiles"
    )
    group = ("layered/chain_step.cuh", *series)
    yield Mutant("layered/chain_step.cuh", *stops, "if (y && (!active || active[place.item] >= term)) {", "if (y) {")
    yield Mutant(*group, "    if (inside) {\n      if (product)", "    {\n      if (product)")
    yield Mutant(*group, "    if (!inside) return ahead;\n")
    yield Mutant(*group, "load16_readonly(d + place.sample_row() * pitch + column)", "load16_readonly(d + at)")
    group = ("layered/chain.cu", *series)
    yield Mutant(*group, "y_[(k - 1) % 2] : nullptr", "y_[k % 2] : nullptr")
    ends = ("layered/chain.cu", "test_series_end.py", "dense or behind")
    yield Mutant("layered/chain.cu", *ends, "chain.series.per_sample || captured ?", "chain.series.per_sample ?")
    yield from _decisions(stops, ends)


def _decisions(stops: tuple[str, str, str], ends: tuple[str, str, str]) -> Iterator[Mutant]:
    file = "layered/series.cuh"
    lane = "  const int lane = static_cast<int>(threadIdx.x) % kWarp;\n  T square"
    yield Mutant(file, *stops, f"  if (item >= series.items) return;\n{lane}", lane)
    own_last = (*ends[:2], "own_last and layered")
    yield Mutant(file, *own_last, "gather(item, values, active, k)", "gather(item, values)")
    yield Mutant(file, *ends, "item >= series.items || series.last[item] < series.terms", "item >= series.items")
    yield Mutant(file, *ends, "sums.number(k - first)", "sums")
    yield Mutant(file, *stops, "|| series.last[item] < k) continue;", ") continue;")
    yield Mutant("layered/chain.cu", *ends, "(k - 1) % kTermsAtOnce", "0")
    yield Mutant("layered/chain.cu", *ends, "product.least = k;")
    yield Mutant("layered/chain.cu", *ends, "step.term = k;")
    yield Mutant(file, *ends, "coefficients_of(item % samples)", "coefficients_of(0)")
    yield Mutant(file, *ends, "coefficients_of(item % samples)", "coefficients_of(item)")
    yield Mutant(
        file,
        *stops[:2],
        "no_number",
        "series.tail && norm * series.tail[k - 1] <= series.limit[item]",
        "series.tail && !(norm * series.tail[k - 1] > series.limit[item])",
    )


def gathered() -> Iterator[Mutant]:
    """Return mutants of products that leave sums in memory, and of the kernel that gathers them."""
    series = ("layered/chain.cu", "test_layered_product.py", "test_forward_and_series and dtype0 and (few or wider)")
    group = ("layered/gather.cuh", *series)
    yield Mutant(*group, "row < rows && column < product.columns", "column < product.columns")
    yield Mutant(*group, "row < rows && column < product.columns", "row < rows")
    yield Mutant(*group, "      from += (product.width - sums.kernel) * sums.pitch;\n")
    yield Mutant(*group, "from += sums.pitch + product.columns;", "from += sums.pitch;")
    yield Mutant(*group, "static_cast<unsigned>(x + j) < static_cast<unsigned>(product.width)", "true")
    yield Mutant(*group, "static_cast<unsigned>(y + i) < static_cast<unsigned>(product.height)", "true")
    probes = (*group[:3], "test_forward_and_series and dtype0 and beyond")
    yield Mutant(*probes, "item % static_cast<unsigned>(product.samples)", "item")
    splits = (*series[:2], "test_forward_and_series and split")
    yield Mutant("layered/gather.cuh", *splits, "    split += int64_t(rows) * sums.pitch;\n")
    yield Mutant("layered/gather.cuh", *splits, "s < sums.splits", "s < 1")
    group = ("layered/product_fetch.cuh", "layered/sums.cu", *splits[1:])
    yield Mutant(*group, "const int first = split * steps / splits * Shape::kStep;", "const int first = 0;")
    yield Mutant(*group, "end_ = min(all, (split + 1) * steps / splits * Shape::kStep);", "end_ = all;")
    yield Mutant(*group[:3], series[2], "int64_t(tap) * (product.depth / Shape::kAdjacent)", "int64_t(0)")
    group = ("layered/sums.cu", *group[1:])
    yield Mutant(*group, "sums += blockIdx.y * split_stride;")
    yield Mutant(*group[:3], series[2], "all_taps.columns = sums.pitch;")
    group = ("layered/sums.h", *series)
    yield Mutant(*group, "workspace.share(", "static_cast<void>(")
    group = ("layered/sums.h", *series[:2], "test_forward_and_series and dtype0 and beyond")
    yield Mutant(*group, "{branch.batch, probes * branch.batch}", "{branch.batch, branch.batch}")


def operands() -> Iterator[Mutant]:
    """Return mutants of rounded operands, and of the fragments that tensor cores take."""
    once = ("layered/chain.cu", "test_layered_chain.py", "only_operands and (tf32 or bf16)")
    group = ("device/operand.cuh", *once)
    yield Mutant(*group, "values[e] = float_of(to_tf32(values[e]));", ";")
    yield Mutant(*group, "to_bf16_pair(values[2], values[3])", "to_bf16_pair(values[3], values[2])")
    group = ("device/operand.cuh", "device/pack_weights.cu", *once[1:])
    yield Mutant(*group, "value = float_of(to_tf32(value));", ";")
    yield Mutant("device/pack.h", *group[1:], "row / adjacent * pitch + column", "row / adjacent * pitch")
    yield Mutant("device/pack.h", *group[1:], "* adjacent + row % adjacent;", "* adjacent;")
    yield Mutant(
        "device/pack_weights.cu",
        *group[1:],
        "packing_ == Packing::kOperands ? precision : Precision::kFull",
        "Precision::kFull",
    )
    group = ("layered/chain.cu", *once)
    yield Mutant(*group, "if (series()) entry.result = start_;", "if (series()) entry.out = start_;")
    yield Mutant(
        *(*group[:3], "test_powers_match"),
        "(chain_.transpose ? step.result : step.product) = w_",
        "step.product = w_",
    )
    yield Mutant(*group, "    entry.precision = context_.precision;\n")
    group = ("device/tensor_tile.cuh", *once)
    yield Mutant(*group, "a += lane / 16 * kVector<Operand>;")
    yield Mutant(*group, "16 * i + lane_index() % 16", "16 * i + lane_index() % 8")
    yield Mutant(*group, "lane % 16 * pitch + lane / 16 * 8;", "lane % 16 * pitch;")
    yield Mutant(*group, "lane / 8 % 2 * pitch + (lane / 16", "(lane / 16")
    yield Mutant(*group, "(lane / 16 * 8 + lane % 8) * kAdjacent", "lane % 8 * kAdjacent")
    yield Mutant(
        *group, "Sums::add(left, j + 1, {right[2], right[3]});", "Sums::add(left, j + 1, {right[0], right[1]});"
    )
    traffic = (*once[:2], "memory_is_used_well and (tf32 or bf16)")
    yield Mutant(
        "device/tensor_tile.cuh", *traffic, "kBf16 ? 8 : 0, kSumPadding = 8", "kBf16 ? 16 : 0, kSumPadding = 8"
    )
    yield Mutant("device/tensor_tile.cuh", *traffic, "kSumPadding = 8", "kSumPadding = 16")


def rows() -> Iterator[Mutant]:
    """Return mutants of rows, activations and packed weights."""
    series = ("layered/chain.cu", "test_layered_chain.py", "test_series and dtype0 and (ragged or narrow or above)")
    group = ("layered/rows.cuh", *series)
    yield Mutant(*group, "  __syncthreads();\n  epilogue.begin();", "  epilogue.begin();")
    yield Mutant(*group, "  __syncthreads();\n  block.for_each_element", "  block.for_each_element")
    yield Mutant(
        *group, "column + e < layout.channels ? memory[at + e * tile.lane] : T(0)", "memory[at + e * tile.lane]"
    )
    yield Mutant(*group, "min(int64_t(tile.items), layout.items - first_item)", "int64_t(tile.items)")
    yield Mutant(*group, "pixels = min(tile.pixels, layout.pixels - first_pixel);", "pixels = tile.pixels;")
    yield Mutant(*group, "channels = min(tile.channels, layout.channels - first_channel);", "channels = tile.channels;")
    group = (
        "layered/activate.cuh",
        "layered/forward.cu",
        "test_layered_branch.py",
        "test_matches_reference and single and dtype0",
    )
    yield Mutant(*group, "    if (!inside) return;\n")
    yield Mutant(*group[:3], "masks and single and dtype0", "real ? f[i] * value.h : T(0)", "real ? value.h : T(0)")
    group = ("device/stage_operand.cuh", *group[1:])
    yield Mutant(*group, "column + e < channels ? __ldg", "true ? __ldg")
    masks = (*group[:3], "test_matches_reference and masks and single and dtype0")
    yield Mutant(*masks, "sample * sample_stride +", "int64_t(0) +")
    yield Mutant(*masks, "pixel * pixel_stride +", "int64_t(0) +")
    yield Mutant(*masks, "first + e * channel_stride", "first + e")
    yield Mutant(*masks, "channels * (by_pixel ? pixels : 1)", "channels")
    group = ("device/pack_weights.cu", "device/pack_weights.cu", *group[2:])
    yield Mutant(*group, "    __syncthreads();\n    for (int row", "    for (int row")
    yield Mutant(*group, "    __syncthreads();\n  }\n}", "  }\n}")
    yield Mutant(*group, "out < stage.out && in < stage.in;", "out < stage.out;")
    yield Mutant(*group, "k < stage.depth && column < stage.pitch", "column < stage.pitch")
    yield Mutant(
        "device/pack_weights.cu", "device/pack_weights.cu", *series[1:], "stage.taps - 1 - tap : tap", "tap : tap"
    )


def inverse() -> Iterator[Mutant]:
    """Return mutants of the layered inverse."""
    tests = ("layered/inverse.cu", "test_layered_inverse.py", "dtype0 or not test_matches")
    yield Mutant("layered/inverse.cu", *tests, "iteration > 0 ? state_.active : nullptr", "state_.active")
    group = ("layered/inverse_step.cuh", *tests)
    yield Mutant(*group, "  if (row >= layout.items * layout.pixels) return;\n")
    yield Mutant(*group, "  if (!first && !state.active[place.item]) return;", "  //")
    yield Mutant(*group, "  if (iteration > 0 && !state.active[sample]) {", "  if (false) {")
    yield Mutant(*group, "stop ? iteration : iteration + 1", "iteration + 1")
    yield Mutant(*group, "!(found > op.residual_limit)", "found <= op.residual_limit")
    yield Mutant(*group, "  }\n  __syncthreads();\n#pragma unroll", "  }\n#pragma unroll")
    yield Mutant(
        *group, "for (int warp = 0; warp < kItemThreads / kWarp; ++warp)", "for (int warp = 0; warp < 1; ++warp)"
    )
    undone = (*group[:3], "undone or last_update")
    yield Mutant(*undone, "!stop && iteration + 1 < op.max_iterations", "!stop")
    yield Mutant(*undone, "(undone ? history.x(1) : x) + at", "x + at")
    yield Mutant(*undone, "(undone ? history.r(1) : step) + at", "step + at")
    yield Mutant("device/anderson.cuh", *undone[1:], "(sum[e] - image)", "(sum[e] - x[e])")
    yield Mutant("device/anderson.cuh", *undone[1:], "i + 1 < seen ? load16", "i < seen ? load16")


def pieces() -> Iterator[Mutant]:
    """Return mutants of what is enqueued in pieces, and of the counts the host waits for."""
    inverse = ("layered/inverse.cu", "test_pieces.py", "inverse and dtype0")
    group = ("device/progress.h", *inverse)
    yield Mutant(*group, "cudaError_t error = wait(slots_[newest_]);", "cudaError_t error = cudaSuccess;")
    yield Mutant(*group, "const cudaError_t error = wait(slot);", "const cudaError_t error = cudaSuccess;")
    yield Mutant(*group, "const Slot& slot = slots_[1 - newest_];", "const Slot& slot = slots_[newest_];")
    yield Mutant(*group, "    newest_ = 1 - newest_;\n")
    yield Mutant(*group, "    const OutsideCaptures outside;\n    return", "    return")
    yield Mutant(*group, "    ~OutsideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode); }\n")
    yield Mutant(
        *group,
        "return error == cudaSuccess ? cudaEventRecord(slots_[newest_].arrived, stream) : error;",
        "return error;",
    )
    yield Mutant(
        *group, "cudaError_t error = stopped ? cudaMemsetAsync(", "cudaError_t error = false ? cudaMemsetAsync("
    )
    yield Mutant(*group, "count == items", "count + 1 == items")
    yield Mutant(*group, "i > kPiece", "i >= kPiece")
    yield Mutant(*group, "i % kPiece == 0", "i % (2 * kPiece) == 0")
    yield Mutant(*group, "return context.progress && last >= 2 * kPiece ? count : nullptr;", "return nullptr;")
    yield Mutant(*group, "return context.progress && last", "return last")
    group = ("layered/inverse_step.cuh", *inverse)
    yield Mutant(*group, "if (stop && state.stopped)", "if (state.stopped)")
    yield Mutant(*group, "atomicAdd(state.stopped, 1u)", "atomicAdd(state.stopped, 2u)")
    group = ("layered/inverse.cu", *inverse)
    yield Mutant(*group, "if (!context.progress) op_.max_iterations", "if (false) op_.max_iterations")
    yield Mutant(
        *group, "in_pieces(op_.max_iterations, branch_.batch,", "in_pieces(op_.max_iterations, branch_.batch - 1,"
    )
    series = ("layered/chain.cu", "test_pieces.py", "series and dtype0")
    yield Mutant("device/progress.h", *series, "last >= 2 * kPiece", "last >= kPiece")
    group = ("layered/series.cuh", *series)
    yield Mutant(
        *group, "    if (series.stopped && (stops || k == series.last[item])) atomicAdd(series.stopped, 1u);\n"
    )
    yield Mutant(*group, "atomicAdd(series.stopped, 1u)", "atomicAdd(series.stopped, 2u)")
    yield Mutant(*group, "    if (stops) series.last[item] = 0;\n")
    group = ("layered/chain.cu", *series)
    yield Mutant(
        *group,
        "in_pieces(chain_.series.terms - 1, chain_.items(),",
        "in_pieces(chain_.series.terms - 1, chain_.probes,",
    )
    entry = ("layered_chain.cpp", *inverse[1:])
    yield Mutant("device/progress.h", *entry, "    const OutsideCaptures outside;\n    cudaError_t", "    cudaError_t")
    yield Mutant("device/progress_pool.h", *entry, "    idle_[device].push_back(std::move(progress));\n")
    yield Mutant("device/progress_pool.h", *entry, " || status != cudaStreamCaptureStatusNone) return", ") return")


def tangents() -> Iterator[Mutant]:
    """Return mutants of what a training step keeps, and of its last term."""
    step = ("test_kept.py", "test_step_matches and (two-terms or images) and layered and dtype1")
    group = ("layered/series.cuh", "layered/chain.cu", *step)
    yield Mutant(*group, "i < (item + 1) * size; i += kWarp", "i <= (item + 1) * size; i += kWarp")
    yield Mutant(*group, "(k % 2 ? own : -own)", "own")
    yield Mutant(*group, "(n == 1 ? T(0) : series.value[item])", "series.value[item]")
    yield Mutant(*group, "series.factor(item, n) * dot", "series.factor(item, n - 1) * dot")
    norm = (*group[:3], "test_the_norm_is")
    yield Mutant(*norm, "square += left[e] * left[e];", "square += right[e] * right[e];")
    yield Mutant(*norm, "series.terms_used[item] = n;", "series.terms_used[item] = n - 1;")
    group = ("layered/chain.cu", *group[1:])
    yield Mutant(*group, "series_, w, context_.memory[chain_.tangent],", "series_, w, start_,")
    yield Mutant(
        *group, "series_, w, context_.memory[chain_.tangent],", "series_, start_, context_.memory[chain_.tangent],"
    )
    yield Mutant(*group, "k == 1 ? start_ : w_", "w_")
    yield Mutant(*group, "k == 1 ? start_ : w_", "start_")
    yield Mutant(*group, "      if (last && shortcut_next) step.result = w_;\n")
    yield Mutant(
        *group[:3], "test_the_norm_is", "if (last_term && chain_.tangent) return shortcut(k == 1 ? start_ : w_);"
    )
    group = ("layered/forward.cu", "layered/forward.cu", *step)
    yield Mutant(*group, "    stage.a = forward.tangent.kept[i].a;\n")
    yield Mutant(*group, "stage.h = forward.tangent.kept[i].h;", "stage.h = forward.tangent.kept[i].scaled;")
    group = ("layered/tangent.cu", "layered/tangent.cu", *step)
    yield Mutant(*group, "start.d = memory[forward.derivatives[0]];")
    yield Mutant(*group, "last ? nullptr : memory[forward.derivatives[i + 1]]", "nullptr")
    yield Mutant(*group, "memory[forward.derivatives[i + 1]]", "memory[forward.derivatives[i]]")
    yield Mutant(*group, "last ? nullptr : tangent.kept[i + 1].t;", "nullptr;")
    yield Mutant(*group, "tangent.kept[i + 1].scaled", "tangent.kept[i + 1].h")
