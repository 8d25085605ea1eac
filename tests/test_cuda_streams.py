"""On a GPU: CUDA graphs, streams, devices, precision of products, and what is refused. `pytest -m cuda`."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from layers import make_layers
from problems import DTYPES, LIPSCHITZ, TINY, Case, make, named

from iresnet_fast import ops
from iresnet_fast.__main__ import main as iresnet_fast_main

pytestmark = pytest.mark.cuda

CASES = [
    *TINY,
    Case("dense", (2,), (128, 128), activations=("identity", "elu"), batch=300),
    Case("conv", (4, 14, 14), (32, 32), (3, 1, 3), activations=("identity", "lipswish"), batch=19),
    Case("wide", (12, 8, 8), (256, 256), (3, 1, 3), batch=5, per_sample=True),
]
# Rounding of an operand: TF32 keeps 11 bits, bf16 8.
ROUNDING = {1: 2.0**-12, 2: 2.0**-9}


@pytest.fixture
def gpu(device):
    if device != "cuda":
        pytest.skip("about CUDA itself")
    return torch.device(device)


def train(problem):
    """A training step: outputs and gradients."""
    z, logdet = ops.residual_logdet(
        problem.x,
        *problem.branch,
        problem.probe,
        problem.coefficients,
        "neumann",
        problem.parameters,
        factors=problem.factors,
    )
    leaves = problem.leaves
    upstream = [z.detach().sin(), torch.arange(1.0, 1.0 + len(z), dtype=z.dtype, device=z.device)]
    return [z.detach(), logdet.detach(), *torch.autograd.grad([z, logdet], leaves, upstream)]


def evaluate(problem):
    with torch.no_grad():
        arguments = (problem.x, *problem.branch)
        stop = {"tol": 0.1, "lipschitz": LIPSCHITZ}
        return [
            ops.branch(*arguments, problem.parameters, factors=problem.factors),
            *ops.residual_logdet(
                *arguments,
                problem.probe,
                problem.coefficients,
                "neumann",
                problem.parameters,
                factors=problem.factors,
                **stop,
            ),
            *ops.residual_inverse(*arguments, LIPSCHITZ, 1e-3, 50, problem.parameters, factors=problem.factors),
        ]


def invert(problem):
    """The inverse and its gradient."""
    x = ops.residual_inverse(
        problem.x, *problem.branch, LIPSCHITZ, 1e-3, 50, problem.parameters, factors=problem.factors
    )[0]
    return [x.detach(), *torch.autograd.grad(x, problem.leaves, x.detach().cos())]


@cache
def some_layers(dtype, device):
    return make_layers(["matrix", "same", "strides"], dtype, device)


def normalise(problem):
    """Spectral norms, normalised weights and their gradient."""
    layers = some_layers(problem.x.dtype, problem.x.device)
    scale = problem.x.detach().abs().amax()
    weights = [(scale * w).requires_grad_() for w in layers.weights]
    sigmas, us, vs, _ = ops.spectral_norm(weights, *layers[1:], 3)
    results = ops.spectral_normalize(weights, sigmas, us, vs, layers.geometry, [0.5, 0.7, 0.9])
    return [sigmas, *torch.autograd.grad(results, weights, [w.detach().sin() for w in weights])]


STEPS = [train, evaluate, invert, normalise]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", **named(CASES))
def test_the_steps_run(case, step, device):
    """Also without a GPU: what the tests below do is then known to be right."""
    problem = make(case, torch.float32, device).requires_grad()
    assert_equal(step(problem), step(problem))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", **named(CASES))
def test_a_captured_graph_replays_the_eager_numbers(case, dtype, step, gpu):
    """A synchronisation, or memory from outside the pool of the graph, would end the capture with an error.

    Eager, the inverse of a wide branch waits for its samples; in a graph it is a fixed count of iterations, enough for
    these samples, so the numbers are the same.
    """
    problem = make(case, dtype, gpu).requires_grad()
    inputs = [problem.x.detach().clone(), 1.5 * problem.x.detach().flip(0)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # first, so that libraries are loaded and limits are known
        step(problem)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(problem)
    for x in inputs:
        with torch.no_grad():
            problem.x.copy_(x)
        graph.replay()
        assert_equal(captured, step(problem))


@pytest.mark.parametrize("step", [train, evaluate, normalise])
@pytest.mark.parametrize("case", **named(CASES))
def test_nothing_waits_for_the_gpu(case, step, gpu):
    """Nothing that torch sees, which are its own waits.

    Launch functions may wait between the pieces of an inverse or of a long series (tests/simt/test_pieces.py); any
    other wait of theirs would end a capture with an error, as above.
    """
    problem = make(case, torch.float32, gpu).requires_grad()
    step(problem)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(problem)
    finally:
        torch.cuda.set_sync_debug_mode("default")


WIDE = Case("too wide to stay on chip", (12, 8, 8), (1024, 1024), (3, 1, 3), batch=3)


def invert_to_rounding(problem, lipschitz, max_iterations=1000):
    """x, iterations and residual, to a tolerance that rounding does not allow."""
    return ops.residual_inverse(
        problem.x, *problem.branch, lipschitz, 1e-12, max_iterations, problem.parameters, factors=problem.factors
    )


def test_a_graph_records_a_fixed_count_of_iterations(gpu):
    """Of a branch that takes launches for every iteration: 13 in float32 for a constant of 1/4, too small a one."""
    problem = make(WIDE, torch.float32, gpu)
    x, iterations, _ = invert_to_rounding(problem, 0.25)
    assert (iterations > 13).all()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = invert_to_rounding(problem, 0.25)
    graph.replay()
    assert (captured[1] == 13).all()
    assert_equal(captured, invert_to_rounding(problem, 0.25, 13))
    assert not torch.equal(captured[0], x)


def test_inverses_of_two_threads_and_streams_do_not_meet(device, request):
    """Each waits for its own samples: the counts of one must not end the other."""
    if request.config.option.device == "emulated":
        pytest.skip("the emulator runs one call at a time")
    problems = [make(WIDE._replace(batch=batch), torch.float32, device) for batch in (1, 3)]
    problems[0].x.mul_(1e-3)  # ends earlier
    expected = [invert_to_rounding(problem, LIPSCHITZ) for problem in problems]

    if device == "cuda":
        torch.cuda.synchronize()  # the inputs are there, whatever stream reads them

    def run(problem):
        stream = torch.cuda.Stream() if device == "cuda" else None
        with torch.cuda.stream(stream):
            results = [invert_to_rounding(problem, LIPSCHITZ) for _ in range(5)]
        if stream is not None:
            stream.synchronize()
        return results

    with ThreadPoolExecutor(2) as pool:
        for results, wanted in zip(pool.map(run, problems), expected, strict=True):
            for result in results:
                assert_equal(result, wanted)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", **named(CASES))
def test_the_current_stream_is_used(case, step, gpu):
    """The input is written late on a side stream: work on any other stream would read what was there before."""
    problem = make(case, torch.float32, gpu).requires_grad()
    expected, x = step(problem), problem.x.detach().clone()
    busy = torch.randn(4096, 4096, device=gpu)
    with torch.no_grad():
        problem.x.fill_(torch.nan)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(10):
            busy = busy @ busy * 1e-3
        with torch.no_grad():
            problem.x.copy_(x)
        assert_equal(step(problem), expected)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", **named(CASES))
def test_the_device_of_the_tensors_is_used(case, step, gpu):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    problem = make(case, torch.float32, "cuda:1").requires_grad()
    results = step(problem)
    assert {t.device.index for t in results} == {1}
    assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        assert_equal(step(problem), results)


@pytest.mark.parametrize("precision", ROUNDING)
@pytest.mark.parametrize("case", **named(CASES))
def test_reduced_precision_is_within_its_rounding(case, precision, device):
    """Each of the L maps of each of the n + 1 products rounds both operands, of numbers of size 1.

    A value sums d of them, which reach sqrt(d) where no term is larger.
    """
    results = []
    for dtype in (torch.float32, torch.float64):
        problem = make(case, dtype, device)
        probe = problem.probe if problem.probe.dim() > problem.x.dim() else problem.probe[None]
        arguments = {"probe": probe, "coefficients": problem.coefficients, "neumann": True, "precision": precision}
        op, arguments = problem.raw("residual_logdet", **arguments)
        results.append(op(*arguments)[:4])
    roundings = 2 * len(problem.weights) * (case.terms + 1)
    for got, oracle in zip(*results, strict=True):
        size = problem.x[0].numel() ** 0.5 if oracle.dim() == 1 else 1.0
        error = (got.double() - oracle).abs().max().item()
        assert error <= roundings * ROUNDING[precision] * max(size, oracle.abs().max().item())


def planned_precision(capsys, branch, case, precision):
    """The precision that the plan of a log-determinant in training takes on this GPU."""
    options = ("--batch", str(case.batch), "--terms", str(case.terms), "--precision", precision)
    iresnet_fast_main(["plan", "--branch", branch, "--card", "this", *options])
    plan = capsys.readouterr().out.split("\n\n")[2]
    return plan.splitlines()[1].split(", ")[1].split(" ")[0]


@pytest.mark.parametrize(
    ("case", "branch", "switch"),
    [
        (
            Case("dense", (96,), (1024, 1024), activations=("identity", "elu", "elu"), batch=1000),
            "dense:96,1024,1024,96",
            torch.backends.cuda.matmul,
        ),
        (
            Case("conv", (12, 8, 8), (256, 256), (3, 1, 3), activations=("identity", "elu", "elu"), batch=64),
            "conv:12,256,256,12:3,1,3:8x8",
            torch.backends.cudnn.conv,
        ),
    ],
    ids=["dense", "conv"],
)
def test_torch_chooses_the_precision(gpu, capsys, monkeypatch, case, branch, switch):
    """TF32 and autocast change the numbers where they make the branch faster on this GPU, and the inverse never."""
    problem = make(case, torch.float32, gpu).requires_grad()
    full, inverse = train(problem), invert(problem)
    changes = {}
    for precision in ("tf32", "bf16"):
        with monkeypatch.context() as patch, torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            if precision == "tf32":
                patch.setattr(switch, "fp32_precision", "tf32")
            got = train(problem)
            assert_equal(invert(problem), inverse)
        for a, b in zip(full[:3], got, strict=False):  # z, log-det and the gradient of x
            assert b.dtype == torch.float32
            assert (b - a).norm() < 0.1 * a.norm()
        changes[precision] = (got[0] - full[0]).norm().item()
    planned = [planned_precision(capsys, branch, case, precision) for precision in changes]
    assert [change > 0 for change in changes.values()] == [precision != "full" for precision in planned]
    if planned == ["tf32", "bf16"]:
        assert changes["tf32"] < changes["bf16"]
    assert_equal(train(problem), full)


def test_tensors_of_two_devices_are_refused(gpu):
    problem = make(TINY[0], torch.float32, gpu)
    moved = [w.cpu() for w in problem.weights]
    with pytest.raises(ValueError, match=r"x must be on the device of the weights, cpu, got cuda:0"):
        ops.branch(problem.x, moved, problem.biases, problem.activations)
    op, arguments = problem._replace(weights=moved).raw("branch")
    with pytest.raises(RuntimeError, match="weights must be on the device of the first argument"):
        op(*arguments)
    op, arguments = problem._replace(x=problem.x.cpu()).raw("branch")
    with pytest.raises(RuntimeError, match="x must be a CUDA tensor"):
        op(*arguments)
