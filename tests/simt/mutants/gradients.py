"""Weight gradients, the backward pass, and the spectral normalisation."""

from __future__ import annotations

from collections.abc import Iterator

from .table import Mutant


def weight_gradients() -> Iterator[Mutant]:
    """Return mutants of the weight gradient."""
    group = (
        "layered/weight_gradient.cuh",
        "layered/weight_gradient.cu",
        "test_weight_gradient.py",
        "test_matches_torch and dtype0-0",
    )
    yield Mutant(*group, "      __pipeline_wait_prior(0);\n")
    yield Mutant(*group, "      __syncthreads();  // this chunk is here, and nobody reads the other stage any more\n")
    yield Mutant(*group, "  __syncthreads();\n  memory[thread] = bias;\n", "  memory[thread] = bias;\n")
    yield Mutant(*group, "memory[thread] = bias;\n  __syncthreads();\n", "memory[thread] = bias;\n")
    yield Mutant(*group, "    __syncthreads();\n    if (depth_warp > 0)\n", "    if (depth_warp > 0)\n")
    yield Mutant(*group, "    __syncthreads();\n    if (depth_warp > 0) return;", "    if (depth_warp > 0) return;")
    yield Mutant(*group, "rows_left > 0 && static_cast<int>(blockIdx.y)", "static_cast<int>(blockIdx.y)")
    yield Mutant(*group, "Shape::kRows + column < op.out_channels;", "Shape::kRows + column <= op.out_channels;")
    yield Mutant(*group, "y + (tap[i] >> 16) < static_cast", "y + (tap[i] >> 16) <= static_cast")
    yield Mutant(*group, "    rows_left -= Shape::kDepth;\n")
    yield Mutant(*group, "inside ? 0 : 16);", "0);")
    yield Mutant(*group, "if (out + Tile::row(i) >= op.out_channels) continue;")
    yield Mutant(*group, "if (at >= op.partial_columns()) continue;")
    yield Mutant(*group, "loader.fetch(other);", "loader.fetch(stage);")
    tensor = (*group[:3], "test_matches_torch and dtype1-1 or dtype2-2 or traffic")
    yield Mutant("device/operand.cuh", *tensor[1:], "unsigned(operand.bits) << 16", "unsigned(operand.bits) << 15")
    yield Mutant(*tensor, "(sizeof(Operand) == 8 ? 4 : 8)", "(sizeof(Operand) == 8 ? 4 : 16)")
    yield Mutant(
        "layered/weight_gradient.h",
        *tensor[1:],
        "precision == Precision::kBf16 ? sizeof(Bf16) : sizeof(T)",
        "sizeof(T)",
    )
    yield Mutant(
        "device/outer_tile.cuh",
        *tensor[1:],
        "(lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8",
        "lane % 16 * pitch + lane / 16 * 8",
    )
    yield Mutant(
        "device/outer_tile.cuh", *tensor[1:], "a[e / 2 * 4 * pitch + e % 2 * 8]", "a[e % 2 * 4 * pitch + e / 2 * 8]"
    )
    yield Mutant(
        "device/outer_tile.cuh", *tensor[1:], "b[e % 2 * 4 * pitch + e / 2 * 8]", "b[e / 2 * 4 * pitch + e % 2 * 8]"
    )
    yield Mutant(
        "device/device.cuh",
        *tensor[1:],
        "group % kTogether * kApart + group / kTogether % kApart",
        "group % (kTogether * kApart)",
    )
    group = ("layered/gather_gradients.cu", "layered/gather_gradients.cu", *group[2:])
    yield Mutant(*group, "  __syncthreads();\n")
    yield Mutant(*group, "if (in < partial.in_channels) stage.weight", "stage.weight")
    yield Mutant(*group[:3], "shared_out", "split += kLanes", "split += kLanes + 1")
    group = ("device/block_sum.cuh", "layered/weight_gradient.cu", *group[2:])
    yield Mutant(*group, "  __syncthreads();\n  T sum", "  T sum")


