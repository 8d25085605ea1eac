"""Residual flows as proposals of Metropolis-Hastings: what noise in log q costs, and what exact terms save.

    python examples/mcmc_proposal.py             # a few minutes on two cores
    python examples/mcmc_proposal.py --quick     # seconds, to see that it works; pass --out too

A chain accepts a proposal x' drawn from q with probability min(1, w(x') / w(x)), w = target / q. If log q carries an
error e, unbiased as it may be, the chain samples target * E[exp(-e)] instead, about target * exp(var(e) / 2): where the
noise depends on x the moments are off, and where it is large the chain sticks to samples that it made look rare. Two
targets with known moments; proposals from a flow with 0, 1 and 2 exact terms at equal probes, and with its exact
log-determinant, from a Gaussian fitted to the same samples, and from torchflows' i-ResNet if that is installed. Writes
docs/results/mcmc_proposal.{json,md,png}.
"""

from __future__ import annotations

import itertools
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import _common
import _mcmc
import _proposals
from _targets import TARGETS, Target
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from iresnet_fast.estimators import Exact, PowerSeries

PROBES, EXACT_TERMS = (1, 4, 16), (0, 1, 2)
MISSING = "torchflows is not installed, so that its i-ResNet is left out; `pip install torchflows` brings it."
COLOURS = ("#D55E00", "#009E73", "#0072B2")


def main() -> None:
    """Fit, run chains, write."""
    parser = _common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=600, help="of training (default: %(default)d)")
    parser.add_argument("--blocks", type=int, default=8, help="of the flow (default: %(default)d)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the training runs (default: runs)")
    options = parser.parse_args()
    options.chains, options.length, options.fitted = 40, 1000, 20_000
    if options.quick:
        options.chains, options.length, options.fitted, options.steps, options.blocks = 4, 100, 500, 3, 2
    _common.start(options)
    found = {name: compared(name, target, options) for name, target in TARGETS.items()}
    names = ("steps", "blocks", "chains", "length", "fitted", "seed", "quick")
    settings = {name: getattr(options, name) for name in names}
    package = _proposals.torchflows_version()
    results = {"settings": settings, "machine": _common.machine(), "torchflows": package, "targets": found}
    _common.write(options.out, "mcmc_proposal", results, text(results))
    _common.save(picture(found), options.out, "mcmc_proposal")


def compared(name: str, target: Target, options: Namespace) -> dict[str, Any]:
    """Return the figures of all proposals for one target."""
    n = options.chains * options.length
    samples, more = target.draw(options.fitted), target.draw(n)
    flow, seconds = _proposals.fitted_flow(name, samples, more[:2000], options)
    exact = _proposals.of_flow(flow, Exact())
    proposals = _proposals.drawn(exact, n)
    truth = [_proposals.log_density(exact, x) for x in (proposals[0], more)]
    rows = [{"proposal": "flow", "exact": "all", **run(target, exact, proposals, options)}]
    for terms, probes in itertools.product(EXACT_TERMS, PROBES):
        noisy = _proposals.of_flow(flow, PowerSeries(_proposals.TERMS, probes, exact_terms=terms))
        row = {"proposal": "flow", "exact": terms, "probes": probes, **run(target, noisy, proposals, options)}
        pairs = zip((proposals[0], more), truth, strict=True)
        at_q, at_target = (_proposals.log_density(noisy, x) - log_q for x, log_q in pairs)
        shift, errors = _mcmc.shift_by_noise(target.functions(more), at_target)
        rows.append({**row, "noise": float(at_q.std()), "shift": shift.tolist(), "shift_errors": errors.tolist()})
    other = _proposals.gaussian(samples)
    rows.append({"proposal": "Gaussian", **run(target, other, _proposals.drawn(other, n), options)})
    if _proposals.torchflows_version():
        other = _proposals.torchflows_iresnet(samples, seconds, options)
        row = {"proposal": "torchflows", "fitted_in": other.seconds, "note": other.note}
        rows.append({**row, **run(target, other, _proposals.drawn(other, -(-n // 16)), options)})
    return {"truths": target.truths, "fitted_in": seconds, "rows": rows}


def run(
    target: Target, proposal: _proposals.Proposal, proposals: tuple[Tensor, float], options: Namespace
) -> dict[str, Any]:
    """Return the figures of chains; few proposals are shared by fewer chains, which stay a quarter as long at least."""
    chains = min(options.chains, 4 * len(proposals[0]) // options.length)
    return _mcmc.chained(target, proposals, partial(_proposals.log_density, proposal), chains, options.seed)


def text(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    parts, settings = [], results["settings"]
    for name, found in results["targets"].items():
        moment, truth = list(found["truths"].items())[-1]
        header = f"proposal|exact terms|probes|noise|accepted|ESS/1000|ESS/s|error of E {moment}|by the noise"
        rows = []
        for one in found["rows"]:
            row = [one["proposal"], str(one.get("exact", "")), str(one.get("probes", ""))]
            row.append(f"{one['noise']:.2f}" if "noise" in one else "")
            row += [f"{one['acceptance']:.3f}", f"{1000 * one['effective']:.3g}", f"{one['per_second']:.3g}"]
            row.append(f"{one['means'][-1] - truth:+.3f} +- {one['standard_errors'][-1]:.3f}")
            shift = f"{one['shift'][-1]:+.3f} +- {one['shift_errors'][-1]:.3f}" if "shift" in one else ""
            rows.append([*row, shift])
        parts += [f"## {name}", _common.table(header.split("|"), rows)]
        notes = [f"torchflows: {one['note']}." for one in found["rows"] if "note" in one]
        parts.append(" ".join([f"Fitted in {found['fitted_in']:.0f} s, which is in no other figure.", *notes]))
    package = f"torchflows {results['torchflows']}." if results["torchflows"] else MISSING
    note = (
        f"{settings['chains']} chains of {settings['length']} proposals (torchflows: a sixteenth of these), "
        f"{settings['fitted']} samples to fit to, {_proposals.TERMS} terms. Noise: standard deviation of log q. "
        "ESS: the smallest effective sample size of the moments, of 1000 proposals, and of a second that draws, weighs "
        "and decides. Errors stand beside their standard errors; the last column is what the noise alone makes, "
        "from independent samples of the target with the weights exp(-e). An ESS counts only where a chain has been: "
        f"beside an error of many standard errors it means nothing. {package} {results['machine']}."
    )
    drawn = "![Effective samples per second against probes](mcmc_proposal.png)"
    return _common.page("A residual flow as a proposal", *parts, note, drawn)


def picture(found: dict[str, Any]) -> Figure:
    """Return effective samples per second against probes."""
    figure, grid = plt.subplots(1, len(found), figsize=(5.0 * len(found), 4.0))
    for axes, (name, one) in zip(grid, found.items(), strict=True):
        for terms, colour in zip(EXACT_TERMS, COLOURS, strict=True):
            rows = [row for row in one["rows"] if row.get("exact") == terms]
            axes.loglog(PROBES, [row["per_second"] for row in rows], "o-", color=colour, label=f"{terms} exact terms")
        for row, style in zip((row for row in one["rows"] if "probes" not in row), ("-", "--", ":"), strict=False):
            label = "all exact" if row["proposal"] == "flow" else row["proposal"]
            axes.axhline(row["per_second"], color="black", linestyle=style, linewidth=0.8, label=label)
        axes.set(title=name, xlabel="probes")
        axes.set_xticks(PROBES, PROBES)
        axes.set_xticks([], minor=True)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel("effective samples per second")
    grid[0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
