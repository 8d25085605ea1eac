"""The branches people build: ours against its plain-torch twin and against the explicit formula, each row by itself.

    python benchmarks/bench_branches.py              all rows, under six minutes on two cores
    python benchmarks/bench_branches.py --quick      three rows, under 30 seconds
    python benchmarks/bench_branches.py --rows context,maxmin

Prints a table, says which targets were missed, and writes JSON and the table; benchmarks/README.md says what is timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

try:
    import torch
    from branch_cases import CASES, SMALL, BranchCase, BranchProblem, build, multiply_adds
    from branch_forms import blocks_of, by_hand, residual_logdet_by_hand
    from machine import Record, environment
    from report import write_results
    from report_branches import report
    from timing import interleave, medians, trial
    from torch import Tensor
except ModuleNotFoundError as error:
    sys.exit(f"bench_branches: the module {error.name} is missing; run `make bench`, which installs all it needs.")

from iresnet_fast import ops, reference

RESULTS = Path(__file__).parent / "results"
MODES = ("eval", "train")
QUICK = ("context 16", "10 nodes", "maxmin 5")
SECONDS, QUICK_SECONDS = 3.0, 0.5
ROUNDS = 5
# Largest relative error against float64. What another formula gives is off by percents; float32 sums of a few thousand
# products, here over ten terms, by their rounding, about 1e-6.
AGREE = 1e-4

Forward = Callable[[], tuple[Tensor, Tensor]]
Step = Callable[[], tuple[Tensor, ...]]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(
        description="Time residual blocks of every kind of branch, ours against plain PyTorch.",
        epilog="Exit status 0 says that everything ran and agreed, not that the targets were met: the table says that.",
    )
    parser.add_argument("--quick", action="store_true", help="three rows, under 30 seconds")
    parser.add_argument("--rows", help="only those whose name contains one of these, comma-separated")
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--seconds", type=float, help="time for the rounds of one row and mode")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error(f"threads must be positive, got {options.threads}")
    names = QUICK if options.quick else tuple(CASES)
    wanted = [""] if options.rows is None else options.rows.split(",")
    options.names = [name for name in names if any(part in name for part in wanted)]
    if not options.names:
        parser.error(f"no row has {options.rows!r} in its name; the rows are {', '.join(names)}")
    options.published = not (options.quick or options.rows or options.threads)
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else SECONDS
    return options


def forwards(problem: BranchProblem) -> dict[str, tuple[Forward, list[Tensor]]]:
    """Return every implementation that serves a problem: its forward pass, and the tensors of its gradients."""
    arguments = (problem.x, problem.weights, problem.biases, problem.activations, problem.probe, problem.coefficients)
    options = {"parameters": problem.parameters, "factors": problem.factors}
    twin = partial(reference.residual_logdet, gradient="neumann")
    found = {
        name: (partial(function, *arguments, **options), problem.leaves)
        for name, function in (("ours", ops.residual_logdet), ("twin", twin))
    }
    if not {"maxmin", "clipswish"} & set(problem.activations):
        found["explicit"] = partial(reference.residual_logdet_explicit, *arguments, **options), problem.leaves
    if "explicit" not in found or problem.nodes is not None:
        stages, tensors = by_hand(problem)
        signs = [float((-1) ** k) for k in range(len(problem.coefficients))]
        forward = partial(residual_logdet_by_hand, problem.x, problem.probe.unsqueeze(0), signs, stages, tensors)
        leaves = [problem.x, *(t for t in tensors if t is not None and t.requires_grad)]
        found["by hand"] = forward, leaves
    return found


def steps_of(problem: BranchProblem, mode: str) -> dict[str, Step]:
    """Return one evaluation without gradient, (z, logdet), or one training step, the gradients, of each implementation.

    A training step is the forward pass and the gradient of <grad_z, z> + <grad_logdet, logdet>.
    """

    def step(forward: Forward, leaves: list[Tensor]) -> Step:
        if mode == "eval":
            return torch.no_grad()(forward)
        return lambda: torch.autograd.grad(forward(), leaves, (problem.grad_z, problem.grad_logdet))

    return {name: step(*found) for name, found in forwards(problem).items()}


def errors(problem: BranchProblem, mode: str) -> dict[str, float]:
    """Return the largest relative error of a tensor of each implementation against the twin in float64.

    Raises:
        ValueError: one does not do the same job.
    """
    truth = steps_of(problem.to(dtype=torch.float64), mode)["twin"]()
    found = {}
    for name, step in steps_of(problem, mode).items():
        expected = truth
        if name == "by hand" and mode == "train" and problem.nodes is not None:
            nodes, width = problem.nodes, problem.nodes * problem.nodes
            expected = tuple(blocks_of(t, nodes) if t.shape == (nodes, width) else t for t in truth)
        pairs = list(zip(step(), expected, strict=True))
        found[name] = max(((t.double() - e).norm() / e.norm()).item() for t, e in pairs)
        if not found[name] <= AGREE:
            raise ValueError(
                f"{name} must agree with the twin in float64 to {AGREE:g}, got {found[name]:.1e} in {mode}"
            )
    return found


def measure(case: BranchCase, mode: str, seconds: float) -> Record:
    """Return the record of a row and mode: medians in milliseconds of interleaved calls."""
    problem = build(case)
    agreement = errors(problem, mode)
    steps: dict[str, Step] = {}
    channels_last = []
    for form in (torch.contiguous_format, torch.channels_last) if problem.x.dim() == 4 else (torch.contiguous_format,):
        for name, step in steps_of(problem.to(memory_format=form), mode).items():
            if name not in steps:
                steps[name] = step
            elif name != "ours" and trial(step)[1] < trial(steps[name])[1]:
                steps[name] = step
                channels_last.append(name)
    for step in steps.values():
        trial(step)
    times = {name: 1e3 * value for name, value in medians(interleave(steps, seconds, ROUNDS)).items()}
    work = multiply_adds(problem)
    return {
        "row": case.name,
        "group": case.group,
        "branch": case.label,
        "batch": case.batch,
        "mode": mode,
        "multiply_adds": work,
        "small": work <= SMALL,
        "ours_ms": times.pop("ours"),
        "baselines": times,
        "channels_last": channels_last,
        "errors": agreement,
        **environment(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    records = []
    for name in options.names:
        print(f"bench_branches: {name}", file=sys.stderr, flush=True)
        try:
            records += [measure(CASES[name], mode, options.seconds) for mode in MODES]
        except ValueError as error:
            sys.exit(f"bench_branches: {name}: {error}")
    text = report(records)
    print(text)
    stem = options.output / f"bench_branches{'' if options.published else '_quick'}"
    write_results(records, text, stem)


if __name__ == "__main__":
    main()
