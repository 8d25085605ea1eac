"""What the benchmarks do on a GPU, tried on the CPU: the same programs and cases, cut down; no speed is tested here."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from iresnet_fast import reference
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.models import IResNetFlow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCALE = 1 / 50
SHORT = 1e-5  # seconds of a reading


@pytest.fixture
def module(monkeypatch):
    """Import a module of benchmarks/ by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """The cases are tiny."""


@pytest.fixture
def flow():
    """A small model of the kind whose training step is timed."""
    torch.manual_seed(0)
    model = IResNetFlow.preset(
        "mnist", event_shape=(1, 8, 8), blocks=(1, 1), hidden=(6, 6), train_estimator=PowerSeries(n_terms=3)
    )
    model.initialize(images())
    model.train()
    return model


def images():
    return torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class NoReads(TorchDispatchMode):
    """Fails where a number is read on the host: on a GPU that waits, and cannot be captured."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name != "aten::_local_scalar_dense", "a number is read on the host"
        return func(*args, **(kwargs or {}))


def test_the_cases_have_the_sizes_people_train(module):
    cases = module("gpu_cases").GPU_CASES
    sizes = {name: (case.label, case.batch, case.terms) for name, case in cases.items()}
    assert {name: sizes[name] for name in ("toy100", "tabular43", "mnist256", "rf16", "rf8", "rf4")} == {
        "toy100": ("100 blocks, dense 2-128-128-128-2", 500, 10),
        "tabular43": ("dense 43-128-128-43", 1000, 10),
        "mnist256": ("4x14x14, conv 3-1-3, 32 channels", 256, 10),
        "rf16": ("12x16x16, conv 3-1-3, 512 channels", 64, 10),
        "rf8": ("48x8x8, conv 3-1-3, 512 channels", 64, 10),
        "rf4": ("192x4x4, conv 3-1-3, 512 channels", 64, 10),
    }
    on_a_cpu = module("cases").CASES
    assert {name: sizes[name] for name in on_a_cpu} == {
        name: (case.label, case.batch, case.terms) for name, case in on_a_cpu.items()
    }


def test_problems_need_no_data_set_and_are_normalised(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)  # importing it fails
    gpu_cases = module("gpu_cases")
    for case in gpu_cases.GPU_CASES.values():
        small = gpu_cases.scaled(case, SCALE)
        problem, again = gpu_cases.build_gpu(small, "cpu"), gpu_cases.build_gpu(case, "cpu", SCALE)
        assert problem.x.shape == (small.batch, case.widths[0], *(case.image or ()))
        assert problem.blocks == small.blocks == max(1, round(case.blocks * SCALE))
        assert len(problem.branches) == small.blocks
        torch.testing.assert_close((problem.x, problem.weights), (again.x, again.weights), rtol=0.0, atol=0.0)
        if case.kernels is None:
            norms = torch.tensor([torch.linalg.matrix_norm(weight, 2) for weight in problem.weights])
            torch.testing.assert_close(norms, torch.full_like(norms, module("cases").COEFF), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_blocks_are_evaluated_one_after_the_other(module, mode):
    gpu_cases, baselines = module("gpu_cases"), module("baselines")
    case = replace(gpu_cases.scaled(gpu_cases.GPU_CASES["toy100"], SCALE), blocks=3)
    problem = gpu_cases.build_gpu(case, "cpu").to(torch.float64)
    leaves = problem.requires_grad()
    assert not torch.equal(problem.weights[0], problem.weights[4])  # blocks differ
    z, logdet = leaves.x, torch.zeros(len(leaves.x), dtype=torch.float64)
    for i in range(3):
        stages = slice(4 * i, 4 * i + 4)
        branch = (leaves.weights[stages], leaves.biases[stages], ["identity", "elu", "elu", "elu"])
        z, more = reference.residual_logdet(z, *branch, leaves.probe, leaves.coefficients)
        logdet = logdet + more
    expected = (z.detach(), logdet.detach())
    if mode == "train":
        inputs = [leaves.x, *leaves.weights, *leaves.biases]
        expected = torch.autograd.grad((z, logdet), inputs, (leaves.grad_z, leaves.grad_logdet))
    for name in ("ours", "neumann", "explicit"):
        torch.testing.assert_close(tuple(baselines.make_step(name, problem, mode)()), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["toy100", "mnist"])
def test_what_torch_makes_graphs_of_is_the_explicit_formula(module, monkeypatch, name):
    gpu_cases, baselines = module("gpu_cases"), module("baselines")
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: asked.append(options) or model)
    problem = gpu_cases.build_gpu(gpu_cases.GPU_CASES[name], "cpu", SCALE)
    forward, leaves = baselines.graphs_of_torch(problem)
    assert asked == [{"fullgraph": True, "dynamic": False, "mode": "reduce-overhead"}]
    gradients = torch.autograd.grad(forward(), leaves, (problem.grad_z, problem.grad_logdet))
    torch.testing.assert_close(gradients, baselines.make_step("explicit", problem, "train")())
    problem.x.add_(1.0)  # fresh events are written where the graph reads them
    torch.testing.assert_close(leaves[0].detach(), problem.x, rtol=0.0, atol=0.0)
    assert {id(p) for p in leaves} == {id(p) for p in forward.__closure__[0].cell_contents.parameters()}


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_no_step_that_is_captured_reads_a_number(module, mode):
    gpu_cases, baselines = module("gpu_cases"), module("baselines")
    for name in ("toy100", "rf4"):
        problem = gpu_cases.build_gpu(gpu_cases.GPU_CASES[name], "cpu", SCALE)
        for implementation in ("ours", "series", "neumann", "explicit"):
            step = baselines.make_step(implementation, problem, mode)
            with NoReads():
                step()


def test_events_take_turns_where_steps_read_them(module):
    gpu_cases, baselines = module("gpu_cases"), module("baselines")
    problem = gpu_cases.build_gpu(gpu_cases.GPU_CASES["toy2d"], "cpu", SCALE)
    first, place = problem.x.clone(), problem.x.data_ptr()
    evaluate, train = (baselines.make_step("ours", problem, mode) for mode in ("eval", "train"))
    write = gpu_cases.event_sets([problem])
    seen = []
    for _ in range(8):
        write()
        seen.append(problem.x.clone())
        assert problem.x.data_ptr() == place
        fresh = replace(problem, x=problem.x.clone())
        torch.testing.assert_close(evaluate(), baselines.make_step("ours", fresh, "eval")(), rtol=0.0, atol=0.0)
        torch.testing.assert_close(train(), baselines.make_step("ours", fresh, "train")(), rtol=0.0, atol=0.0)
    assert torch.equal(seen[3], first)
    assert all(torch.equal(a, b) for a, b in zip(seen[:4], seen[4:], strict=True))
    assert len({x.numpy().tobytes() for x in seen}) == 4


def test_switches_are_set_for_both_kinds_of_products_and_put_back(module):
    precision = module("precision")
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    for name in precision.PRECISIONS:
        with precision.products_in(name):
            assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == (name == "tf32", name == "tf32", True)
    assert (matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark) == before


def try_logdet(module, output, cases, precisions=("float32", "tf32", "bf16")):
    """Run bench_logdet as on a GPU and return what it prints and the records it wrote."""
    bench_logdet, records = module("bench_logdet"), module("gpu_records")
    options = bench_logdet.parse(["--cases", "toy2d", "--output", str(output)])
    options.cases, options.precision, options.seconds, options.published = cases, precisions, SHORT, True
    options.quick, options.terms = True, 2  # nothing is compiled
    text = bench_logdet.run_gpu(options, "cpu", SCALE)
    (folder,) = output.iterdir()
    assert folder.name == records.card_folder(records.card("cpu"))
    return text, [json.loads(line) for line in (folder / "bench_logdet.jsonl").read_text().splitlines()]


def test_log_determinants_are_timed_in_every_way(module, tmp_path):
    text, records = try_logdet(module, tmp_path, ("toy100", "mnist"))
    schema = set(module("gpu_records").GpuRecord.__annotations__)
    ways = set()
    for record in records:
        assert set(record) == schema
        assert record["failed"] is None
        assert min(record["gpu_us"], record["host_us"], *record["passes_us"]) > 0
        assert record["spread"] >= 0
        ways.add((record["case"], record["mode"], record["precision"], record["implementation"], record["launch"]))
    torch_forms = {"eval": ("ours", "series", "explicit"), "train": ("ours", "series", "neumann", "explicit")}
    expected = {
        (case, mode, precision, name, launch)
        for case in ("toy100", "mnist")
        for mode, names in torch_forms.items()
        for precision in ("float32", "tf32", "bf16")
        for name in names
        for launch in ("graph", "eager")
    }
    assert {way for way in ways if not way[3].startswith("normflows")} == expected
    # normflows' block, where it is installed: one block, eagerly, not in bfloat16.
    others = {way for way in ways if way[3].startswith("normflows")}
    assert {(case, launch) for case, *_, launch in others} <= {("mnist", "eager")}
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 2 * 2 * 3
    card = module("gpu_records").card("cpu")
    assert all(f"| {card} " in row for row in rows)
    assert "Appended to: " in text


def test_errors_are_those_of_what_was_timed(module, tmp_path, monkeypatch):
    _, records = try_logdet(module, tmp_path / "right", ("mnist",), ("float32", "bf16"))
    errors = {(r["mode"], r["precision"], r["implementation"]): r["error"] for r in records if r["launch"] == "graph"}
    for mode, names in (("eval", ("ours", "series", "explicit")), ("train", ("ours", "series", "neumann", "explicit"))):
        for name in names:
            # Rounding of float32, 6e-8, over some hundred products; that of bfloat16 is 2^16 times as large.
            assert 0 < errors[mode, "float32", name] < 1e-5
            if name != "ours":  # whose operands only a GPU rounds
                assert 1e-5 < errors[mode, "bf16", name] < 0.1
    baselines = module("baselines")
    right = baselines.ops.residual_logdet

    def wrong(*arguments, **options):
        z, logdet = right(*arguments, **options)
        return z, 1.01 * logdet

    monkeypatch.setattr(baselines.ops, "residual_logdet", wrong)
    _, records = try_logdet(module, tmp_path / "wrong", ("mnist",), ("float32",))
    worse = {(r["mode"], r["implementation"]): r["error"] for r in records if r["launch"] == "graph"}
    for mode in ("eval", "train"):
        assert worse[mode, "ours"] > 100 * errors[mode, "float32", "ours"]
        assert worse[mode, "explicit"] < 1e-5


def test_what_cannot_be_timed_stops_nothing_and_is_told(module, tmp_path, monkeypatch):
    baselines, gpu_timing = module("baselines"), module("gpu_timing")

    def explicit(problem, mode):
        def forward():
            raise RuntimeError("out of memory\nand more")

        return forward, []

    def graphed(step, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setitem(baselines.MAKERS, "explicit", explicit)
    monkeypatch.setattr(gpu_timing, "graphed", graphed)
    text, records = try_logdet(module, tmp_path, ("toy2d",), ("float32",))
    failed = {(r["mode"], r["implementation"], r["launch"]): r["failed"] for r in records if r["failed"]}
    assert failed["eval", "explicit", "eager"] == failed["eval", "explicit", "graph"] == "RuntimeError: out of memory"
    assert failed["train", "ours", "graph"].endswith("when stream is capturing")
    timed = {(r["implementation"], r["launch"]) for r in records if r["gpu_us"]}
    assert timed >= {("ours", "eager"), ("series", "eager")}
    assert "toy2d eval float32 on " in text
    assert "(iii) explicit, graph, could not be timed: RuntimeError: out of memory" in text


def test_a_whole_training_step_is_timed_in_every_way(module, flow):
    records = list(
        module("gpu_train_step").run(flow, images(), 4, ("float32", "tf32", "bf16"), False, "cpu", least_seconds=SHORT)
    )
    schema = set(module("gpu_records").GpuRecord.__annotations__)
    assert all(set(record) == schema and record["failed"] is None and record["gpu_us"] > 0 for record in records)
    assert {(r["precision"], r["implementation"], r["launch"]) for r in records} == {
        (precision, name, launch)
        for precision in ("float32", "tf32", "bf16")
        for name in ("ours", "series", "neumann", "explicit")
        for launch in ("graph", "eager")
    }
    for record in records:
        narrow = record["precision"] == "bf16" and record["implementation"] != "ours"
        # The loss and the worst entry of a gradient, of two blocks; float32 as GRADIENT_LIMIT allows.
        assert (1e-3 if narrow else 0.0) < record["error"] < (0.3 if narrow else 1e-3)
        assert record["subject"] == "IResNetFlow, 1x8x8, 2 blocks, 6 channels"


def test_a_baseline_that_computes_something_else_is_not_timed(module, flow, monkeypatch):
    gpu_train_step = module("gpu_train_step")
    agreeing = gpu_train_step.agreeing

    def disagreeing(flow, x, name):
        if name == "explicit":
            raise RuntimeError("explicit must compute what ours computes")
        return agreeing(flow, x, name)

    monkeypatch.setattr(gpu_train_step, "agreeing", disagreeing)
    records = list(gpu_train_step.run(flow, images(), 4, ("float32",), True, "cpu", least_seconds=SHORT))
    failed = {(r["implementation"], r["launch"]) for r in records if r["failed"]}
    assert failed == {(name, launch) for name in ("explicit", "compiled") for launch in ("graph", "eager")}
    assert {r["implementation"] for r in records if r["gpu_us"]} == {"ours", "series", "neumann"}


@pytest.mark.parametrize("gradient", ["series", "neumann", "explicit"])
def test_a_plain_training_step_reads_no_number_and_keeps_its_vectors(module, flow, gradient):
    train_steps = module("train_steps")
    plain = module("plain_flow").PlainFlow(flow, gradient)
    step = train_steps.TrainStep(plain, images(), 4)
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
    unit, probes = plain.prepare(images().to("meta"))
    assert {t.device.type for t in (unit, *probes)} == {"meta"}


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


def test_the_inverse_and_the_spectral_norm_are_timed(module, monkeypatch):
    bench_inverse, bench_spectral_norm = module("bench_inverse"), module("bench_spectral_norm")
    case = module("gpu_cases").scaled(module("gpu_cases").GPU_CASES["mnist"], SCALE)
    monkeypatch.setattr(bench_spectral_norm, "BLOCKS", 2)
    with torch.no_grad():
        inverse = bench_inverse.gpu_records(case, "cpu", SHORT)
        norm = bench_spectral_norm.gpu_records("mnist", "cpu", SHORT)
    schema = set(module("gpu_records").GpuRecord.__annotations__)
    assert all(set(record) == schema and record["gpu_us"] > 0 for record in (*inverse, *norm))
    ways = [(record["implementation"], record["launch"]) for record in inverse]
    assert ways == [("ours", "eager"), ("ours", "graph"), ("plain", "eager")]  # plain torch waits in every iteration
    assert len(norm) == 4
    assert max(record["error"] for record in inverse) <= 2 * bench_inverse.TOLERANCE
    assert max(record["error"] for record in norm) <= 1e-5


def test_plain_spectral_norms_can_be_captured(module):
    """Without a tolerance nothing is read on the host and nothing is copied from it."""

    class NoCopies(NoReads):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func._schema.name != "aten::lift_fresh", "a number comes from the host"
            return super().__torch_dispatch__(func, types, args, kwargs)

    weights, us, vs, geometry, _ = module("bench_spectral_norm").model("mnist")
    with NoCopies():
        iterations = reference.spectral_norm(weights[:3], us[:3], vs[:3], geometry[:3], 2)[3]
    assert iterations.tolist() == [2, 2, 2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_program_says_so(module, capsys, tmp_path):
    sentence = "--device cuda needs a GPU that torch can use; this torch is "
    for name in ("bench_logdet", "bench_train_step"):
        with pytest.raises(SystemExit):
            module(name).parse(["--device", "cuda"])
        assert sentence in capsys.readouterr().err
    command = [sys.executable, "-m", "pytest", "-q", str(BENCHMARKS / "bench_inverse.py"), "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=BENCHMARKS.parent)
    assert done.returncode != 0
    assert sentence in done.stderr


@pytest.mark.parametrize("name", ["bench_logdet", "bench_train_step"])
def test_precisions_are_for_a_gpu(module, capsys, name):
    for arguments, sentence in (
        (["--precision", "tf32"], "--precision is for --device cuda; a CPU multiplies in float32."),
        (["--precision", "float16"], "unknown precision 'float16'; there are float32, tf32, bf16"),
    ):
        with pytest.raises(SystemExit):
            module(name).parse(arguments)
        assert sentence in capsys.readouterr().err


def test_options_on_a_gpu(module, monkeypatch, capsys):
    for name in ("precision", "bench_logdet"):
        module(name)
    monkeypatch.setattr(module("precision"), "why_no_gpu", lambda: None)
    parse = module("bench_logdet").parse
    everything = parse(["--device", "cuda"])
    assert everything.precision == ("float32", "tf32", "bf16")
    assert everything.cases == tuple(module("gpu_cases").GPU_CASES)
    assert everything.published
    part = parse(["--device", "cuda", "--cases", "rf16,toy100", "--precision", "tf32"])
    assert (part.cases, part.precision, part.published) == (("rf16", "toy100"), ("tf32",), True)
    assert not parse(["--device", "cuda", "--quick"]).published
    assert not parse(["--device", "cuda", "--terms", "3"]).published
    with pytest.raises(SystemExit):
        parse(["--device", "cuda", "--cases", "imagenet"])
    assert "unknown case 'imagenet'; the cases are toy2d, toy100" in capsys.readouterr().err
    step = module("bench_train_step").parse(["--device", "cuda", "--batch", "256"])
    assert (step.stem, step.seconds) == ("bench_train_step", module("graphs").LEAST_SECONDS)
