"""The printed tables and the JSON file; as a program, README's tables between markers.

python benchmarks/report.py --gpu         what was measured on GPUs, from benchmarks/results/<card>/*.jsonl
python benchmarks/report.py --branches    the branches people build, from benchmarks/results/bench_branches.json
python benchmarks/report.py --kinds       which branches and activations run on the kernels, from the code
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import report_branches
import report_gpu
from baselines import COMPILED, OURS, TITLES
from cases import CASES
from machine import Record, setting
from text_table import put_between, table

from iresnet_fast.nn import _kinds

KINDS = "<!-- kinds:begin -->", "<!-- kinds:end -->"
_NONE = "-"
_WIDTH = 140  # columns of text, about as wide as the tables
_NOTES = (
    "An asterisk: channels-last, where faster; (i), (ii), (iii) are tried in both formats, (iii) compiled in that of "
    "(iii). Without gradient (i) and (ii) are one computation. normflows: its block on our weights with n terms; in "
    "eval only its estimator, as the block would take 20 terms and a random number more. error: |log-det - exact| in "
    "nats per dimension, noise of the probe included; rounding: against float64 with the same probe and terms; "
    "gradient: largest relative error of a tensor. More in benchmarks/README.md."
)


def best_baseline(record: Record) -> tuple[str, float]:
    """Return the fastest baseline and its milliseconds."""
    baselines: dict[str, float] = record["baselines"]
    name = min(baselines, key=baselines.__getitem__)
    return name, baselines[name]


def floors(record: Record) -> dict[str, float | None]:
    """Return the floors of a record: of the ratio to (i), to the best baseline, and of the share of the sgemm peak.

    They hold for the case's own number of terms, else there are none.
    """
    case = CASES[record["case"]]
    if record["terms"] != case.terms:
        return {"series": None, "best": None, "share": None}
    if record["mode"] == "eval":
        return {"series": case.floors.eval_series, "best": None, "share": case.floors.eval_share}
    return {"series": case.floors.train_series, "best": case.floors.train_best, "share": None}


def verdict(value: float, floor: float | None, text: str) -> str:
    """Return the value's text with its floor and whether it is met."""
    if floor is None:
        return text
    bound = f"{floor:.0%}" if text.endswith("%") else f"{floor:g}x"
    return f"{text} (>= {bound}: {'met' if value >= floor else 'MISSED'})"


def tables(records: Sequence[Record]) -> str:
    """Return all results as Markdown tables, which read well on a terminal too."""
    return "\n\n".join([setting(records), _times(records), _ratios(records), _costs(records), _notes(records)])


def summary(records: Sequence[Record]) -> tuple[str, str]:
    """Return the setting and the short table that the project's README quotes."""
    rows = []
    for case in dict.fromkeys(record["case"] for record in records):
        evaluation, training = (
            next(r for r in records if r["case"] == case and r["mode"] == mode) for mode in ("eval", "train")
        )
        name, best = best_baseline(training)
        rows.append(
            [
                case,
                CASES[case].label,
                _milliseconds(evaluation["ours_ms"]),
                f"{evaluation['baselines']['series'] / evaluation['ours_ms']:.1f}x",
                f"{evaluation['gflops'] / evaluation['sgemm_peak_gflops']:.0%}",
                _milliseconds(training["ours_ms"]),
                f"{training['baselines']['series'] / training['ours_ms']:.1f}x",
                f"{best / training['ours_ms']:.2f}x ({TITLES[name]})",
            ]
        )
    header = ["case", "branch", "eval ms", "vs (i)", "of sgemm", "train ms", "vs (i)", "vs the best baseline"]
    return setting(records), table(header, rows)


def _times(records: Sequence[Record]) -> str:
    columns = [name for name in TITLES if name == OURS or any(name in r["baselines"] for r in records)]
    rows = []
    for record in records:
        times = {OURS: record["ours_ms"], **record["baselines"]}
        cells = [_milliseconds(times.get(name)) + "*" * (name in record["channels_last"]) for name in columns]
        rows.append([record["case"], record["mode"], str(record["batch"]), str(record["terms"]), *cells])
    header = ["median ms", "mode", "batch", "terms", *(TITLES[name] for name in columns)]
    return table(header, rows)