def backward() -> Iterator[Mutant]:
    """Return mutants of the backward pass."""
    pairs = ("test_branch_backward.py", "test_matches_autograd and (slopes or square) and three and dtype0")
    group = ("layered/linearized.cuh", "layered/backward.cu", *pairs)
    yield Mutant(*group, "if (inside && static_cast<int>(threadIdx.x) % LANES == 0)", "if (inside)")
    yield Mutant(*group, "load16(more + j * rows * pitch + at)", "load16(more + at)")
    yield Mutant(*group, "place.sample_row() * pitch + column", "place.row * pitch + column")
    yield Mutant(*group, "        if (curved) store16(curved + at, e);\n")
    group = ("layered/backward.cu", *group[1:])
    yield Mutant(*group, "terms_[i] + slope_terms(branch_, i, 1, context_)", "terms_[i]")
    yield Mutant(*group, "weight[item % samples]", "weight[item]")
    group = (*group[:2], "test_kept.py", "test_step_matches and (two-terms or images) and layered and dtype1")
    yield Mutant(*group, "t[i] = kept.stages[i].t, p", "t[i] = kept.stages[i].scaled, p")
    yield Mutant(*group, "p[i] = kept.stages[i].scaled;", "p[i] = kept.stages[i].h;")
    yield Mutant(*group, "{kept.stages[i].a, kept.stages[i].h, {}", "{kept.stages[i].h, kept.stages[i].h, {}")
    yield Mutant(*group, "{kept.stages[i].a, kept.stages[i].h, {}", "{kept.stages[i].a, kept.stages[i].a, {}")
    yield Mutant(
        *group,
        "(!reads_tangent(branch_.stage[0]) || !wants_backward(0))",
        "(!reads_tangent(branch_.stage[0]) || wants_backward(0))",
    )
    group = (*group[:3], "test_what_is_kept_is_read")
    yield Mutant(
        *group,
        "      if (pairs) t[i] = kept.stages[i].t, p",
        "      if (pairs) curved[i] = t[i] = kept.stages[i].t, p",
    )
    group = (*group[:3], "takes_the_precision or computed_again")
    yield Mutant(*group, "op.pairs <= 1 && kept_size(branch, target.precision) == op.kept_size)", "op.pairs <= 1)")
    yield Mutant(*group, "recall(op.kept && op.pairs <= 1", "recall(op.kept")
    yield Mutant(*group, "kept(branch, precision, const_cast", "kept(branch, Precision::kFull, const_cast")
    group = ("branch_backward.cu", "branch_backward.cu", *group[2:])
    yield Mutant(*group, "if (precision <= wanted.precision && kept_size", "if (kept_size")
    yield Mutant(*group, "return {cheapest.card, precision};", "return cheapest;")
    group = (*group[:2], "test_branch_backward.py", "products_stay_exact")
    yield Mutant(
        *group, "at_kept_precision(branch, op, cheapest, wanted)", "at_kept_precision(branch, op, wanted, wanted)"
    )


