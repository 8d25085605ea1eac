"""The cases, programs and options of the benchmarks on a GPU, tried on the CPU; no speed is tested here."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from host_reads import NoReads

from iresnet_fast import reference

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCALE = 1 / 50
SHORT = 1e-5  # seconds of a reading


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """The cases are tiny."""


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
