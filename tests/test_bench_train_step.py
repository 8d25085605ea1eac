"""The benchmark of a whole training step runs, compares like with like and accounts for all of the time."""

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emulated_graph import capture
from host_reads import NoReads
from timed_flows import FLOWS, images

from iresnet_fast import ops
from iresnet_fast.estimators import RussianRoulette

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_program_writes_table_json_markdown_and_plot(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "bench_train_step.py"), "--quick", "--threads", "1", "--batch", "2"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "new")], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {f"bench_train_step_quick.{ending}" for ending in ("json", "md", "png")}
    assert (tmp_path / "new" / "bench_train_step_quick.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "new" / "bench_train_step_quick.md").read_text()
    rows = ("(i) series", "(ii) Neumann", "(iii) explicit", "spectral norm", "Python and glue")
    for part in (*(f"| {row} " for row in rows), "two photographs; medians, of ours of 2 steps"):
        assert part in text
        assert part in done.stdout
    (record,) = json.loads((tmp_path / "new" / "bench_train_step_quick.json").read_text())
    assert set(record["baselines"]) == {"series", "neumann", "explicit"}
    assert (record["batch"], record["threads"], record["terms"], record["steps"]) == (2, 1, 8, 2)
    assert record["power_iterations"] == 10
    assert record["sgemm_peak_gflops"] > 0
    # All of the time is in a section or is glue, and no section is a share of nothing.
    assert sum(record["sections_ms"].values()) + record["glue_ms"] == pytest.approx(record["ours_ms"], rel=1e-9)
    assert min(record["sections_ms"].values()) > 0
    assert max(record["gradient_errors"].values()) < 1e-3
    for name, phases in record["phases_ms"].items():
        assert len(phases) == 5
        total = record["ours_ms"] if name == "ours" else record["baselines"][name]
        assert sum(phases.values()) == pytest.approx(total, rel=0.2)  # medians of two calls each


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("name", ["series", "neumann", "explicit"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_baselines_compute_what_ours_does(module, kind, name, memory_format):
    flow = FLOWS[kind]()
    plain, (loss, gradient) = module("train_steps").agreeing(flow, images(flow), name, memory_format=memory_format)
    assert loss < 1e-6
    # The ActNorms of a residual flow, whose prior is not fitted, have hardly a gradient after their first batch.
    assert gradient < (1e-4 if kind == "mnist" else 5e-4)
    assert [p.shape for p in plain.parameters] == [p.shape for p in plain.sources]
    assert sum(p.numel() for p in plain.parameters) == sum(p.numel() for p in flow.parameters())


def test_a_baseline_that_computes_something_else_is_refused(module, flow, monkeypatch):
    train_steps = module("train_steps")
    with monkeypatch.context() as patch:
        patch.setattr(train_steps, "replace", lambda estimator, **_: estimator)  # ours stays at the Neumann gradient
        with pytest.raises(RuntimeError, match="series must compute what ours computes"):
            train_steps.agreeing(flow, images(flow), "series")
    original = train_steps.PlainFlow.__init__

    def without_norms(self, *arguments, **options):
        original(self, *arguments, **options)
        self.sigmas = torch.zeros_like(self.sigmas)

    monkeypatch.setattr(train_steps.PlainFlow, "__init__", without_norms)
    with pytest.raises(RuntimeError, match="explicit must compute what ours computes"):
        train_steps.agreeing(flow, images(flow), "explicit")


def _without_betas(plain, drawn):
    for block in plain.blocks:
        for beta in filter(torch.is_tensor, block.betas):
            beta.zero_()


def _other_coefficients(plain, drawn):
    for coefficients in drawn.coefficients:
        coefficients.mul_(2.0)


@pytest.mark.parametrize("mistake", [_without_betas, _other_coefficients])
def test_a_residual_flow_that_computes_something_else_is_refused(module, monkeypatch, mistake):
    train_steps, flow = module("train_steps"), FLOWS["residual flow"]()
    results = train_steps.plain_results

    def mistaken(plain, drawn):
        with torch.no_grad():
            mistake(plain, drawn)
        return results(plain, drawn)

    monkeypatch.setattr(train_steps, "plain_results", mistaken)
    with pytest.raises(RuntimeError, match="neumann must compute what ours computes"):
        train_steps.agreeing(flow, images(flow), "neumann")


def test_scalars_are_compared_with_the_largest_of_them(module):
    """The gradient of one may be a sum that cancels: 1e-3 of itself, but rounding beside the others."""
    difference = module("train_steps").difference
    loss, weight = torch.tensor(2.0), torch.tensor([1.0, -4.0])
    truth = [loss, torch.tensor(1e-6), weight, torch.tensor(-1.0)]
    results = [loss, torch.tensor(1.001e-6), weight, torch.tensor(-1.0)]
    assert difference(results, truth)[1] < 1e-8
    results[3] = torch.tensor(-1.1)
    assert difference(results, truth) == (0.0, pytest.approx(0.1, rel=1e-6))


@pytest.mark.parametrize("tol", [None, 1e-5])
def test_the_plain_power_iteration_is_ours(module, flow, tol):
    plain = module("plain_flow").PlainFlow(flow, "explicit")
    plain.most, plain.tol = 50, tol
    with torch.no_grad():
        for i, weight in enumerate(plain.weights):
            weight += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
    weights = [weight.detach() for weight in plain.weights]
    sigmas, us, vs, iterations = ops.spectral_norm(weights, plain.us, plain.vs, plain.geometry, plain.most, tol)
    plain.iterate()
    # With a tolerance rounding may decide on one iteration more or less, each a change of sigma by at most 1e-5.
    torch.testing.assert_close(plain.sigmas, sigmas, rtol=2e-5, atol=0.0)
    if tol is None:
        torch.testing.assert_close((plain.us, plain.vs), (us, vs), rtol=0.0, atol=1e-3)
    else:
        assert int(iterations.min()) < plain.most  # else this would be the other case


def test_every_model_trains(module, flow):
    train_steps = module("train_steps")
    for model in (train_steps.OurFlow(copy.deepcopy(flow)), module("plain_flow").PlainFlow(flow, "explicit")):
        before = [p.detach().clone() for p in model.parameters]
        step = train_steps.TrainStep(model, images(flow), 4)
        step()
        step()
        # Adam moves an entry with a gradient by about the rate at each step.
        moved = max((a - b.detach()).abs().max().item() for a, b in zip(before, model.parameters, strict=True))
        assert 1.5 * train_steps.LEARNING_RATE < moved < 2.1 * train_steps.LEARNING_RATE
        assert {phase: len(times) for phase, times in step.clock.seconds.items()} == dict.fromkeys(
            train_steps.PHASES, 2
        )
        assert all(p.grad is None for p in model.parameters)


def test_the_operators_of_a_step_are_recorded_by_section(module, flow):
    sections = module("sections")
    recorder = module("bench_train_step").recorded(flow, images(flow), 4)
    names = {section: [] for section in sections.SECTIONS}
    for section, func, *_ in recorder.calls:
        names[section].append(func._schema.name)
    assert names[sections.FORWARD] == ["iresnet_fast::residual_flow"]
    assert names[sections.BACKWARD] == ["iresnet_fast::residual_flow_backward"]
    assert {"iresnet_fast::lanczos_norm", "iresnet_fast::fingerprint"} <= set(names[sections.SPECTRAL])
    assert "iresnet_fast::spectral_normalize_backward" in names[sections.SPECTRAL]
    assert "aten::_fused_adam_" in names[sections.OPTIMIZER]
    assert {"aten::index", "aten::rand"} <= set(names[sections.DATA])
    assert "aten::logit" in names[sections.LAYERS]
    assert not any("aten::index" in names[section] for section in sections.SECTIONS if section != sections.DATA)


def test_calling_an_operator_is_not_its_work(module):
    sections = module("sections")
    recorder = sections.Recorder()
    recorder("")
    with recorder:
        torch.zeros(2).add(1.0).view(1, 2)
    assert [func._schema.name for _, func, *_ in recorder.calls] == ["aten::zeros", "aten::add", "aten::view"]
    seconds = dict.fromkeys(sections.SECTIONS, 0.0) | {sections.LAYERS: 5.0, "": 1000.0}  # one second a call
    assert sections.work(recorder, seconds) == dict.fromkeys(sections.SECTIONS, 0.0) | {sections.LAYERS: 2.0}


def test_photographs_stand_in_for_mnist(module):
    pictures, source = module("bench_train_step").images_of(None)
    assert (pictures.dtype, pictures.shape[1:]) == (torch.uint8, (1, 28, 28))
    assert len(pictures) > 500
    assert "photographs" in source
    # Neighbours in a photograph are alike; those of noise differ by 85 on average.
    assert (pictures[..., 1:].float() - pictures[..., :-1].float()).abs().mean() < 25.0


@pytest.mark.parametrize(
    ("arguments", "stem"),
    [
        ((), "bench_train_step"),
        (("--data-root", "folder", "--seconds", "5"), "bench_train_step"),
        (("--quick",), "bench_train_step_quick"),
        (("--threads", "1"), "bench_train_step_quick"),
        (("--batch", "8"), "bench_train_step_quick"),
        (("--power-iterations", "5"), "bench_train_step_quick"),
    ],
)
def test_only_the_recipe_as_it_is_gets_published(module, arguments, stem):
    assert module("bench_train_step").parse(arguments).stem == stem


def test_errors_are_sentences(module, capsys, tmp_path):
    program = module("bench_train_step")
    with pytest.raises(SystemExit):
        program.parse(["--batch", "0"])
    assert "expected a positive whole number, got '0'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"bench_train_step: .*train-images"):
        program.main(["--quick", "--data-root", str(tmp_path)])


@pytest.mark.parametrize("name", ["ours", "neumann", "explicit"])
def test_a_step_of_a_residual_flow_draws_anew_in_a_graph(module, monkeypatch, name):
    """All implementations have as many terms there, and none reads a number."""
    train_steps, flow = module("train_steps"), FLOWS["residual flow"]()
    model = train_steps.OurFlow(flow) if name == "ours" else module("plain_flow").PlainFlow(flow, name)
    drawn, draw = [], RussianRoulette.draw

    def noted(estimator, x, training, generator=None):
        result = draw(estimator, x, training, generator)
        drawn.append(result[1])
        return result

    model.tol = None  # of a baseline: as on a GPU, all iterations are made
    step = train_steps.TrainStep(model, images(flow), 4)
    step()
    monkeypatch.setattr(RussianRoulette, "draw", noted)
    graph = capture(step, "cpu", n_warmups=0)
    assert {len(coefficients) for coefficients in drawn} == {24}
    assert len(drawn) == 6  # blocks
    depths, weights = set(), []
    for _ in range(5):
        graph.replay()
        depths |= {int(coefficients.count_nonzero()) for coefficients in drawn}
        weights.append(model.parameters[2].detach().clone())
    assert 2 in depths  # of 30 draws of 2 + a Poisson number of rate 2
    assert max(depths) > 4
    assert all(not torch.equal(a, b) and b.isfinite().all() for a, b in itertools.pairwise(weights))


@pytest.mark.parametrize("gradient", ["series", "neumann", "explicit"])
def test_a_plain_training_step_reads_no_number_and_keeps_its_vectors(module, flow, gradient):
    train_steps = module("train_steps")
    plain = module("plain_flow").PlainFlow(flow, gradient)
    step = train_steps.TrainStep(plain, images(flow), 4)
    step()
    places = [t.data_ptr() for t in (*plain.us, *plain.vs)]
    before = [t.clone() for t in (*plain.us, *plain.vs)]
    with NoReads():
        step()
    assert [t.data_ptr() for t in (*plain.us, *plain.vs)] == places  # where a graph goes on reading them
    assert not all(torch.equal(a, b) for a, b in zip(before, (*plain.us, *plain.vs), strict=True))


def test_a_plain_power_iteration_with_a_tolerance_asks_nothing_on_a_gpu(module, flow):
    plain = module("plain_flow").PlainFlow(flow, "explicit")
    plain.most, plain.tol = 4, 1e9  # any change is below it: one iteration is enough
    with pytest.raises(AssertionError, match="read on the host"), NoReads():
        plain.iterate()
    plain.mean = SimpleNamespace(is_cuda=True)
    with NoReads():
        plain.iterate()


def test_a_plain_training_step_draws_where_the_images_are(module, flow):
    plain = module("plain_flow").PlainFlow(flow, "explicit")
    unit, probes, coefficients = plain.prepare(images(flow).to("meta"))
    assert {t.device.type for t in (unit, *probes, *coefficients)} == {"meta"}


def test_training_steps_take_the_batches_in_turn(module):
    seen = []

    class Model:
        def __init__(self):
            self.parameters = [torch.nn.Parameter(torch.ones(1))]

        def prepare(self, x):
            seen.append(x.flatten().tolist())
            return (x,)

        def iterate(self):
            pass

        def loss(self, x):
            return (self.parameters[0] * x).sum()

    step = module("train_steps").TrainStep(Model(), torch.arange(7.0).view(7, 1, 1, 1), 2)
    for _ in range(6):
        step()
    assert len({pixel for batch in seen[:3] for pixel in batch}) == 6  # three whole batches of seven images
    assert seen[3:] == seen[:3]
