"""The tables of what was timed on a GPU: for the terminal, and for the project's README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from baselines import MODES, OURS, TITLES
from gpu_records import EAGER, GRAPH, PLAIN, GpuRecord, card, card_folder, read, write
from text_table import put_between, table

BEGIN, END = "<!-- gpu-table:begin -->", "<!-- gpu-table:end -->"
NOTHING = "Nothing was measured on a GPU yet."
_NONE = "-"
_TITLES = {**TITLES, PLAIN: "plain torch"}
_LEGEND = (
    "Microseconds of a replayed CUDA graph, and how many times faster than the fastest baseline in the same precision, "
    "replayed too; a speed-up in square brackets is within the spread of two passes, an asterisk is channels-last. "
    "A dash: what cannot be captured. Error of ours / of that baseline against float64: eval, of the log-determinant "
    "in nats per dimension; train and step, relative, of the worst gradient; spectral norm, relative; inverse, "
    "Euclidean."
)


@dataclass(frozen=True)
class Line:
    """What was timed together: ours and the baselines of one case, mode and precision on one card."""

    records: Sequence[GpuRecord]

    def best(self, launch: str, ours: bool) -> GpuRecord | None:
        """Return our record, or that of the fastest baseline, launched that way; None if there is no time."""
        found = [
            record
            for record in self.records
            if (record["implementation"] == OURS) is ours and record["launch"] == launch and record["gpu_us"]
        ]
        return min(found, key=lambda record: record["gpu_us"], default=None)

    def speed_up(self, launch: str) -> str:
        """Return how many times faster ours is; in square brackets if that is within the spread."""
        ours, other = self.best(launch, ours=True), self.best(launch, ours=False)
        if ours is None or other is None:
            return _NONE
        ratio = other["gpu_us"] / ours["gpu_us"]
        text = f"{ratio:.2f}x"
        return text if abs(ratio - 1.0) > ours["spread"] + other["spread"] else f"[{text}]"


def lines(records: Iterable[GpuRecord]) -> list[Line]:
    """Return the records by card, case, mode and precision, in the order in which these first appear."""
    groups: dict[tuple[object, ...], list[GpuRecord]] = {}
    for record in records:
        key = (record["card"], record["case"], record["batch"], record["terms"], record["mode"], record["precision"])
        groups.setdefault(key, []).append(record)
    return [Line(group) for group in groups.values()]


def full_table(records: Iterable[GpuRecord]) -> str:
    """Return everything worth reading on a terminal, a line for each card, case, mode and precision."""
    rows = []
    for line in lines(records):
        first, (ours, other) = line.records[0], _pair(line, GRAPH)
        eager, other_eager = _pair(line, EAGER)
        rows.append(
            [
                f"{first['case']} {first['mode']}",
                first["card"],
                first["precision"],
                _us(ours),
                _host(ours),
                _us(eager),
                _host(eager),
                _us(other),
                _name(other),
                line.speed_up(GRAPH),
                _us(other_eager),
                line.speed_up(EAGER),
                _spread(ours, other),
                _error(ours or eager),
                _error(other or other_eager),
                _mib(eager),
                _mib(other_eager),
            ]
        )
    header = ["us", "card", "precision", "graph", "host", "eager", "host", "best graph", "best is", "speed-up"]
    header += ["best eager", "speed-up", "spread", "error", "its error", "MiB", "its MiB"]
    return "\n\n".join([table(header, rows), *failures(records)])


def failures(records: Iterable[GpuRecord]) -> list[str]:
    """Return a sentence for everything that could not be timed."""
    return [
        f"{r['case']} {r['mode']} {r['precision']} on {r['card']}: {_TITLES[r['implementation']]}, {r['launch']}, "
        f"could not be timed: {r['failed']}"
        for r in records
        if r["failed"]
    ]


def readme_block(records: Sequence[GpuRecord]) -> str:
    """Return the text between README's two markers: blocks, whatever else was timed, and what could not be."""
    if not records:
        return NOTHING
    versions = sorted({f"torch {record['torch']}, {record['measured'][:10]}" for record in records})
    widest = max((record["spread"] for record in records if record["spread"] is not None), default=0.0)
    legend = f"{_LEGEND} Largest spread {widest:.1%}. Measured with {'; '.join(versions)}."
    blocks = [record for record in records if record["mode"] in MODES]
    others = [record for record in records if record["mode"] not in MODES]
    tables = [make(group) for make, group in ((_blocks_table, blocks), (_others_table, others)) if group]
    return "\n\n".join([*tables, legend, *failures(records)])


