"""The sweep over shapes runs, writes what it promises and compares like with like; no speed is tested here."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iresnet_fast import ops, reference

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
ONE = "64-128-128-64 x16"


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "bench_sweep.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_the_program_writes_table_json_and_plot(tmp_path):
    done = run("--quick", "--threads", "1", "--seconds", "0", "--output", str(tmp_path / "new"))
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    # A selection never replaces the published figures.
    names = {f"bench_sweep_quick.{suffix}" for suffix in ("json", "md", "png")}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    records = json.loads((tmp_path / "new" / "bench_sweep_quick.json").read_text())
    assert len(records) == 6
    assert {record["layers"] for record in records} == {False, True}
    for record in records:
        assert record["threads"] == 1
        assert record["ours_ms"] > 0
        assert set(record["baselines"]) == {"explicit"}
    ratios = [record["baselines"]["explicit"] / record["ours_ms"] for record in records]
    below = sum(ratio < 0.97 for ratio in ratios)
    assert f"{below or 'None'} of 6 below 0.97x." in done.stdout
    assert (tmp_path / "new" / "bench_sweep_quick.md").read_text().strip() in done.stdout
    assert (tmp_path / "new" / "bench_sweep_quick.png").read_bytes().startswith(b"\x89PNG")


def test_the_fit_prints_lines_of_the_rule(tmp_path):
    done = run("--fit", "--shapes", "x16", "--threads", "1", "--seconds", "0", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("    .tiles = {", "    .layers = {"))]
    assert [line.count(",") for line in lines] == [4, 5] * 2
    assert "Mean cost of the choice: " in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bench_sweep_fit.json"]


@pytest.mark.parametrize("dense", [True, False])
def test_a_fit_finds_the_constants_of_its_own_model(module, dense):
    """Counts and times made by known constants, one of them zero."""
    sweep_fit = module("sweep_fit")
    constants = {"tiles": [0.02, 0.03, 0.1, 0.0], "layers": [0.02, 0.0, 0.2, 1.0, 1e4]}
    random, records = np.random.default_rng(0), []
    for i in range(40):
        counts = {way: random.lognormal(10.0, 2.0, len(values)) for way, values in constants.items()}
        times = {way: float(counts[way] @ values) / 1e6 for way, values in constants.items()}
        records.append({"shape": str(i), "mode": "eval", "ways": times, "tile_counts": list(counts["tiles"]),
                        "layer_counts": list(counts["layers"]), "dense": dense, "pixels": 16,
                        "weights": 1 << 16})  # fmt: skip
    text = sweep_fit.fit(records)
    lines = ["    .tiles = {0.02, 0.03, 0.1, 0},", "    .layers = {0.02, 0, 0.2, 1, 1e+04},"]
    none = ["    .tiles = {0, 0, 0, 0},", "    .layers = {0, 0, 0, 0, 0},"]
    dense_lines, convolution_lines = (lines, none) if dense else (none, lines)
    assert text.splitlines()[:6] == ["kDenseConstants:", *dense_lines, "kConvolutionConstants:", *convolution_lines]
    assert "Mean cost of the choice: 1.000x" in text


def test_shapes_are_those_promised(module):
    shapes = module("sweep_shapes").SHAPES
    assert len(shapes) == 60
    widths = [width for shape in shapes.values() for width in shape.widths]
    assert (min(widths), max(widths)) == (2, 1024)
    assert {min(batches := [shape.batch for shape in shapes.values()]), max(batches)} == {1, 4096}
    sides = {shape.image[0] for shape in shapes.values() if shape.image}
    assert (min(sides), max(sides)) == (4, 64)
    assert {shape.kernels for shape in shapes.values()} == {None, (3, 1, 3), (3, 3, 3)}


def test_ours_computes_what_the_baseline_does(module):
    problem = module("sweep_shapes").problem_of(module("sweep_shapes").SHAPES[ONE])
    arguments = (problem.x, problem.weights, problem.biases, problem.activations, problem.probe, problem.coefficients)
    for got, expected in zip(
        ops.residual_logdet(*arguments), reference.residual_logdet_explicit(*arguments), strict=True
    ):
        assert math.isclose(float((got - expected).abs().max()), 0.0, abs_tol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--shapes", "7x7"), "no shape has '7x7' in its name; the shapes are 2-128-128-2 x1, "),
        (("--threads", "0"), "expected a positive whole number, got '0'"),
        (("--quick", "--full"), "not allowed with"),
    ],
)
def test_errors_are_sentences(module, capsys, arguments, fragment):
    with pytest.raises(SystemExit):
        module("bench_sweep").parse(arguments)
    assert fragment in capsys.readouterr().err
