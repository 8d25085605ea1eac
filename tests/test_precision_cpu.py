"""Autocast to bfloat16 on a CPU: products of rounded operands with float32 sums where the processor has them.

The twin is the same arithmetic in float64, every operand of a product rounded where the kernels round it. Without the
instructions nothing is rounded, in the kernels or in the twin, and the same tests hold the kernels to full float32.
"""

import subprocess
import sys

import pytest
import torch
from bf16_twin import Shape, Twin
from problems import ISAS, gradients, upstream

from iresnet_fast import _library, _precision, activations, nn, ops
from iresnet_fast.models import FlowConfig, IResNetFlow

FULL, BF16 = 0, 2
ROUNDING = 2.0**-24  # of one addition in float32


def bf16():
    return torch.autocast("cpu", torch.bfloat16)


def assert_sums_close(got, exact, absolute, terms):
    """Check a sum of exact products, computed in any order.

    A product of two bfloat16 numbers has 16 bits and is exact in float32, a product of two float32 numbers is fused
    with its addition; so each of the `terms` and the bias or the threads' parts adds one rounding of a partial sum that
    is at most the sum of absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Zen 4's
    VDPBF16PS is two such fused steps. Numbers below 2^-126, which it takes for zero, do not occur here.
    """
    assert bool(((got.double() - exact).abs() <= 1.001 * (terms + 4) * ROUNDING * absolute).all())


SIZES = [(1, 1), (1, 33), (33, 1), (2, 33), (33, 2), (3, 12), (12, 3), (12, 33), (33, 12), (33, 33)]
PLACES = [
    *(pytest.param((), (), batch, id=f"dense, {batch}") for batch in (1, 5, 33)),
    *(
        pytest.param((k,), image, batch, id=f"{image[0]}x{image[1]}, {k}x{k}, {batch}")
        for k, image, batch in ((1, (7, 7), 1), (3, (7, 7), 5), (3, (14, 14), 1), (1, (14, 14), 5), (5, (5, 16), 2))
    ),
]


@pytest.mark.parametrize(("kernels", "image", "batch"), PLACES)
@pytest.mark.parametrize(("inner", "out"), SIZES)
def test_one_product_each_way(one_thread, inner, out, kernels, image, batch):
    """A x + b, A^T grad and the gradient of A, of random numbers."""
    shape = Shape((inner, out), kernels, image, batch)
    x, weight, bias = torch.randn(batch, *shape.event), torch.randn(shape.weights[0]), torch.randn(out)
    none = [x.new_empty(0)]
    branch = [weight], [bias], none, none, [activations.get("identity").kernel_id], [0.0]
    g = torch.ops.iresnet_fast.branch(x, *branch, BF16)
    (grad,) = upstream([g])
    grad_x, packed = torch.ops.iresnet_fast.branch_backward(
        x, *branch, grad, None, None, None, [], [], None, False, True, None, BF16
    )
    grad_weight, grad_bias = packed.split([weight.numel(), out])
    twin = Twin(shape, [weight], [bias], ["identity"])
    h, r, absolute = x.double(), grad.double(), lambda t: t.abs().double()
    taps, samples = weight[0, 0].numel(), batch * image[0] * image[1] if image else batch
    size = twin.product(0, h, absolute) + twin.bias(0).abs()
    assert_sums_close(g, twin.product(0, h) + twin.bias(0), size, inner * taps)
    assert_sums_close(grad_x, twin.transposed(0, r), twin.transposed(0, r, absolute), out * taps)
    pairs = [(r, h)]
    exact = twin.contraction(0, pairs)
    assert_sums_close(grad_weight.view(weight.shape), exact, twin.contraction(0, pairs, absolute), samples)
    sums = [t.flatten(2).sum((0, 2)) if image else t.sum(0) for t in (r, r.abs())]
    assert_sums_close(grad_bias, *sums, samples)


