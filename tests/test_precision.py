"""Which precision the products of a branch get, under torch's switches and autocast; no GPU is needed to ask."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from iresnet_fast import _backend, _library, _precision, nn, ops

FULL, TF32, BF16 = 0, 1, 2


@pytest.fixture(autouse=True)
def _restore():
    """Put back both generations of torch's switches: the old ones keep their own and raise where they differ."""
    cublas, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    switches = cublas, cudnn, cudnn.conv, cudnn.rnn
    old = cublas.allow_tf32, cudnn.allow_tf32
    new = [switch.fp32_precision for switch in switches]
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    yield
    cublas.allow_tf32, cudnn.allow_tf32 = old  # which write the new ones, too
    for switch, precision in zip(switches, new, strict=True):
        switch.fp32_precision = precision
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", dtype)
    assert (cublas.allow_tf32, cudnn.allow_tf32) == old


DENSE, IMAGES = (3, 2), (3, 2, 4, 4)


def on_gpu(shape=DENSE, dtype=torch.float32):
    with FakeTensorMode():
        return torch.empty(shape, device="cuda", dtype=dtype)


def allow_tf32(api, *, dense, images):
    """Set torch's switches for matrix products and for convolutions."""
    if api == "old":
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = dense, images
    else:
        torch.backends.cuda.matmul.fp32_precision = "tf32" if dense else "ieee"
        torch.backends.cudnn.conv.fp32_precision = "tf32" if images else "ieee"


def autocast(dtype):
    """What torch.autocast("cuda", dtype) sets; that itself refuses without a GPU."""
    torch.set_autocast_enabled("cuda", dtype is not None)
    if dtype is not None:
        torch.set_autocast_dtype("cuda", dtype)


@pytest.mark.parametrize(
    ("tf32", "autocast_dtype", "precision"),
    [
        (False, None, FULL),
        (True, None, TF32),
        (False, torch.bfloat16, BF16),
        (True, torch.bfloat16, BF16),
        (False, torch.float16, FULL),
        (True, torch.float16, TF32),
    ],
)
@pytest.mark.parametrize("api", ["old", "new"])
@pytest.mark.parametrize(("shape", "switch"), [(DENSE, "dense"), (IMAGES, "images")])
def test_float32_on_a_gpu_follows_torch(tf32, autocast_dtype, precision, api, shape, switch):
    other = "images" if switch == "dense" else "dense"
    allow_tf32(api, **{switch: tf32, other: not tf32})
    autocast(autocast_dtype)
    assert _precision.precision_of(on_gpu(shape)) == precision
    assert _precision.precision_of(on_gpu(shape, torch.float64)) == FULL
    assert _precision.precision_of(torch.ones(shape)) == FULL


