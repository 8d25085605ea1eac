"""torch.compile and torch.export of the layers: one graph, the eager numbers, no recompilation as sigma moves."""

import copy

import pytest
import torch

from iresnet_fast import _library, nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette

SHAPES = {"dense": (6,), "conv": (4, 5, 3)}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    if not _library.HAS_EXTENSION or _library.backend() != "kernels":
        pytest.skip("the autograd fallback is not one graph")
    torch.set_num_threads(1)
    torch.compiler.reset()


def make_block(kind, estimator=PowerSeries(6), activation="lipswish"):  # noqa: B008
    if kind == "dense":
        branch = nn.ResidualBranch.dense([6, 16, 6], activation)
    else:
        branch = nn.ResidualBranch.conv([4, 8, 4], [3, 1], (5, 3), activation)
    with torch.no_grad():
        for layer in branch.layers:
            layer.weight.mul_(3.0)
    block = nn.InvertibleResidualBlock(branch, estimator)
    nn.update_spectral_norm(block)
    return block


def results(block, x):
    """z, logdet and all gradients; the same probe for all."""
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    z, logdet = block(x)
    (z.square().sum() + (logdet * torch.arange(1.0, 1.0 + len(x))).sum()).backward()
    gradients = [p.grad.clone() for p in block.parameters()]
    block.zero_grad()
    return [z.detach(), logdet.detach(), x.grad, *gradients]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_block_is_one_graph(kind, training, backend):
    block = make_block(kind).train(training)
    nn.update_spectral_norm(block)
    x = torch.randn(3, *SHAPES[kind])
    # Like dropout, probes are Inductor's own numbers unless it is told to draw those of eager code.
    options = {"fallback_random": True} if backend == "inductor" else None
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend=backend, options=options)
    nn.update_spectral_norm(block)
    nn.update_spectral_norm(compiled)
    assert_same(results(compiled, x), results(block, x))


@pytest.mark.parametrize(
    "estimator", [PowerSeries(5, 2, gradient="series"), PowerSeries(9, tol=1e-2), RussianRoulette(), Exact(), None]
)
def test_other_estimators_are_one_graph_in_evaluation(estimator):
    block = make_block("dense", estimator).eval()
    x = torch.randn(3, 6)
    assert_same(results(torch.compile(block, fullgraph=True, backend="aot_eager"), x), results(block, x))


def test_compiled_training_follows_sigma_without_recompiling():
    block = make_block("dense")
    expected = copy.deepcopy(block)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    runs = []
    with torch._dynamo.config.patch(error_on_recompile=True):
        for model, call in ((block, compiled), (expected, expected)):
            torch.manual_seed(7)
            optimizer = torch.optim.SGD(model.parameters(), 0.05)
            for _ in range(4):
                optimizer.zero_grad()
                z, logdet = call(torch.randn(5, 6))
                (z.square().mean() - logdet.mean()).backward()
                optimizer.step()
            runs.append([p.detach() for p in model.parameters()])
    assert_same(*runs)


@pytest.mark.parametrize(
    "estimator",
    [PowerSeries(5), PowerSeries(5, 2, "gaussian"), RussianRoulette(per_sample=True), RussianRoulette(2, "poisson")],
)
def test_the_last_batch_may_be_smaller_in_training(estimator):
    block = make_block("dense", estimator).train()
    compiled = torch.compile(block, backend="aot_eager")
    for size in (5, 3, 4):
        x = torch.randn(size, 6)
        assert_same(results(compiled, x), results(block, x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.NoisePad(2),
        nn.NoisePad(1, "uniform"),
        nn.Dequantize(4),
        nn.DequantizeSteps([1.0, 1.0, 1.0]),
        nn.NoisePad(1, generator=torch.Generator()),
    ],
)
def test_noise_of_a_smaller_batch_in_training(layer):
    compiled = torch.compile(layer.train(), backend="aot_eager")
    for size in (5, 3):
        z, logdet = compiled(torch.ones(size, 3))
        assert logdet.shape == z.shape[:1] == (size,)
        assert z[:, -1].unique().numel() == size


@pytest.mark.parametrize("estimator", [PowerSeries(5), Exact()])
@pytest.mark.filterwarnings("ignore:iresnet_fast. activation 'fullsort'")
def test_what_has_no_kernel_breaks_the_graph(estimator):
    block = make_block("dense", estimator, "fullsort").train()
    compiled = torch.compile(block, backend="aot_eager")
    for size in (5, 3):
        x = torch.randn(size, 6)
        assert_same(results(compiled, x), results(block, x))
    block.eval()
    assert_same(torch.compile(block.inverse, backend="aot_eager")(x), block.inverse(x))


def test_layers_and_inverse_are_one_graph():
    block = make_block("conv").eval()
    x = torch.randn(2, 4, 5, 3)
    layer = block.branch.layers[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))
        inverse = torch.compile(block.inverse, fullgraph=True, backend="aot_eager")
        assert_same(inverse(x), block.inverse(x))


def test_what_tracing_cannot_do_is_an_error():
    branch = nn.ResidualBranch.dense([6, 6])
    with pytest.raises(Exception, match="sigma must be known before an export"):
        torch.export.export(branch, (torch.randn(2, 6),))
    block = make_block("conv")
    with pytest.raises(Exception, match=r"image_size must be .* while tracing"):
        torch.compile(block, fullgraph=True, backend="aot_eager")(torch.randn(2, 4, 7, 7))


@pytest.mark.parametrize("kind", SHAPES)
def test_compiled_training_follows_the_weights_by_itself(kind):
    """Nobody calls update_spectral_norm, and the graph leaves the buffers as eager code does."""
    eager, traced = (make_block(kind) for _ in range(2))
    traced.load_state_dict(eager.state_dict())
    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager")
    for model, call in ((eager, eager), (traced, compiled)):
        torch.manual_seed(7)
        optimizer = torch.optim.SGD(model.parameters(), 0.05)
        for _ in range(4):
            optimizer.zero_grad()
            z, logdet = call(torch.randn(5, *SHAPES[kind]))
            (z.square().mean() - logdet.mean()).backward()
            optimizer.step()
    for ours, theirs in zip(traced.branch.layers, eager.branch.layers, strict=True):
        # The copy had to find its norms again: to the residual, 3e-4, by which they are increased.
        torch.testing.assert_close(ours.sigma, theirs.sigma, rtol=1e-3, atol=0.0)
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("strict", [True, False])
def test_export_in_evaluation(kind, strict):
    block = make_block(kind).eval()
    nn.update_spectral_norm(block)
    x = torch.randn(3, *SHAPES[kind])
    batch = torch.export.Dim("batch")
    program = torch.export.export(block, (x,), strict=strict, dynamic_shapes=({0: batch},))
    for rows in (x, torch.randn(5, *SHAPES[kind])):
        assert_same(program.module()(rows), block(rows))


def test_the_number_of_a_layer_may_be_a_symbol():
    """As in code that serves several layers, each compiled by itself."""
    layers = [nn.SpectralLinear(3, 3), nn.SpectralLinear(3, 3)]
    with torch.no_grad():
        layers[1].weight.mul_(2.0)
    refreshed = torch.compile(
        lambda weight, handle: torch.ops.iresnet_fast.refreshed_norms([weight], [handle])[0],
        backend="aot_eager",
        dynamic=True,
    )
    for layer in layers:
        found = refreshed(layer.weight.detach(), layer.handle)
        torch.testing.assert_close(found[0], torch.linalg.matrix_norm(layer.weight.detach(), 2))