# Widths, kernels and image; the last two kinds of stages are too narrow to be rounded.
STEPS = [
    Shape((12, 33, 12), (3, 3), (7, 7)),
    Shape((3, 33, 12, 3), (3, 1, 3), (14, 14), 2),
    Shape((12, 33, 33, 12), (), (), 70),
    Shape((33, 12, 33), (), (), 5),
    Shape((2, 3, 2), (3, 1), (7, 7)),
    Shape((1, 33, 1), (), (), 33),
]


def integers(most, *shape):
    return torch.randint(-most, most + 1, shape).float()


def whole_numbers(shape):
    """A branch, a probe and upstream gradients of whole numbers, weights of -1, 0 and 1, most of them 0."""
    fan_in = max(torch.Size(w)[1:].numel() for w in shape.weights)
    density = min(1.0, 16.0 / fan_in)
    weights = [integers(1, *w) * (torch.rand(w) < density) for w in shape.weights]
    biases = [integers(100, w[0]) for w in shape.weights]
    names = ["identity", "relu", "relu"][: len(weights)]
    x, grad_z = (integers(1000, shape.batch, *shape.event) for _ in range(2))
    return x, weights, biases, names, integers(3, *x.shape), grad_z, 2.0 ** torch.randint(0, 3, (shape.batch,))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", STEPS, ids=str)
def test_a_training_step_is_the_twin_to_the_bit(shape, threads):
    """Of whole numbers below 2^24 every float32 sum is exact, in any order: what is left is what operands lost."""
    torch.set_num_threads(threads)
    x, weights, biases, names, probe, grad_z, grad_logdet = whole_numbers(shape)
    x, weights, biases = ([t.requires_grad_() for t in tensors] for tensors in ([x], weights, biases))
    with bf16():
        z, logdet = ops.residual_logdet(*x, weights, biases, names, probe, [1.0, 1.0])
    got = torch.autograd.grad((z, logdet), (*x, *weights, *biases), (grad_z, grad_logdet))
    numbers = [t.detach() for t in x], [t.detach() for t in weights], [t.detach() for t in biases]
    twin = Twin(shape, numbers[1], numbers[2], names)
    arguments = numbers[0][0].double(), probe.double(), 2, grad_z.double(), grad_logdet.double()
    want_z, want_logdet, grad_x, grad_weights, grad_biases, pairs = twin.step(*arguments)
    count = len(weights)
    for tensor, want in ((z, want_z), (logdet, want_logdet), (got[0], grad_x)):
        assert want.abs().max() < 2**23
        assert torch.equal(tensor.double(), want)
    for i in range(count):
        assert torch.equal(got[1 + count + i].double(), grad_biases[i])
        assert max(t.abs().max() for pair in pairs[i] for t in pair) < 2**19  # so are the sums it went into
        size = twin.contraction(i, pairs[i], lambda t: t.abs().double())
        samples = 2 * shape.batch * (shape.image[0] * shape.image[1] if shape.image else 1)
        assert_sums_close(got[1 + i], grad_weights[i], size, samples)
    narrow = any(twin._product_pays(w.shape[0], w.shape[1], w) for w in weights)
    plain = ops.residual_logdet(*numbers[0], *numbers[1:], names, probe, [1.0, 1.0])[0]
    assert torch.equal(plain, z) == (not narrow or not _library.cpu_bf16())