def of_samples() -> Iterator[Mutant]:
    """Return mutants of the gradients of biases and factors that samples have of their own."""
    tests = ("layered/backward.cu", "test_branch_backward.py", "test_matches_autograd and masks and three and dtype1")
    group = ("layered/linearized.cuh", *tests)
    yield Mutant(*group, "(paired ? tangent[i] * phi.d : phi.h) * v[i]", "phi.h * v[i]")
    yield Mutant(*group, "d[i] = f[i] * phi.d;", "d[i] = phi.d;")
    yield Mutant(*group, "e[i] = f[i] * phi.e;", "e[i] = phi.e;")
    yield Mutant(*group, "term += f[i] * v[i]", "term += v[i]")
    yield Mutant(*group, "        add_rows(h, added_factors, at);\n")
    group = ("layered/backward.cu", *tests)
    yield Mutant(
        *group, "epilogue.factors = factors_[i] + layout(i).row_elements();", "epilogue.factors = factors_[i];"
    )
    yield Mutant(*group, "size * (1 + addends)", "size")
    yield Mutant(*group, "pairs && reads_tangent(stage) && !curved[i] ?", "false ?")
    yield Mutant(*group, " || branch_.stage[0].factor;", ";")
    group = ("layered/sample_gradients.cu", "layered/sample_gradients.cu", *tests[1:])
    yield Mutant(*group, "  __syncthreads();\n")
    yield Mutant(*group, "pixel += kLanes", "pixel += kLanes + 1")
    yield Mutant(*group, "first = sample * layout.pixels * layout.pitch", "first = sample * layout.pitch")
    yield Mutant(*group, "lane > 0 || channel >= layout.channels", "lane > 0")
    rounded = (*group[:3], "tensor_cores and contexts")
    yield Mutant(*rounded, "s[i + 1], precision, stage.bias_spread", "s[i + 1], Precision::kFull, stage.bias_spread")
    yield Mutant(
        "device/operand.cuh",
        *rounded[1:],
        "load8(reinterpret_cast<const Bf16*>(operands) + at,",
        "load8(reinterpret_cast<const Bf16*>(operands),",
    )
    group = ("layered/parameter_gradients.h", "layered/sample_gradients.cu", *tests[1:])
    yield Mutant(*group, "(spread == Spread::kPixel ? branch.pixels() : 1)", "branch.pixels()")
    group = ("kept.h", "layered/backward.cu", "test_kept.py", "test_step_matches and masks and layered and dtype1")
    yield Mutant(*group, "!stage.straight() || stage.factor", "!stage.straight()")


def kept() -> Iterator[Mutant]:
    """Return mutants of what a training step keeps: how much, where, and at which precision."""
    group = ("kept.h", "residual_logdet.cu", "test_kept.py", "two-terms or images or at_most")
    yield Mutant("device/pack.h", *group[1:], "branch.batch * branch.pixels() *", "branch.batch *")
    yield Mutant(*group, "        size += elements;\n")
    yield Mutant(*group, "if (!stage.identity()) stages[i].a", "stages[i].a")
    yield Mutant(*group, "if (reads_tangent(stage)) stages[i].t", "stages[i].t")
    yield Mutant(*group, "if (reads_tangent(stage)) stages[i].t = take(count);")
    yield Mutant(*group, "for (int i = 1; i < branch.stages; ++i) {", "for (int i = 0; i < branch.stages; ++i) {")
    yield Mutant(*group, "kKeptShare = 256", "kKeptShare = 128")
    group = (*group[:3], "tensor_cores or cheapest_precision")
    yield Mutant(
        *group,
        "rows_size(branch, stage.in_channels, precision)",
        "rows_size(branch, stage.in_channels, Precision::kFull)",
    )
    group = ("residual_logdet.cu", *group[1:])
    yield Mutant(*group[:3], "each_precision", "Kept<T>::tail_size(target.precision)", "0")
    yield Mutant(*group, "kept(branch, target.precision, op.kept)", "kept(branch, Precision::kFull, op.kept)")
    yield Mutant(*group, "size = kept_size(branch, target.precision)", "size = kept_size(branch, wanted.precision)")
    group = (*group[:3], "test_the_norm_is")
    yield Mutant(*group, "  chain.tangent = tangent.product;\n")
    group = (*group[:3], "test_step_matches and (two-terms or images) and layered and dtype1")
    yield Mutant(*group, "tangent.v = op.probe;", "tangent.v = op.x;")
    cheapest = "{target.card, cheapest_precision(shape_of(branch), request, target.precision, sizeof(T), target.card)}"
    yield Mutant("engine.cu", "engine.cu", "test_residual_logdet.py", "tensor_cores", cheapest, "target")
    cheapest = "at_cheapest_precision(branch, kForwardWalk, wanted)"
    yield Mutant("branch.cu", "branch.cu", "test_cheapest_precision.py", "branch", cheapest, "wanted")
    cheapest = "at_cheapest_precision(branch, kInverseWalk, wanted)"
    yield Mutant(
        "residual_inverse.cu", "residual_inverse.cu", "test_cheapest_precision.py", "inverse", cheapest, "wanted"
    )
