"""What the host decides: plans and their constants, tiles, and how much shared memory a kernel may have."""

from __future__ import annotations

from collections.abc import Iterator

from .table import Mutant


def plans() -> Iterator[Mutant]:
    """Return mutants of the choice of precision and of the model behind it."""
    group = ("plan/plan.cpp", "plan/plan.cpp", "test_plan.py", "tensor_cores or small_branches or constants")
    yield Mutant(*group, "    if (precision > least) break;\n")
    yield Mutant(*group, "if (this_cost < best_cost) best", "if (this_cost > best_cost) best")
    yield Mutant(*group, "chain ? plan_walk(shape, kForwardWalk", "false ? plan_walk(shape, kForwardWalk")
    yield Mutant(*group, "element_bytes == 8 || card.architecture < 80", "card.architecture < 80")
    yield Mutant(*group, "element_bytes == 8 || card.architecture < 80", "element_bytes == 8")
    yield Mutant(
        *group, "element_bytes == 8 || card.architecture < 80", "element_bytes == 8 || card.architecture <= 80"
    )
    group = ("plan/plan.cpp", "plan/plan.cpp", "test_kept.py", "takes_the_precision or taken_at")
    yield Mutant(*group, "if (this_cost < best_cost) best", "if (this_cost <= best_cost) best")
    group = ("plan/constants.cpp", *("plan/constants.cpp", "test_plan.py", "constants"))
    yield Mutant(*group, "next.architecture <= architecture", "next.architecture < architecture")
    yield Mutant(*group, "next.architecture <= architecture", "next.architecture == architecture")


def tiles() -> Iterator[Mutant]:
    """Return mutants of how a layered product runs."""
    group = ("plan/product.cpp", "plan/product.cpp", "test_layered_branch.py", "tiles")
    yield Mutant(*group, "std::max(blocks * issue, rounds * (issue + step.exposed_latency))", "issue")
    yield Mutant(*group, "ceil_div(columns, step.columns)", "ceil_div(columns, 64)")
    yield Mutant(*group, "if (cost < least) best = plan, least = cost;", "best = plan, least = cost;")
    group = (*group[:2], "test_layered_product.py", "test_forward_and_series and dtype0")
    yield Mutant(*group, "shape.kernel * shape.kernel * columns : columns;", "columns : columns;")
    yield Mutant(*group, "plan.gathered() ? plan.splits * shape.rows *", "plan.gathered() ? shape.rows *")
    yield Mutant(*group, "    if (plan.gathered()) plan.gather = model.gather(plan);\n")
    bound = "std::max(kFreeSumsBytes, model.widest_bytes())"
    yield Mutant(*group[:2], "test_one_product.py", "sums_take", bound, "INFINITY")


def shared_memory() -> Iterator[Mutant]:
    """Return mutants of how much shared memory a kernel may have."""
    norm = (
        "device/device.cuh",
        "norms/spectral_norm.cu",
        "test_spectral_norm.py",
        "(test_matches or out_of_shared) and dtype0 and not -0]",
    )
    yield Mutant(*norm, "card.shared_per_block - static_bytes", "card.shared_per_block")
    walk = (
        "resident/chain_double.cu",
        "test_kept.py",
        "test_step_matches and (terms or stages or images) and h100 and dtype1",
    )
    yield Mutant("device/device.cuh", *walk, "card.shared_per_block - static_bytes", "48 * 1024")
    yield Mutant(
        "resident/chain.cuh",
        *walk,
        "allow_shared(resident_chain_kernel<Tiles>, context.card)",
        'allow_shared(resident_chain_kernel<Tiles>, Card{"", 0, 0, plan.shared_bytes})',
    )