@pytest.mark.parametrize("shape", [shape for shape in STEPS if len(shape.event) == 1 or shape.batch == 5], ids=str)
def test_powers_and_jacobians_of_whole_numbers(one_thread, shape):
    """Evaluation: J^T and J applied again and again, and the whole Jacobian."""
    x, weights, biases, names, probe, *_ = whole_numbers(shape)
    none, ids = x.new_empty(0), [activations.get(name).kernel_id for name in names]
    nones = [none] * len(weights)
    branch = weights, biases, nones, nones, ids, [activations.get(name).constant for name in names]
    twin = Twin(shape, weights, biases, names)
    _, stages = twin.forward(x.double())
    for transpose, walk in ((True, twin.vjp), (False, lambda stages, v: twin.jvp(stages, v)[0])):
        powers = torch.ops.iresnet_fast.jacobian_powers(x, *branch, probe, 2, transpose, BF16)
        w = probe.double()
        for power in powers:
            w = walk(stages, w)
            assert w.abs().max() < 2**23
            assert torch.equal(power.double(), w)
    jacobian = torch.ops.iresnet_fast.jacobian(x, *branch, BF16)
    for row in (0, x[0].numel() - 1):
        basis = torch.zeros_like(x).flatten(1)
        basis[:, row] = 1.0
        assert torch.equal(jacobian[:, row].double(), twin.vjp(stages, basis.view(x.shape).double()).flatten(1))


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (Shape((12, 33, 33, 12), (3, 1, 3), (7, 7)), ["identity", "elu", "tanh"]),
        (Shape((12, 64, 12), (3, 3), (14, 14), 3), ["sin", "softplus"]),
        (Shape((33, 64, 64, 33), (), (), 40), ["identity", "elu", "sin"]),
    ],
    ids=str,
)
def test_smooth_activations(one_thread, shape, names):
    """The step of the twin but for roundings that fall the other way.

    An operand is off by some K 2^-24 of its size, K terms before it, and crosses a midpoint of bfloat16 numbers, which
    lie 2^-7 to 2^-8 apart, with a probability of K 2^-15 at most: a share sqrt(K 2^-15) of the rounding error itself,
    0.13 for the longest sum here, 64 * 9, counted once for each of four products in a row. What no rounded operand goes
    into, as the gradient of the last bias, is a float32 sum of some thousand numbers.
    """
    weights = [torch.randn(w) * (0.7 / torch.Size(w)[1:].numel() ** 0.5) for w in shape.weights]
    biases = [torch.randn(w[0]) for w in shape.weights]
    x, probe, grad_z = (torch.randn(shape.batch, *shape.event) for _ in range(3))
    grad_logdet = torch.rand(shape.batch) + 0.5
    results = {}
    for how in ("kernels", "full"):
        leaves = [t.clone().requires_grad_() for t in (x, *weights, *biases)]
        parts = leaves[0], leaves[1 : 1 + len(weights)], leaves[1 + len(weights) :]
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "kernels"):
            outputs = ops.residual_logdet(*parts, names, probe, [1.0] * 4)
        results[how] = [*outputs, *torch.autograd.grad(outputs, leaves, (grad_z, grad_logdet))]
    arguments = x.double(), probe.double(), 4, grad_z.double(), grad_logdet.double()
    z, logdet, grad_x, grad_weights, grad_biases, _ = Twin(shape, weights, biases, names).step(*arguments)
    for got, full, want in zip(*results.values(), [z, logdet, grad_x, *grad_weights, *grad_biases], strict=True):
        assert (got.double() - want).norm() <= 0.53 * (full.double() - want).norm() + 1000 * ROUNDING * want.norm()
    apart = [not torch.equal(*pair) for pair in zip(*results.values(), strict=True)]
    assert apart[:-1] == [_library.cpu_bf16()] * (len(apart) - 1)  # the last bias is summed in another order


def test_only_float32_under_autocast_to_bfloat16():
    x = torch.ones(2, 3)
    with bf16():
        assert (_precision.precision_of(x), _precision.precision_of(x.double())) == (BF16, FULL)
    with torch.autocast("cpu", torch.float16):
        assert _precision.precision_of(x) == FULL
    assert _precision.precision_of(x) == FULL


def flow_and_images():
    torch.manual_seed(0)
    config = FlowConfig(event_shape=(1, 8, 8), blocks=(2, 1), hidden=(32, 32))
    return IResNetFlow(config).train(), torch.rand(6, 1, 8, 8)