def _blocks_table(records: Sequence[GpuRecord]) -> str:
    """Return a line for each case, card and precision: the log-determinant without gradient and its training step."""
    pairs: dict[tuple[object, ...], dict[str, Line]] = {}
    for line in lines(records):
        first = line.records[0]
        key = (first["case"], first["batch"], first["terms"], first["subject"], first["card"], first["precision"])
        pairs.setdefault(key, {})[first["mode"]] = line
    rows = []
    for (case, batch, _, subject, name, precision), modes in pairs.items():
        cells = []
        for mode in MODES:
            cells += _results(modes[mode]) if mode in modes else [_NONE] * 4
        rows.append([f"{case}, batch {batch}", f"{subject}", f"{name}", f"{precision}", *cells])
    header = ["case", "branch", "card", "precision"]
    for mode in MODES:
        header += [f"{mode} us", "vs the best baseline", "eagerly", "error"]
    return table(header, rows)


def _others_table(records: Sequence[GpuRecord]) -> str:
    """Return a line for everything else that was timed."""
    rows = []
    for line in lines(records):
        first = line.records[0]
        what = f"{first['case']}, {first['mode']}, batch {first['batch']}"
        rows.append([what, first["subject"], first["card"], first["precision"], *_results(line)])
    return table(["what", "of", "card", "precision", "us", "vs the best baseline", "eagerly", "error"], rows)


def _results(line: Line) -> list[str]:
    """Return our time, the speed-up over the best baseline, the same eagerly, and both errors."""
    ours, other = _pair(line, GRAPH)
    eager, other_eager = _pair(line, EAGER)
    named = f" ({_name(other)})" if other else ""
    return [
        _us(ours),
        f"{line.speed_up(GRAPH)}{named}",
        line.speed_up(EAGER),
        f"{_error(ours or eager)} / {_error(other or other_eager)}",
    ]


def keep(records: Iterable[GpuRecord], output: Path, stem: str, device: str) -> str:
    """Append records, each as it comes, to the file output/<card>/<stem>.jsonl and return their table."""
    path = output / card_folder(card(device)) / f"{stem}.jsonl"
    return f"{full_table(list(write(records, path)))}\n\nAppended to: {path}"


def write_readme(readme: Path, results: Path) -> int:
    """Put the records of all cards between README's markers and return how many they are.

    Args:
        readme: the file, which must have the two markers.
        results: the folder with a folder of JSON lines for each card.

    Raises:
        ValueError: a marker is missing.
    """
    folders = sorted(path for path in results.iterdir() if path.is_dir()) if results.exists() else []
    # What was tried without a GPU is no result.
    records = [record for folder in folders for record in read(folder) if record["device"] == "cuda"]
    put_between(readme, BEGIN, END, readme_block(records))
    return len(records)


def _pair(line: Line, launch: str) -> tuple[GpuRecord | None, GpuRecord | None]:
    return line.best(launch, ours=True), line.best(launch, ours=False)


def _us(record: GpuRecord | None) -> str:
    return _NONE if record is None else _three_digits(record["gpu_us"])


def _host(record: GpuRecord | None) -> str:
    return _NONE if record is None else _three_digits(record["host_us"])


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def _name(record: GpuRecord | None) -> str:
    if record is None:
        return _NONE
    return _TITLES[record["implementation"]] + "*" * (record["memory_format"] == "channels_last")


def _spread(*records: GpuRecord | None) -> str:
    found = [record["spread"] for record in records if record is not None]
    return f"{max(found):.1%}" if found else _NONE


def _error(record: GpuRecord | None) -> str:
    return _NONE if record is None or record["error"] is None else f"{record['error']:.1e}"


def _mib(record: GpuRecord | None) -> str:
    return _NONE if record is None or record["peak_mib"] is None else f"{record['peak_mib']:.1f}"
