"""The noise of an estimated log-density against what it takes, by probes and exact first terms of the series.

    python examples/estimator_variance.py --data-root DIR       # all models; DIR holds the files of MNIST
    python examples/estimator_variance.py --models toy digits   # some of them; the others' results stay

Trains a model of each kind for a short time, then measures for some test samples and 20 terms of the series the
standard deviation of log p(x) over independent draws, its mean against the exact log-density, and seconds. Writes
docs/results/estimator_variance.{json,md,png}, and the short table of README if that is where the results go.
"""

from __future__ import annotations

from pathlib import Path

import _common
import _estimator_picture
import _estimator_report
import torch
from _estimator_models import CASES, train
from _estimator_noise import gradient_noise, noise


def main() -> None:
    """Train, measure, write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=CASES, help="measure these only, and keep the others' results")
    parser.add_argument("--minutes", type=float, help="of training, for each (default: 1/4 for vectors, 2 for images)")
    parser.add_argument("--data-root", help="folder of the files of MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    options = parser.parse_args()
    settings = {"minutes": options.minutes, "seed": options.seed, "quick": options.quick}
    file = options.out / "estimator_variance.json"
    results = _common.earlier(parser, file, settings, options.models is not None)
    for name in options.models or CASES:
        _common.start(options)
        model, config, dataset, about = train(name, options)
        case, rounds = CASES[name], 1 if options.quick else 7
        n_draws, n_samples = (8, 4) if options.quick else (case.draws, case.samples)
        x, batch = dataset.test[:n_samples], dataset.train[: config.batch_size]
        torch.manual_seed(options.seed)  # after a number of steps that is a matter of the clock
        found = noise(model, x, n_draws, rounds)
        gradient = gradient_noise(model, batch, min(20, n_draws), rounds)
        about |= {"samples": len(x), "draws": n_draws, "batch": len(batch), "machine": _common.machine()}
        runs = {**results["runs"], name: {**about, **found, "gradient": gradient}}
        results["runs"] = {known: runs[known] for known in CASES if known in runs}
        _common.write(options.out, "estimator_variance", results, _estimator_report.text(results))
        _common.save(_estimator_picture.picture(results), options.out, "estimator_variance")
    if options.out == _common.RESULTS:
        _estimator_report.write_readme(results)


if __name__ == "__main__":
    main()