def step(autocast):
    """Loss and gradients of a training step of a flow."""
    flow, images = flow_and_images()
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = -flow.log_prob(images).mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in flow.parameters() if p.grad is not None)]


def test_a_training_step_of_a_flow():
    plain, narrow, again = step(False), step(True), step(True)
    for a, b in zip(narrow, again, strict=True):
        assert torch.equal(a, b)
    assert all(map(torch.equal, plain, narrow)) == (not _library.cpu_bf16())
    assert abs(plain[0] - narrow[0]) < 2.0**-8 * abs(plain[0])
    flat = [torch.cat([g.flatten() for g in gradients[1:]]) for gradients in (plain, narrow)]
    assert (flat[0] - flat[1]).norm() < 0.05 * flat[0].norm()


@pytest.mark.parametrize("isa", ISAS)
def test_without_the_instructions_nothing_changes(isa, one_thread):
    _library.set_cpu_isa(isa)
    assert not (_library.cpu_bf16() and isa != "avx512")
    plain, narrow = step(False), step(True)
    assert all(map(torch.equal, plain, narrow)) == (not _library.cpu_bf16())


@pytest.mark.parametrize("shape", [STEPS[0], STEPS[2]], ids=str)
def test_the_same_bits_from_run_to_run(shape):
    x, probe = torch.randn(2, shape.batch, *shape.event)
    weights = [(0.1 * torch.randn(w)).requires_grad_() for w in shape.weights]
    biases, names = [torch.randn(w[0]) for w in shape.weights], ["elu"] * len(weights)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        runs = []
        for _ in range(2):
            with bf16():
                outputs = ops.residual_logdet(x, weights, biases, names, probe, [1.0] * 3)
            runs.append([*outputs, *gradients(outputs, weights)])
        assert all(map(torch.equal, *runs))


def test_backward_is_as_exact_as_forward(one_thread):
    """Whatever autocast says by then, and whether or not activations were kept."""
    shape = STEPS[0]
    x, probe = torch.randn(2, shape.batch, *shape.event)
    weights = [(0.1 * torch.randn(w)).requires_grad_() for w in shape.weights]

    def run(outside, gradient):
        with bf16():
            outputs = ops.residual_logdet(x, weights, [None, None], ["identity", "elu"], probe, [1.0] * 2, gradient)
            if not outside:
                return gradients(outputs, weights)
        return gradients(outputs, weights)

    for gradient in ("neumann", "series"):
        assert all(map(torch.equal, run(True, gradient), run(False, gradient)))


def test_the_inverse_is_full():
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.conv([12, 32, 12], [3, 3])).eval()
    z = torch.randn(3, 12, 7, 7)
    plain = block.inverse(z)[0]
    with bf16():
        assert torch.equal(block.inverse(z)[0], plain)


def test_precision_is_a_constant_of_a_compiled_graph(one_thread):
    x, weight = torch.randn(20, 12), 0.2 * torch.randn(33, 12)
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def function(x, w):
        return ops.branch(x, [w, w.T.contiguous()], [None, None], ["identity", "tanh"])

    compiled = torch.compile(function, fullgraph=True, backend=keep)
    with torch.no_grad():
        for autocast in (True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                assert torch.equal(compiled(x, weight), function(x, weight))
    precisions = [
        node.args[-1] for graph in graphs for node in graph.graph.nodes if "iresnet_fast.branch" in str(node.target)
    ]
    assert precisions == [BF16, FULL]


@pytest.mark.parametrize("isa", ISAS)
def test_the_report_says_which(isa):
    code = f"import iresnet_fast.__main__ as m, iresnet_fast._library as l; l.set_cpu_isa('{isa}'); print(m.report())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("bfloat16 "))
    _library.set_cpu_isa(isa)
    assert ("AVX512-BF16" in line) == _library.cpu_bf16()
