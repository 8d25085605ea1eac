"""One whole training step of an i-ResNet on MNIST, from uint8 images to updated weights, ours and plain PyTorch.

    python benchmarks/bench_train_step.py             all implementations, some minutes (compilation included)
    python benchmarks/bench_train_step.py --quick     without the compiled one, under 20 s
    python benchmarks/bench_train_step.py --device cuda [--precision float32,tf32,bf16] [--batch 256]

The model is IResNetFlow.preset("mnist", **train_steps.I_RESNET): 1x28x28, logit, squeeze to 4x14x14, 2 scales of 4
blocks, 32 channels, ELU, norms of 0.9, 8 terms, a Rademacher probe, a learned prior; Adam at 4e-2, clipping to norm 1,
batch 32. Glue is the time of our step that its operators do not explain: its median less the medians of the recorded
operators, called again in the same rounds on the same tensors, without what calling them costs (sections.py). Views,
autograd's bookkeeping, dispatch and Python are glue. On a GPU the step is timed as a CUDA graph and eagerly, without
sections. benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

try:
    import gpu_train_step
    import numpy as np
    import torch
    from baselines import COMPILED, OURS
    from cases import patches
    from gpu_train_step import TrainedFlow
    from graphs import LEAST_SECONDS
    from machine import environment
    from plain_flow import POWER_ITERATIONS
    from plot_train_step import draw
    from precision import add_options, check_options
    from report import write_json
    from report_gpu import keep
    from report_train_step import tables
    from sections import BACKWARD, DATA, FORWARD, Recorder, replays, work
    from timing import SGEMM_FLOPS, interleave, medians, sgemm, trial
    from train_steps import BASELINES, I_RESNET, OurFlow, TrainStep, agreeing

    from iresnet_fast import data
    from iresnet_fast.models import IResNetFlow
    from iresnet_fast.nn import Dequantize, InvertibleResidualBlock
except ModuleNotFoundError as error:
    sys.exit(f"bench_train_step: the module {error.name} is missing; run `make bench`, which installs all it needs.")

RESULTS = Path(__file__).parent / "results"
BATCH, INITIAL = 32, 1024
# Seconds for the rounds, least number of rounds, steps of training before anything is compared or timed.
TIME, QUICK_TIME = (60.0, 10, 100), (0.0, 2, 3)
SLICE, QUICK_SLICE = 0.4, 0.0  # seconds: steps of training follow each other, so they are timed that way
_SGEMM = "sgemm"
Record = dict[str, Any]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the checked options."""
    parser = argparse.ArgumentParser(description="Time a whole training step of an i-ResNet on MNIST.")
    parser.add_argument("--quick", action="store_true", help="no compiled baseline, two rounds: under 20 s")
    add_options(parser)
    parser.add_argument("--threads", type=_positive, help="threads of torch (default: torch's own choice)")
    parser.add_argument("--batch", type=_positive, default=BATCH, help=f"images of a step (default: {BATCH})")
    parser.add_argument("--data-root", type=Path, help="folder of the MNIST files; default: patches of photographs")
    parser.add_argument(
        "--power-iterations",
        type=_positive,
        default=POWER_ITERATIONS,
        help="of the baselines at every step (default: 10)",
    )
    parser.add_argument("--seconds", type=float, help="time for the rounds; on a GPU, least time of a reading")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON, Markdown and PNG files")
    options = parser.parse_args(arguments)
    check_options(parser, options)
    # Only the recipe as it is may replace the published figures; on a GPU figures of other batches stand beside them.
    changed = options.quick or options.threads or options.power_iterations != POWER_ITERATIONS
    changed = changed or (options.batch != BATCH and options.device == "cpu")
    options.stem = "bench_train_step_quick" if changed else "bench_train_step"
    seconds, options.rounds, options.warm_up = QUICK_TIME if options.quick else TIME
    options.slice = QUICK_SLICE if options.quick else SLICE
    if options.device == "cuda":
        seconds = LEAST_SECONDS
    if options.seconds is None:
        options.seconds = seconds
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def images_of(root: Path | None) -> tuple[torch.Tensor, str]:
    """Return uint8 images [N, 1, 28, 28] and what they are: MNIST if its folder is known, else photographs."""
    if root is not None:
        return data.load("mnist", root).train, "MNIST"
    events = patches(28, True, 0)(INITIAL, np.random.default_rng(0))  # noisy, in [-0.5, 0.5)
    return torch.from_numpy(np.floor((events + 0.5) * 256.0)).to(torch.uint8), "28x28 patches of two photographs"


def model_of(images: torch.Tensor, options: argparse.Namespace) -> IResNetFlow:
    """Return the preset after some steps of training, as refreshes of norms find it in the middle of a run."""
    torch.manual_seed(0)
    flow = IResNetFlow.preset("mnist", **I_RESNET).to(images.device)
    flow.initialize(images[:INITIAL])
    flow.train()
    step = TrainStep(OurFlow(flow), images, options.batch)
    for _ in range(options.warm_up):
        step()
    return flow


def plain_step(
    flow: IResNetFlow, name: str, images: torch.Tensor, options: argparse.Namespace
) -> tuple[TrainStep, torch.memory_format, tuple[float, float]]:
    """Return the step of a baseline in the memory format in which it is faster, that format, and its errors."""
    candidates = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model, errors = agreeing(
            flow, images[: options.batch], name, memory_format=memory_format, power_iterations=options.power_iterations
        )
        step = TrainStep(model, images, options.batch)
        candidates.append((trial(step)[1], step, memory_format, errors))
    return min(candidates, key=lambda candidate: candidate[0])[1:]