def test_torchs_defaults():
    """Convolutions in TF32, matrix products not: what torch's own layers do unless told otherwise."""
    code = (
        "import torch; from torch._subclasses.fake_tensor import FakeTensorMode\n"
        "from iresnet_fast._precision import precision_of\n"
        "with FakeTensorMode(): print([precision_of(torch.empty(s, device='cuda')) for s in ((3, 2), (3, 2, 4, 4))])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[0, 1]"


def test_both_generations_of_switches_can_be_used():
    """Where they disagree, torch's old switch raises when it is read."""
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    with pytest.raises(RuntimeError):
        torch.backends.cudnn.allow_tf32  # noqa: B018
    assert _precision.precision_of(on_gpu(IMAGES)) == FULL


@pytest.mark.parametrize("convolutional", [False, True])
def test_precision_is_a_constant_of_a_compiled_graph(convolutional):
    def f(x):
        return x + _precision._cuda_precision(convolutional)

    for tf32 in (True, False, True):
        allow_tf32("old", dense=tf32, images=tf32)
        assert torch.compile(f, fullgraph=True, backend="eager")(torch.zeros(())) == tf32


@pytest.mark.parametrize("tf32", [False, True])
def test_a_compiled_branch_takes_the_precision_of_a_gpu(monkeypatch, tf32):
    """The whole graph compiles with the precision as a constant; a CPU tensor stands in for one of a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = tf32
    monkeypatch.setattr(
        sys.modules["iresnet_fast.ops.branch"], "precision_of", lambda x: _precision._cuda_precision(x.dim() == 4)
    )
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    _library.set_backend("kernels")
    x, weight = torch.randn(3, 2), 0.3 * torch.eye(2)
    with torch.no_grad():
        compiled = torch.compile(lambda x, w: ops.branch(x, [w], [None], ["tanh"]), fullgraph=True, backend=keep)
        torch.testing.assert_close(compiled(x, weight), ops.branch(x, [weight], [None], ["tanh"]))
    (graph,) = graphs
    (call,) = (node for node in graph.graph.nodes if "branch" in str(node.target))
    assert call.args[-1] == int(tf32)


def test_backward_uses_the_precision_of_forward(monkeypatch):
    """Whatever torch's switches say by then."""
    seen, module = [], sys.modules["iresnet_fast.ops.branch"]  # the package has a function of that name
    for name in ("branch", "branch_backward"):
        op = getattr(torch.ops.iresnet_fast, name)
        monkeypatch.setattr(
            torch.ops.iresnet_fast, name, lambda *arguments, op=op: (seen.append(arguments[-1]), op(*arguments))[1]
        )
    monkeypatch.setattr(module, "precision_of", lambda x: BF16)
    x = torch.ones(2, 3, requires_grad=True)
    g = ops.branch(x, [torch.eye(3)], [None], ["elu"])
    monkeypatch.setattr(module, "precision_of", lambda x: FULL)
    g.sum().backward()
    assert seen == [BF16, BF16]


@pytest.mark.parametrize("gradient", ["neumann", "series"])
def test_autocast_widens_what_is_narrower(gradient):
    """As torch.amp.custom_fwd(cast_inputs=torch.float32); the gradient comes back in the dtype given."""
    x = torch.randn(4, 3, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.eye(3, requires_grad=True)
    probe = torch.ones(4, 3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        z, logdet = ops.residual_logdet(x, [weight], [None], ["elu"], probe, [1.0, 1.0], gradient)
        (z.sum() + logdet.sum()).backward()
        others = ops.branch(x, [weight], [None], ["elu"]), ops.residual_logdet_exact(x, [weight], [None], ["elu"])[1]
        inverse = ops.residual_inverse(x, [0.5 * weight.detach()], [None], ["elu"], 0.5)[0]
    assert {t.dtype for t in (z, logdet, *others, inverse)} == {torch.float32}
    assert (x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32)
    plain = ops.residual_logdet(x.float(), [weight], [None], ["elu"], probe.float(), [1.0, 1.0], gradient)
    assert torch.equal(z, plain[0])
    assert torch.equal(logdet, plain[1])


def test_a_block_works_under_autocast():
    block, before = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([4, 8, 4])), torch.nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        narrow = before(torch.randn(5, 4))
        z, logdet = block(narrow)
        again, _ = block.inverse(narrow)
    assert narrow.dtype == torch.bfloat16
    assert {t.dtype for t in (z, logdet, again)} == {torch.float32}
    (z.sum() + logdet.sum()).backward()
    assert before.weight.grad is not None


@pytest.mark.skipif(_library.HAS_CUDA, reason="the CUDA kernels are there")
def test_without_cuda_kernels_the_reference_serves_and_says_why(monkeypatch):
    monkeypatch.setattr(_backend, "_told", set())
    reason = f"the CUDA kernels are unavailable \\({_library.CUDA_ERROR}\\)".replace("+", "\\+")
    with pytest.warns(UserWarning, match=f"iresnet_fast: {reason}; the plain-torch reference serves it, slower."):
        assert not _backend.kernels_serve(on_gpu())
