"""The step `calibrate` of the first run on a GPU: what it times, and that its fit knows the layered way's constants."""

import importlib
import math
from contextlib import nullcontext

import numpy as np
import pytest

from .builder import ROOT
from .emulator import project_emulator
from .plans import constants_of
from .resident import Shape

WIDE = Shape((12, 512, 512, 12), 64, (3, 1, 3), (16, 16))
BOTH = Shape((48, 128, 128, 48), 64, (3, 1, 3), (8, 8))
NARROW = Shape((3, 16, 16, 3), 128, (3, 1, 3), (16, 16))
LAYERED = ("memory_bytes_per_cycle", "layered_slot_cycles", "layered_mma_cycles", "layered_product_cycles")


@pytest.fixture
def module(monkeypatch):
    """Import a module of the steps by name."""
    for folder in ("benchmarks/gpu_steps", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module


class Run:
    """Keeps the records, and has a number of questions' time left."""

    def __init__(self, time=math.inf):
        self.records, self.time = [], time

    def left(self):
        self.time -= 1
        return float(self.time)

    def record(self, table, **measured):
        self.records.append({"table": table, **measured})

    def origins(self):
        return {record["name"]: record["origin"] for record in self.records if record["table"] == "constants"}


class StandIn:
    """A GPU as calibrate sees it, whose kernels are emulated and whose times are counted up."""

    microseconds = 0.0

    def call(self, *arguments, **more):
        self.microseconds += 1.0
        project_emulator("fast").call(*arguments, **more)

    def timed(self):
        return nullcontext()

    def managed(self, tensor):
        return tensor.clone()

    def release(self):
        pass


def candidates(module, shapes, card="h100"):
    return list(module("forced_plans").candidates(shapes, card, project_emulator("fast")))


def ways(plans):
    """Precision and whether layered of each, without repetition and in their order."""
    return list(dict.fromkeys((plan.precision, plan.choice.layered) for plan in plans))


def test_the_layered_way_is_a_candidate_of_every_shape_and_precision(module):
    precisions = ("float32", "tf32", "bf16")
    assert ways(candidates(module, [WIDE])) == [(p, True) for p in precisions]
    assert ways(candidates(module, [BOTH])) == [(p, layered) for p in precisions for layered in (True, False)]
    assert all(sum(p.choice.layered for p in candidates(module, [s])) == 3 for s in module("forced_plans").SHAPES)


def test_a_card_without_tensor_cores_for_a_precision_is_not_asked_for_it(module):
    assert ways(candidates(module, [NARROW], "t4")) == [("float32", True), ("float32", False)]


def test_wide_shapes_come_early(module):
    """The layered way has several timings however little time there is."""
    first = module("forced_plans").SHAPES[:3]
    assert WIDE in first


def test_the_fit_finds_the_constants_of_the_layered_way_again(module):
    calibrate, run = module("calibrate"), Run()
    shapes = module("forced_plans").SHAPES
    plans = [plan for plan in candidates(module, shapes) if plan.choice.layered or plan.shape == shapes[0]]
    table = constants_of("h100")
    truth = table | {"launch_microseconds": 2.2, "memory_bytes_per_cycle": 9.0, "layered_slot_cycles": 1.3}
    truth |= {"layered_mma_cycles": 14.0, "layered_product_cycles": 2400.0}
    times = module("forced_plans").modelled(plans, truth)
    fitted = calibrate.judge(run, plans, times, table, calibrate.FACTS).constants
    for name in (*LAYERED, "launch_microseconds"):
        assert fitted[name] == pytest.approx(truth[name], rel=0.03), name
        assert run.origins()[name] == "fitted"
    assert all(fitted[name] == table[name] for name in calibrate.FACTS)


def test_what_no_timed_plan_depends_on_is_kept_and_said(module):
    """Exact products without libraries tell nothing of tensor cores, and the layered way nothing of the resident."""
    calibrate, run = module("calibrate"), Run()
    plans = [plan for plan in candidates(module, [NARROW, WIDE]) if plan.words == "layered"]
    assert [plan.precision for plan in plans] == 2 * ["float32", "tf32", "bf16"]
    plans = [plan for plan in plans if plan.precision == "float32"]
    table = constants_of("h100")
    times = module("forced_plans").modelled(plans, table | {"layered_slot_cycles": 1.3})
    facts = calibrate.FACTS | {"clock_megahertz": "measured by ceilings"}
    fitted = calibrate.judge(run, plans, times, table, facts).constants
    libraries = ("library_full_multiplies", "library_tf32_multiplies")
    for name in ("layered_mma_cycles", *libraries, "step_cycles", "mma_cycles"):
        assert fitted[name] == table[name]
        assert run.origins()[name] == "not determined by these times"
    assert run.origins()["clock_megahertz"] == "measured by ceilings"
    assert run.origins()["float_fma_cycles"] == "data sheet"
    (before, _) = [record for record in run.records if record["table"] == "choices"]
    assert (before["choices"], before["resident_or_layered"]) == (0, 0)


def test_what_noisy_times_do_not_tell_is_kept_and_what_is_called_fitted_is_near(module):
    """Times that are off by 15 % of models whose constants differ from the table's by up to a third."""
    calibrate, plans = module("calibrate"), candidates(module, module("forced_plans").SHAPES[:6])
    table, errors = constants_of("h100"), []
    for seed in range(4):
        generator, run = np.random.default_rng(seed), Run()
        others = [name for name in table if name not in calibrate.FACTS]
        truth = table | {name: table[name] * generator.uniform(0.7, 1.4) for name in others}
        exact = module("forced_plans").modelled(plans, truth)
        fitted = calibrate.judge(
            run, plans, exact * np.exp(0.15 * generator.standard_normal(len(plans))), table, calibrate.FACTS
        )
        origins = run.origins()
        assert fitted.determined
        for name in others:
            moved = math.log(fitted.constants[name] / table[name])
            assert abs(moved) < math.log(3.0), name
            if origins[name] == "not determined by these times":
                assert moved == 0.0, name
            if origins[name] == "fitted":
                errors.append(math.log(fitted.constants[name] / truth[name]))
        assert np.sqrt(np.mean(np.log(module("forced_plans").modelled(plans, fitted.constants) / exact) ** 2)) < 0.06
    # DETERMINED is the largest standard deviation of each; one may be off by twice that.
    assert np.sqrt(np.mean(np.square(errors))) < 0.3
    assert np.abs(errors).max() < 0.6


def test_a_fit_without_time_is_said_after_how_the_model_chose_before(module):
    calibrate, run = module("calibrate"), Run(time=0)
    plans = candidates(module, [NARROW])
    table = constants_of("h100")
    times = 2.0 * module("forced_plans").modelled(plans, table)
    fitted = calibrate.judge(run, plans, times, table, calibrate.FACTS)
    assert (fitted.finished, fitted.constants) == (False, table)
    assert [record["constants"] for record in run.records if record["table"] == "choices"] == ["before", "fitted"]
    assert run.records[0]["table"] == "choices"
    assert set(run.origins().values()) == {"data sheet", "fit not finished"}


def test_the_choices_before_are_on_record_when_the_fit_begins(module, monkeypatch):
    calibrate, run = module("calibrate"), Run()
    plans = candidates(module, [NARROW])

    def fit(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "fit", fit)
    table = constants_of("h100")
    with pytest.raises(KeyboardInterrupt):
        calibrate.judge(run, plans, module("forced_plans").modelled(plans, table), table, calibrate.FACTS)
    assert [record["constants"] for record in run.records] == ["before"]


def test_a_card_is_asked_for_both_ways_until_the_time_is_over(module, monkeypatch):
    calibrate, run = module("calibrate"), Run(time=20)
    shapes = [Shape((4, 8, 4), batch) for batch in (3, 5, 7)]
    monkeypatch.setattr(calibrate, "SHAPES", shapes)
    plans, times = calibrate.measure(run, StandIn(), "h100", constants_of("h100"))
    assert ways(plans)[:2] == [("float32", True), ("float32", False)]
    *timed, last = run.records
    assert [record["table"] for record in timed] == ["plans"] * len(plans)
    assert [record["us"] for record in timed] == list(times)
    assert all(record["modelled"] > 0 for record in timed)
    assert last["table"] == "left out"
    assert len(plans) == int(calibrate.MEASURING * 19)  # seconds that remained when it was asked first