def _ratios(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        ours, floor = record["ours_ms"], floors(record)
        series, (name, best) = record["baselines"]["series"] / ours, best_baseline(record)
        share = record["gflops"] / record["sgemm_peak_gflops"]
        rows.append(
            [
                record["case"],
                record["mode"],
                verdict(series, floor["series"], f"{series:.2f}x"),
                verdict(best / ours, floor["best"], f"{best / ours:.2f}x"),
                TITLES[name],
                f"{record['gflops']:.0f}",
                verdict(share, floor["share"], f"{share:.0%}"),
            ]
        )
    return table(["speed-up", "mode", "vs (i)", "vs best", "best is", "GFLOP/s", "of sgemm"], rows)


def _costs(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        train, others = record["mode"] == "train", record["baselines_peak_mib"]
        peaks = (record["peak_mib"], others["series"], others["explicit"])
        rows.append(
            [
                record["case"],
                record["mode"],
                *(_mebibytes(peak) for peak in peaks),
                *(f"{record[key]:.1e}" for key in ("error", "baseline_error")),
                *(f"{record[key]:.1e}" for key in ("rounding_error", "baseline_rounding_error")),
                *(f"{record[key]:.1e}" if train else _NONE for key in ("gradient_error", "baseline_gradient_error")),
            ]
        )  # fmt: skip
    header = ["memory, error", "mode", "peak MiB", "(i) MiB", "(iii) MiB", "error", "(i)", "rounding", "(i)"]
    return table([*header, "gradient", "(ii)"], rows)


def _notes(records: Sequence[Record]) -> str:
    notes = [_NOTES]
    series = [r["case"] for r in records if r["mode"] == "eval" and r["exact"].startswith("series")]
    if series:
        notes.append(
            f"Too large for a Jacobian, exact is a long float64 series with the same probe: {', '.join(series)}."
        )
    compilations = [f"{r['case']} {r['mode']} {r['compile_seconds']:.0f} s" for r in records if r["compile_seconds"]]
    if compilations:
        notes.append(f"{TITLES[COMPILED]}: compilation took {', '.join(compilations)}, not counted.")
    return "\n".join(textwrap.fill(note, _WIDTH) for note in notes)


def _milliseconds(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _mebibytes(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def write_json(records: Sequence[Record], path: Path) -> None:
    """Write one record per case and mode."""
    path.write_text(json.dumps(list(records), indent=1) + "\n")


def write_results(records: Sequence[Record], text: str, stem: Path) -> None:
    """Write records and their tables as stem.json and stem.md, in a new folder if need be, and print where."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    write_json(records, stem.with_suffix(".json"))
    stem.with_suffix(".md").write_text(text + "\n")
    print(f"\nWritten: {stem}.json, {stem}.md")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write one of README's tables."""
    root = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description="Make README's tables from the committed results.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--gpu", action="store_true", help="the table of what was measured on GPUs")
    which.add_argument("--branches", action="store_true", help="the table of the branches people build")
    which.add_argument("--kinds", action="store_true", help="which branches run on the kernels")
    parser.add_argument("--readme", type=Path, default=root / "README.md", help="file with the markers")
    parser.add_argument("--results", type=Path, default=root / "benchmarks/results", help="folder of the results")
    options = parser.parse_args(arguments)
    try:
        if options.kinds:
            put_between(options.readme, *KINDS, _kinds.markdown())
            print(f"{options.readme}: the table of kinds was written.")
            return
        write_readme = report_gpu.write_readme if options.gpu else report_branches.write_readme
        count = write_readme(options.readme, options.results)
    except (OSError, ValueError) as error:
        sys.exit(f"report: {error}")
    print(f"{options.readme}: the table of {count} records was written.")


if __name__ == "__main__":
    main()
