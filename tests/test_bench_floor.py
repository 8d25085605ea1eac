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
    assert set(counted.operations) == {operation.name for operation in traffic.trace(step)}
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
    # x, the probe and z; four matrices; their biases; ten coefficients; the log-determinants. In training two upstream
    # gradients, and those of x and of the parameters.
    assert record["least_bytes"] == 4 * (3 * 2000 + 33280 + 386 + 10 + 1000)
    trained = module("emulated").least_bytes(problem, "train")
    assert trained - record["least_bytes"] == 4 * (2 * 2000 + 1000 + 33280 + 386)
    assert record["modelled_floor_us"] == record["modelled_products_us"] > record["modelled_floor_tf32_us"]
    assert record["counted_kernels"] == 2
    assert "| toy2d | H100 SXM" in " ".join(floor.tables([record]).split())


@pytest.fixture
def plans(module, monkeypatch):
    """Two kernels whatever the case, and a card of one byte and one multiply-add a cycle."""
    modelled = module("modelled")
    kernels = [modelled.Kernels("one_kernel", 3, 5.0, 7e6, 2.0), modelled.Kernels("another_kernel", 1, 0.0, 1e6, 4.0)]
    names = ("clock_megahertz", "launch_microseconds", "l2_bytes_per_cycle", "memory_bytes_per_cycle")
    rates = ("library_full_multiplies", "library_tf32_multiplies")
    constants = dict(zip((*names, *rates), (1.0, 3.0, 2.0, 1.0, 1.0, 5.0), strict=True))
    card = modelled.CardModel(1, 100, constants)
    monkeypatch.setattr(modelled, "our_kernels", lambda case, mode, card, precision: kernels)
    for place in (modelled, module("bench_floor")):
        monkeypatch.setattr(place, "card_model", lambda name: card)
    return card


def test_the_program_writes_tables_and_json(module, monkeypatch, tmp_path, capsys, plans):
    floor = module("bench_floor")
    monkeypatch.setattr(floor, "emulate", lambda problem, card: module("emulated").Work((card,), 4096))
    floor.main(["--cases", "tabular,rf4", "--cards", "h100,rtx4090", "--output", str(tmp_path)])
    records = json.loads((tmp_path / "bench_floor.json").read_text())
    cards = ("H100 SXM", "RTX 4090")
    assert [(r["case"], r["card"], r["kernels"]) for r in records["counted"]] == [
        ("tabular", "H100 SXM", ["h100"]), ("tabular", "RTX 4090", ["rtx4090"]),
    ]  # fmt: skip
    steps = [(mode, precision) for mode in ("eval", "train") for precision in ("float32", "tf32")]
    assert [(r["case"], r["card"], r["mode"], r["precision"]) for r in records["modelled"]] == [
        (case, card, *step) for case in ("tabular", "rf4") for card in cards for step in steps
    ]
    for r in records["modelled"]:
        assert (r["modelled_launches"], r["modelled_us"], r["modelled_bytes"]) == (4, 6.0, 8e6)
        assert r["modelled_ratio"] == r["torch_modelled_us"] / 6.0
        assert r["torch_modelled_us"] > r["fused_modelled_us"] > r["modelled_floor_us"] > 0
    # Eight steps on two cards, of each two kernels on one card; and the counts on two cards, in two tables.
    printed = capsys.readouterr().out
    assert printed.count("| tabular") == 8 + 8 + 4
    assert printed.count("| rf4") == 8 + 8
    assert (tmp_path / "bench_floor.md").read_text().count("one_kernel") == 8


def test_what_an_operation_of_torch_is_modelled_to_cost(module, plans):
    operation = module("traffic").Operation
    # Nothing is below a launch. Of 100 bytes of cache, 30 + 20 fit twice; 40 + 20 do not, but the 20 written do.
    assert plans.operation_us(operation("add", ((1, 30),), ((2, 20),), 0, 1), "float32") == 3 + 50 / 2
    assert plans.operation_us(operation("add", ((1, 40),), ((2, 20),), 0, 1), "float32") == 3 + 40 + 20 / 2
    assert plans.operation_us(operation("add", ((1, 40),), ((2, 60),), 0, 1), "float32") == 3 + 100
    product = operation("mm", ((1, 40),), ((2, 20),), 1000, 1)
    assert plans.operation_us(product, "float32") == 3 + 1000
    assert plans.operation_us(product, "tf32") == 3 + 1000 / 5


def test_what_runs_between_two_products_is_one_launch(module):
    operation = module("traffic").Operation
    operations = [
        operation("mm", ((1, 8),), ((2, 8),), 64, 2),
        operation("mul", ((2, 8), (3, 8)), ((4, 8),), 0, 2),
        operation("add", ((4, 8), (3, 8)), ((5, 8),), 0, 2),
        operation("sum", ((5, 8),), ((6, 4),), 0, 2),
        operation("mm", ((5, 8),), ((7, 8),), 64, 2),
    ]
    first, between, last = module("modelled").fused(operations)
    assert (first, last) == (operations[0], operations[-1])
    # 4 stays within; 5 is read later, 6 is a result.
    assert dict(between.inputs) == {2: 8, 3: 8}
    assert dict(between.outputs) == {5: 8, 6: 4}


@pytest.mark.parametrize(("name", "mode"), [("toy2d", "eval"), ("mnist", "train")])
def test_modelled_torch_multiplies_as_often_as_the_formula_asks(module, name, mode):
    """On tensors without numbers: n + 1 evaluations, in training the gradients too; nothing that only copies."""
    cases, modelled = module("cases"), module("modelled")
    case = cases.CASES[name]
    operations = modelled.torch_operations(case, mode)
    expected = cases.step_flops(modelled.abstract_problem(case), mode) // 2
    # In training torch takes the cotangent through the first stage too, which ours leaves out.
    first = cases.stage_flops(modelled.abstract_problem(case))[0] // 2 if mode == "train" else 0
    assert sum(operation.multiply_adds for operation in operations) == expected + first
    assert not {operation.name for operation in operations} & {"aten::clone", "aten::_to_copy", "aten::arange"}
    assert len(modelled.fused(operations)) < len(operations)


def test_unknown_names_are_one_sentence(module, capsys):
    with pytest.raises(SystemExit):
        module("bench_floor").parse(["--cards", "h100,v100"])
    assert "unknown 'v100'; there are a100, h100, rtx4090" in capsys.readouterr().err
