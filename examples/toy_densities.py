"""The eight two-dimensional densities: log-likelihood with the kernels and with plain torch after equal steps.

    python examples/toy_densities.py                       # all eight sets with both backends
    python examples/toy_densities.py --backend kernels     # one of the two; the other's results stay

Both backends train the preset "toy", 16 blocks 128 wide, from the same seed on the same batches of 500 points. In two
dimensions the log-determinants are exact. Writes docs/results/toy_densities.{json,md,png}.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import _common
import numpy as np
import torch
from matplotlib import pyplot as plt
from torch import Tensor

from iresnet_fast import _library, data, training

SETS = ("swissroll", "circles", "rings", "moons", "8gaussians", "pinwheel", "2spirals", "checkerboard")
BACKENDS = ("kernels", "reference")
SIDE = 4.2  # of the pictures, from the middle


def main() -> None:
    """Train, evaluate, write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--backend", choices=BACKENDS, help="train with this one only, and keep the other's results")
    parser.add_argument("--steps", type=int, default=600, help="of each run (default: %(default)d)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    options = parser.parse_args()
    settings = {"steps": options.steps, "sets": options.sets, "seed": options.seed, "quick": options.quick}
    results = _common.earlier(parser, options.out / "toy_densities.json", settings, options.backend is not None)
    for backend in [options.backend] if options.backend else BACKENDS:
        with _library.use_backend(backend):
            found, pictures = {}, {}
            for name in options.sets:
                _common.start(options)
                found[name], pictures[name] = train(name, options, backend)
        results["runs"][backend] = {"machine": _common.machine(backend), "sets": found}
        _common.write(options.out, "toy_densities", results, text(results))
        if backend == "kernels" or "kernels" not in results["runs"]:
            draw(pictures, options.out)


def train(name: str, options: Namespace, backend: str) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Train one model; return its figures, and test points [n, 2] and densities [m, m] for the picture."""
    dataset, changes, m = data.load(name), {}, 160
    if options.quick:
        dataset, changes, m = _common.shortened(dataset, 500), {"blocks": (2,), "hidden": (8, 8)}, 20
    model, config = training.recipe(dataset, changes=changes)
    steps = 5 if options.quick else options.steps
    config = config.replace(max_minutes=None, max_steps=steps, seed=options.seed)
    folder = _common.fresh_folder(options.runs, f"toy_densities-{name}-{backend}")
    run = training.fit(model, dataset, config, folder=folder)
    at = torch.linspace(-SIDE, SIDE, m)
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).flatten(0, 1)
    with torch.no_grad():
        density = torch.cat([run.best.log_prob(part) for part in grid.split(5000)]).exp().view(m, m)
    figures = {
        "nats": run.evaluation.metrics["nats"],
        "standard_error": run.evaluation.standard_errors["nats"],
        "test_points": run.evaluation.n,
        "steps": run.step,
        "seconds": 60.0 * run.minutes,
        "mass_in_picture": float(density.sum()) * float(at[1] - at[0]) ** 2,
    }
    return figures, (dataset.test, density)


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    runs = results["runs"]
    header = ["set"]
    for backend in runs:
        header += [f"{backend}: log-likelihood, nats", "seconds"]
    rows = []
    for name in results["settings"]["sets"]:
        row = [name]
        for run in runs.values():
            one = run["sets"][name]
            row += [f"{-one['nats']:.3f} +- {one['standard_error']:.3f}", f"{one['seconds']:.1f}"]
        rows.append(row)
    seconds = {backend: sum(one["seconds"] for one in run["sets"].values()) for backend, run in runs.items()}
    one = next(iter(next(iter(runs.values()))["sets"].values()))
    notes = [f"{one['steps']} steps of 500 points, mean over {one['test_points']} test points, larger is better."]
    if len(runs) == 2:
        kernels, reference = seconds["kernels"], seconds["reference"]
        notes += [
            f"All: {kernels:.0f} s with the kernels, {reference:.0f} s with the reference, {reference / kernels:.2f}x."
        ]
    notes += [f"{backend}: {run['machine']}." for backend, run in runs.items()]
    drawn = "![Test points, and the density of the model](toy_densities.png)"
    return _common.page("Two-dimensional densities", _common.table(header, rows), *notes, drawn)


def draw(pictures: dict[str, tuple[Tensor, Tensor]], out: Path) -> None:
    """Write the picture: the points of every set above the density of its model."""
    figure, grid = plt.subplots(2, len(pictures), figsize=(1.6 * len(pictures), 3.4), squeeze=False)
    limits = [-SIDE, SIDE]
    for (above, below), (name, (points, density)) in zip(grid.T, pictures.items(), strict=True):
        above.hist2d(*points.T.numpy(), bins=100, range=[limits, limits], cmap="inferno")
        below.imshow(np.asarray(density), extent=limits * 2, origin="lower", cmap="inferno")
        above.set(title=name, aspect="equal")
        for axes in (above, below):
            axes.set(xticks=[], yticks=[])
    _common.save(figure, out, "toy_densities")


if __name__ == "__main__":
    main()
