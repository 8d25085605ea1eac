"""Where a sender is, given two measured distances: a conditional flow against the exact posterior.

    python examples/conditional_density.py             # under a minute on two cores
    python examples/conditional_density.py --quick     # seconds, to see that it works; pass --out too

A sender stands at x, normal with mean 0 and variance 1 in the plane. Two stations at (-1, 0) and (1, 0) measure its
distance, each with normal noise. The flow learns p(x | both distances) from pairs that the simulator drew: the context
of a point is its two measurements. The stations cannot tell above from below, so that the posterior has two modes at
most contexts. Bayes' rule on a grid gives it exactly, and so the best held-out log-likelihood that there can be. Writes
docs/results/conditional_density.{json,md,png}.
"""

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import _common
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from iresnet_fast import data, training
from iresnet_fast.models import IResNetFlow

STATIONS, NOISE = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 0.3
SIDE = 4.5  # of the grid, from the middle: the prior has 1e-5 of its mass outside
SHOWN = ((1.2, 1.2), (0.6, 2.2), (1.8, 2.4))  # contexts of the picture


def main() -> None:
    """Train, compare, write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=800, help="of training (default: %(default)d)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    options = parser.parse_args()
    _common.start(options)
    dataset = simulate(20_000, 2_000)
    steps, side, changes = options.steps, 121, {"blocks": (8,), "hidden": (64, 64)}
    if options.quick:
        dataset, steps, side, changes = _common.shortened(dataset, 500), 5, 41, {"blocks": (2,), "hidden": (8, 8)}
    model, config = training.recipe(dataset, changes={**changes, "context_hidden": 32})
    config = config.replace(max_minutes=None, max_steps=steps, batch_size=200, learning_rate=3e-3, seed=options.seed)
    run = training.fit(model, dataset, config, folder=_common.fresh_folder(options.runs, "conditional_density"))
    results = {"settings": {"steps": steps, "seed": options.seed, "quick": options.quick}, "machine": _common.machine()}
    results |= compared(run, dataset, side)
    _common.write(options.out, "conditional_density", results, text(results))
    draw(run.best, side, options)


def simulate(n: int, n_test: int) -> data.DataSet:
    """Draw senders, and the distances that the stations measure."""
    x = torch.randn(n + n_test, 2)
    measured = torch.cdist(x, STATIONS) + NOISE * torch.randn(n + n_test, 2)
    parts = {"train_context": measured[:n], "test_context": measured[n:], "context_names": ("left", "right")}
    return data.DataSet("sender", x[:n], x[n:], **parts)


def log_joint(x: Tensor, measured: Tensor) -> Tensor:
    """Return log p(x, measurements) [n, m] for x [n, 2] and measurements [m, 2]."""
    prior = -0.5 * x.square().sum(1) - math.log(2.0 * math.pi)
    error = (measured[None] - torch.cdist(x, STATIONS)[:, None]) / NOISE
    return prior[:, None] + (-0.5 * error.square() - math.log(NOISE * math.sqrt(2.0 * math.pi))).sum(2)


def log_posterior(x: Tensor, measured: Tensor, side: int) -> Tensor:
    """Return log p(x | measurements) [n, m], normalised on the grid."""
    grid, cell = points(side)
    evidence = torch.logsumexp(log_joint(grid, measured), 0) + math.log(cell)
    return log_joint(x, measured) - evidence


def points(side: int) -> tuple[Tensor, float]:
    """Return the points of the grid [side * side, 2], and the area of each."""
    at = torch.linspace(-SIDE, SIDE, side)
    return torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).flatten(0, 1), float(at[1] - at[0]) ** 2


def compared(run: training.Run, dataset: data.DataSet, side: int) -> dict[str, Any]:
    """Return the held-out log-likelihoods of the flow and of the exact posterior, and densities at some contexts."""
    x, measured = dataset.test, dataset.test_context
    parts = zip(x.split(100), measured.split(100), strict=True)
    exact = torch.cat([log_posterior(part, at, side).diagonal() for part, at in parts])
    with torch.no_grad():
        ours = run.best.log_prob(x, measured)
    gap = exact - ours  # its mean estimates the divergence of the flow from the posterior, over contexts
    found, (grid, cell) = [], points(side)
    for context in SHOWN:
        at = torch.tensor(context)
        with torch.no_grad():
            flow = run.best.log_prob(grid, at.expand(len(grid), -1)).exp()
        truth = log_posterior(grid, at[None], side)[:, 0].exp()
        figures = {"mass": float(flow.sum()) * cell, "total_variation": 0.5 * float((flow - truth).abs().sum()) * cell}
        found.append({"context": list(context), **figures})
    return {
        "flow": float(ours.mean()),
        "exact": float(exact.mean()),
        "gap": float(gap.mean()),
        "gap_error": float(gap.std()) / math.sqrt(len(gap)),
        "prior": float(-0.5 * x.square().sum(1).mean() - math.log(2.0 * math.pi)),
        "test_points": len(x),
        "seconds": 60.0 * run.minutes,
        "contexts": found,
    }


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    names = {"prior": "without the measurements", "flow": "flow, given both", "exact": "exact posterior"}
    scores = [[name, f"{results[key]:.3f}"] for key, name in names.items()]
    rows = [
        [", ".join(map(str, one["context"])), f"{one['mass']:.3f}", f"{one['total_variation']:.3f}"]
        for one in results["contexts"]
    ]
    return _common.page(
        "Where a sender is, given two distances",
        _common.table(["density", "log-likelihood, nats"], scores),
        f"Mean over {results['test_points']} senders held out; the flow is {results['gap']:.3f} +- "
        f"{results['gap_error']:.3f} from the best there can be, after {results['settings']['steps']} steps in "
        f"{results['seconds']:.0f} s.",
        _common.table(["measured distances", "mass of the flow", "total variation from the truth"], rows),
        f"{results['machine']}.",
        "![The flow and the exact posterior at three contexts](conditional_density.png)",
    )


def draw(flow: IResNetFlow, side: int, options: Namespace) -> None:
    """Write the picture: the exact posterior above, the flow below."""
    grid, _ = points(side)
    figure, axes = plt.subplots(2, len(SHOWN), figsize=(2.2 * len(SHOWN), 4.6), squeeze=False)
    for (above, below), context in zip(axes.T, SHOWN, strict=True):
        at = torch.tensor(context)
        with torch.no_grad():
            density = flow.log_prob(grid, at.expand(len(grid), -1)).exp()
        pair = (above, log_posterior(grid, at[None], side)[:, 0].exp()), (below, density)
        for one, values in pair:
            one.imshow(values.view(side, side).numpy(), extent=[-SIDE, SIDE] * 2, origin="lower", cmap="inferno")
            one.plot(*STATIONS.T.numpy(), "w^", markersize=4)
            one.set(xticks=[], yticks=[])
        above.set_title(f"distances {context[0]}, {context[1]}", fontsize=9)
    for one, name in zip(axes[:, 0], ("exact posterior", "flow"), strict=True):
        one.set_ylabel(name)
    _common.save(figure, options.out, "conditional_density")


if __name__ == "__main__":
    main()
