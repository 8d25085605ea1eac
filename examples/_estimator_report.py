"""The tables of the noise of estimators, from its JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import _common
from _estimator_noise import FIXED

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- variance-table:begin -->", "<!-- variance-table:end -->"
# A row of z beyond it is no chance: there are some hundred of them, and squares of t have long tails.
_MOST_Z = 5.0
_NOTES = (
    "An estimate takes all probes of its row. Standard deviation: of log p(x) over independent draws, root mean square "
    "over the samples; the noise of dequantisation is the same in all. Variance /: by what that of one plain "
    "Rademacher probe is divided. Seconds: all samples in one batch, float32, medians of interleaved runs; cost: "
    "their ratio to those of a plain probe; gain: variance / over cost, how many times cheaper than plain probes for "
    "the same error. z: means of draws minus the exact log-density and the exact bias of the truncation, as two "
    "numbers that are standard normal if they agree: their sum, for a common error, and that of their squares. "
    "auto: what the package chooses. Std 0: as many orthogonal probes as dimensions are a basis, exact to rounding.",
    "Orthogonal: columns of Q of a Gaussian matrix, times sqrt(d). Hutch++ (arXiv 2010.09649): on the whole series as "
    "one matrix function; half of the probes are an orthonormal basis of J' S, S of signs, J'^2 S and J'^3 S where one "
    "and two terms are exact, and half are for the trace of the rest. Its blocks are called one by one, not together "
    "as the others'. Gradients: of the mean negative log-density of one batch by all parameters, with the estimator "
    "that training takes (ten terms where it takes the determinant); root mean square of |g - mean g| over |mean g|. "
    "A step is the gradient and Adam.",
)


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    parts = []
    for name, run in results["runs"].items():
        parts += [f"## {name[0].upper()}{name[1:]}", _about(run), _noise_table(run), _gradient_table(run)]
    drawn = "![Standard deviation of the log-density against seconds](estimator_variance.png)"
    return _common.page("Noise of estimated log-densities", short_table(results), drawn, *_NOTES, *parts)


def short_table(results: dict[str, Any]) -> str:
    """Return what one Rademacher probe does with 0, 1 and 2 exact terms, a row for each model."""
    header = ["model", "branch", "std of log p, nats: 0 exact terms", "1", "2"]
    header += [f"{what} ({n})" for n in (1, 2) for what in ("variance /", "cost")]
    rows = []
    for name, run in results["runs"].items():
        found = [row_of(run, n) for n in (0, 1, 2)]
        cells = [name, run["branch"], *(f"{row['std_nats']:.3g}" for row in found)]
        for row in found[1:]:
            cells += [_rounded(row["variance_ratio"]), f"{row['cost']:.2f}x"]
        rows.append(cells)
    return _common.table(header, rows)


def row_of(run: dict[str, Any], exact_terms: Any, probes: str = "Rademacher") -> dict[str, Any]:
    """Return the row of a kind of probe with so many exact terms."""
    rows: list[dict[str, Any]] = run["rows"]
    return next(row for row in rows if row["probes"] == probes and row["exact_terms"] == exact_terms)


def readme_block(results: dict[str, Any]) -> str:
    """Return what README says between the markers."""
    machines = "; ".join(dict.fromkeys(run["machine"] for run in results["runs"].values()))
    return f"{short_table(results)}\n\nMeasured on {machines}."


def write_readme(results: dict[str, Any], readme: Path = ROOT / "README.md") -> None:
    """Put the short table between the markers of README."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from text_table import put_between

    put_between(readme, BEGIN, END, readme_block(results))


def _rounded(number: float) -> str:
    if number < 0.95:
        return f"{number:.2g}"
    return f"{number:.1f}" if number < 9.95 else f"{number:.0f}" if number < 1e6 else f"{number:.0e}"


def _about(run: dict[str, Any]) -> str:
    metrics = ", ".join(f"{value:.3f} {name.replace('_per_', '/')}" for name, value in run["metrics"].items())
    n_off = sum(max(abs(row["z_mean"]), row["z_square"]) > _MOST_Z for row in run["rows"])
    verdict = f"{n_off} of {len(run['rows'])} means disagree" if n_off else "all means agree"
    return (
        f"{run['blocks']} blocks, {run['branch']}, on {run['data']} (d = {run['n_dims']}), trained for {run['steps']} "
        f"steps, {run['minutes']:.2f} minutes: {metrics}. {run['samples']} test samples, {run['draws']} draws. The "
        f"truncation is worth {run['bias_nats']:+.1e} nats ({run['bias_nats_most']:.1e} at most); apart from it "
        f"**{verdict}** with the exact log-density. {run['machine']}, seed {run['train_config']['seed']}."
    )


def _noise_table(run: dict[str, Any]) -> str:
    header = [
        "probes",
        "exact terms",
        "std, nats",
        "bits/dim",
        "variance /",
        "seconds",
        "cost",
        "gain",
        "z",
        "z squared",
    ]
    rows = []
    for row in run["rows"]:
        fixed = row["std_nats"] < FIXED
        noise = ["0", "0", "-"] if fixed else [f"{row['std_nats']:.3g}", f"{row['std_bits']:.2g}"]
        rows.append(
            [
                row["probes"],
                str(row["exact_terms"]),
                *noise,
                *([] if fixed else [_rounded(row["variance_ratio"])]),
                f"{row['seconds']:.3g}",
                f"{row['cost']:.2f}",
                "-" if fixed else _rounded(row["gain"]),
                *(["-", "-"] if fixed else [f"{row['z_mean']:+.1f}", f"{row['z_square']:+.1f}"]),
            ]
        )
    return _common.table(header, rows)


def _gradient_table(run: dict[str, Any]) -> str:
    header = [f"exact terms in training, batches of {run['batch']}", "std of the gradient", "ms a step", "cost"]
    rows = [
        [
            str(row["exact_terms"]),
            f"{100.0 * row['relative_std']:.3g} %",
            f"{1e3 * row['step_seconds']:.3g}",
            f"{row['step_cost']:.3f}",
        ]
        for row in run["gradient"]
    ]
    return _common.table(header, rows)
