"""The modelled floors are arithmetic on counts, and the counts are right."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_traffic_counts_what_computes(module):
    a, b = torch.rand(8, 4), torch.rand(4, 2)
    traffic = module("traffic").count(lambda: torch.relu((a @ b).view(2, 8).t() + a.new_ones(1).expand(8, 2)))
    assert traffic.operations == {"aten::mm": 1, "aten::new_ones": 1, "aten::add": 1, "aten::relu": 1}
    # mm reads 32 + 8 numbers and writes 16; new_ones is shown a (for its type) and writes 1; add reads 16 and the one
    # number behind the expanded tensor, writes 16; relu 16 + 16.
    assert traffic.bytes == 4 * (32 + 8 + 16 + 32 + 1 + 16 + 1 + 16 + 16 + 16)


@pytest.mark.parametrize("name", ["toy2d", "mnist"])
def test_profiler_and_tensors_see_the_same_operations(module, name):
    problem = module("cases").build(module("cases").CASES[name], terms=2).head(2)
    traffic = module("traffic")
    step = module("baselines").make_step("series", problem, "eval")
    counted = traffic.count(step)
    with traffic._Bytes() as seen:
        step()
    assert set(counted.operations) == seen.names
    # A term of the series is one multiplication per layer.
    products = {"toy2d": ("aten::mm", 4), "mnist": ("aten::convolution_backward", 3)}[name]
    assert counted.operations[products[0]] == 2 * products[1]


@pytest.mark.parametrize("name", ["toy2d", "mnist"])
def test_multiply_adds_are_those_of_plain_torch(module, name):
    cases = module("cases")
    problem = cases.build(cases.CASES[name], terms=3).head(2)
    with FlopCounterMode(display=False) as counter:
        module("baselines").make_step("series", problem, "eval")()
    assert cases.step_flops(problem, "eval") == counter.get_total_flops()


def test_floors_are_arithmetic(module):
    cases, floor = module("cases"), module("bench_floor")
    card = module("cards").CARDS["h100"]
    assert 2e6 * card.fma_per_us == pytest.approx(67e12, rel=0.01)  # the data sheet's TFLOP/s
    problem = cases.build(cases.CASES["toy2d"])
    traffic = module("traffic").Traffic()
    record = floor.record(
        "toy2d", problem, card, module("emulated").Work(("a", "b"), 10**6), {b: traffic for b in floor.BASELINES}
    )
    # 2-128-128-128-2 on 1000 samples, once forward and for 10 terms; per sample 33280 multiply-adds a term.
    assert record["multiply_adds"] == 11 * 33280 * 1000
    assert record["modelled_products_us"] == pytest.approx(11 * 33280 * 1000 / (132 * 128 * 1980))
    # x, the probe and z; four matrices; their biases; ten coefficients; the log-determinants.
    assert record["least_bytes"] == 4 * (3 * 2000 + 33280 + 386 + 10 + 1000)
    assert record["modelled_floor_us"] == record["modelled_products_us"] > record["modelled_floor_tf32_us"]
    assert record["counted_kernels"] == 2
    assert "| toy2d | H100 SXM" in " ".join(floor.tables([record]).split())


def test_the_program_writes_table_and_json(module, monkeypatch, tmp_path, capsys):
    floor = module("bench_floor")
    monkeypatch.setattr(floor, "emulate", lambda problem, card: module("emulated").Work((card,), 4096))
    floor.main(["--cases", "tabular", "--cards", "a100,rtx4090", "--output", str(tmp_path)])
    records = json.loads((tmp_path / "bench_floor.json").read_text())
    assert [(r["case"], r["card"], r["kernels"]) for r in records] == [
        ("tabular", "A100 SXM 80 GB", ["a100"]), ("tabular", "RTX 4090", ["rtx4090"]),
    ]  # fmt: skip
    assert capsys.readouterr().out.count("tabular") == (tmp_path / "bench_floor.md").read_text().count("tabular") == 4


def test_unknown_names_are_one_sentence(module, capsys):
    with pytest.raises(SystemExit):
        module("bench_floor").parse(["--cards", "h100,v100"])
    assert "unknown 'v100'; there are a100, h100, rtx4090" in capsys.readouterr().err