def recorded(flow: IResNetFlow, images: torch.Tensor, batch: int) -> Recorder:
    """Return the operators of one step of a copy of the model."""
    recorder, ours = Recorder(), copy.deepcopy(flow)
    step = TrainStep(OurFlow(ours), images, batch, clip=1e9)  # gradients shrunk at every replay would vanish
    step()
    step.mark = recorder
    with recorder.counting_as(DATA, *(module for module in ours.modules() if isinstance(module, Dequantize))), recorder:
        step()
    return recorder


def branch_flops(flow: IResNetFlow, batch: int) -> tuple[int, int]:
    """Return the operations of the branches' linear maps in a step, forward and backward, as `cases.step_flops`."""
    forward = backward = 0
    for block in flow.modules():
        if isinstance(block, InvertibleResidualBlock):
            size = block.branch.layers[0].image_size
            stages = [2 * layer.weight.numel() * size[0] * size[1] * batch for layer in block.branch.layers]
            forward += (1 + block.estimator.n_terms) * sum(stages)
            backward += 4 * sum(stages) - stages[0]
    return forward, backward


def measure(options: argparse.Namespace, say: Callable[[str], object]) -> Record:
    """Return everything that is known about a step."""
    images, source = images_of(options.data_root)
    flow = model_of(images, options)
    steps, channels_last, errors = {OURS: TrainStep(OurFlow(copy.deepcopy(flow)), images, options.batch)}, [], {}
    trial(steps[OURS])
    for name in BASELINES:
        say(f"checking and warming up {name}")
        steps[name], memory_format, errors[name] = plain_step(flow, name, images, options)
        channels_last += [name] * (memory_format == torch.channels_last)
    compile_seconds = None
    if not options.quick:
        say("compiling")  # in the memory format in which the same code, the last of the baselines, ran faster eagerly
        start = time.perf_counter()
        form = {"memory_format": memory_format, "compiled": True, "power_iterations": options.power_iterations}
        model, errors[COMPILED] = agreeing(flow, images[: options.batch], COMPILED, **form)
        steps[COMPILED] = TrainStep(model, images, options.batch)
        trial(steps[COMPILED])
        compile_seconds = time.perf_counter() - start
        channels_last += [COMPILED] * (memory_format == torch.channels_last)
    for step in steps.values():
        step.clock.seconds.clear()
    say("timing")
    recorder = recorded(flow, images, options.batch)
    again = replays(recorder)
    everything = steps | {f"replay {section}": run for section, run in again.items()} | {_SGEMM: sgemm()}
    times = medians(interleave(everything, options.seconds, options.rounds, options.slice))
    sections = work(recorder, {section: times[f"replay {section}"] for section in again})
    forward, backward = branch_flops(flow, options.batch)
    return {
        "model": "mnist",
        "images": source,
        "batch": options.batch,
        "terms": flow.config.train_estimator.n_terms,
        "power_iterations": options.power_iterations,
        "steps": len(steps[OURS].clock.seconds["forward"]),
        "ours_ms": 1e3 * times[OURS],
        "baselines": {name: 1e3 * times[name] for name in steps if name != OURS},
        "channels_last": channels_last,
        "compile_seconds": compile_seconds,
        "sections_ms": {section: 1e3 * value for section, value in sections.items()},
        "glue_ms": 1e3 * (times[OURS] - sum(sections.values())),
        "operators": len(recorder.calls),
        "phases_ms": {
            name: {phase: 1e3 * value for phase, value in medians(step.clock.seconds).items()}
            for name, step in steps.items()
        },
        "forward_gflops": forward / sections[FORWARD] / 1e9,
        "backward_gflops": backward / sections[BACKWARD] / 1e9,
        "sgemm_peak_gflops": SGEMM_FLOPS / times[_SGEMM] / 1e9,
        "loss_errors": {name: loss for name, (loss, _) in errors.items()},
        "gradient_errors": {name: gradient for name, (_, gradient) in errors.items()},
        **environment(),
    }


def measure_gpu(options: argparse.Namespace, device: str, say: Callable[[str], object]) -> str:
    """Time the step on a GPU (or try to on a CPU), append the records to a file of the card and return the tables."""
    images = images_of(options.data_root)[0].to(device)
    trained = TrainedFlow("mnist flow", model_of(images, options), images)
    selection = (options.batch, options.precision, not options.quick)
    records = gpu_train_step.run(trained, *selection, device, options.seconds, say)
    return keep(records, options.output, options.stem, device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)

    def say(what: str) -> None:
        print(f"bench_train_step: {what}", file=sys.stderr, flush=True)

    try:
        if options.device == "cuda":
            print(measure_gpu(options, "cuda", say))
            return
        record = measure(options, say)
    except data.DataError as error:
        sys.exit(f"bench_train_step: {error}")
    text = tables(record)
    print(text)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / options.stem
    write_json([record], path.with_suffix(".json"))
    path.with_suffix(".md").write_text(f"# One training step of an i-ResNet on MNIST\n\n{text}\n")
    draw(record, path.with_suffix(".png"))
    print(f"\nWritten: {path}.json, .md, .png")


if __name__ == "__main__":
    main()
