"""Spectrally normalised layers in CUDA graphs, emulated on the CPU by `emulated_graph`: norms follow every replay."""

import copy

import pytest
import torch
from emulated_graph import capture
from nn_models import CLOSE, grow, input_of, make_conv, make_linear, true_norm

from iresnet_fast import nn
from iresnet_fast.nn.spectral import effective_weights

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = [pytest.param(make_linear, id="linear"), pytest.param(make_conv, id="conv")]


class Descent:
    """Training of a layer on one batch, at fixed places, by steps that take its weight far away."""

    def __init__(self, layer):
        self.layer, self.x, self.direction = layer, input_of(layer), 0.1 * torch.randn_like(layer.weight)

    def step(self):
        self.layer.weight.grad = None
        self.layer(self.x).sum().backward()
        with torch.no_grad():
            self.layer.weight.sub_(self.layer.weight.grad, alpha=0.01).add_(self.direction)


def assert_normalised(layer, weight):
    """Check an effective weight against the weight of the layer and its true norm."""
    norm = true_norm(layer, layer.weight)
    assert norm > 1.5 * layer.coeff  # else there is nothing to do
    torch.testing.assert_close(weight, layer.weight.detach() * (layer.coeff / norm), rtol=CLOSE, atol=CLOSE)


@torch.no_grad()
def assert_evaluates(layer):
    """Check the effective weight of evaluation in eager mode."""
    (weight,) = effective_weights([layer.eval()])
    assert_normalised(layer, weight)


@pytest.mark.parametrize("make", LAYERS)
def test_evaluation_follows_replays_without_a_change_of_mode(make):
    descent = Descent(make())
    graph = capture(descent.step, "cpu")
    descent.layer.eval()
    for _ in range(3):
        for _ in range(10):
            graph.replay()
        assert_evaluates(descent.layer)


@pytest.mark.parametrize("make", LAYERS)
def test_replays_and_eager_steps_mix(make):
    descent = Descent(make())
    twin = copy.deepcopy(descent)
    graph = capture(descent.step, "cpu")
    for _ in range(3):
        twin.step()
    for i in range(12):
        (descent.step if i % 3 == 2 else graph.replay)()
        twin.step()
        for a, b in zip(descent.layer.state_dict().values(), twin.layer.state_dict().values(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("make", LAYERS)
def test_an_evaluation_step_follows_the_weights(make):
    layer = make().eval()
    out = []

    @torch.no_grad()
    def step():
        out[:] = effective_weights([layer])

    graph = capture(step, "cpu")
    layer.train()  # drops what evaluation had kept
    for _ in range(3):
        torch.nn.init.normal_(layer.weight)
        graph.replay()
        assert_normalised(layer, out[0])


def test_each_graph_refreshes_for_itself():
    """Two captures one after the other, without a call in eager mode or a change of the weights between them."""
    layer, out = make_linear().eval(), []

    @torch.no_grad()
    def step():
        out.append(effective_weights([layer])[0])

    graphs = [capture(step, "cpu", n_warmups=0) for _ in range(2)]
    for graph, weight in zip(graphs, out, strict=True):
        torch.nn.init.normal_(layer.weight)
        graph.replay()
        assert_normalised(layer, weight)


def test_a_first_refresh_can_be_captured():
    layer = make_linear()
    grow(layer)
    out = []

    @torch.no_grad()
    def step():
        out[:] = effective_weights([layer])

    graph = capture(step, "cpu", n_warmups=0)
    assert not layer.is_warm
    graph.replay()
    assert_normalised(layer, out[0])
    assert_evaluates(layer)


def test_a_group_is_refreshed_in_one_call(calls):
    """While capturing; afterwards each layer by itself, since a replay may come between any two calls."""
    model = torch.nn.Sequential(make_linear(), torch.nn.Linear(5, 7), make_linear())
    nn.update_spectral_norm(model)
    x = torch.randn(2, 7)
    calls.clear()
    graph = capture(lambda: model(model(x) @ torch.ones(5, 7)), "cpu", n_warmups=0)
    assert calls == [2]
    graph.replay()
    calls.clear()
    model(x)
    assert calls == [1, 1]


@pytest.mark.parametrize("make", LAYERS)
def test_copies_and_checkpoints_of_a_captured_layer(make):
    descent = Descent(make())
    layer = descent.layer
    graph = capture(descent.step, "cpu")
    for _ in range(10):
        graph.replay()
    checkpoint, other = copy.deepcopy((layer.state_dict(), layer))
    expected = layer.eval()(descent.x)
    assert torch.equal(other.eval()(descent.x), expected)
    results = []
    for _ in range(2):
        layer.load_state_dict(checkpoint)  # in place: the graph goes on with it
        layer.train()
        for _ in range(5):
            graph.replay()
        results.append({name: tensor.clone() for name, tensor in layer.state_dict().items()})
    for a, b in zip(*(result.values() for result in results), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(other(descent.x), expected)  # a copy is not the graph's


def test_reset_parameters_of_a_captured_layer():
    descent = Descent(make_linear())
    graph = capture(descent.step, "cpu")
    descent.layer.reset_parameters()
    for _ in range(20):
        graph.replay()
    assert_evaluates(descent.layer)


def test_a_backward_pass_survives_the_next_refresh():
    """The graph's buffers are written in place, and what is saved for backward must not be."""
    descent = Descent(make_linear())
    capture(descent.step, "cpu")
    grow(descent.layer)
    descent.layer.weight.grad = None  # the graph's
    first = descent.layer(descent.x)
    descent.layer(descent.x)
    first.sum().backward()
    assert descent.layer.weight.grad.isfinite().all()


def test_update_spectral_norm_of_a_captured_model():
    descent = Descent(make_linear())
    graph = capture(descent.step, "cpu")
    for _ in range(10):
        graph.replay()
    sigma = nn.update_spectral_norm(descent.layer, n_iterations=200)
    assert float(sigma) == pytest.approx(true_norm(descent.layer, descent.layer.weight), rel=CLOSE)
    for _ in range(5):
        graph.replay()
    assert_evaluates(descent.layer)


def test_another_image_size_is_refused():
    layer = nn.SpectralConv2d(3, 5, 3, padding=1)
    x, other = torch.randn(1, 3, 6, 5), torch.randn(1, 3, 4, 4)
    with pytest.raises(RuntimeError, match=r"image_size must be None while a CUDA graph is captured, got \(6, 5\)"):
        capture(lambda: layer(x), "cpu", n_warmups=0)
    capture(lambda: layer(x), "cpu")
    with pytest.raises(RuntimeError, match=r"image_size must stay \(6, 5\) for a layer that a CUDA graph has captured"):
        layer(other)
    small = nn.SpectralConv2d(3, 5, 3, padding=1)
    small(other)
    with pytest.raises(RuntimeError, match="u and v must be the vectors of a weight"):
        layer.load_state_dict(small.state_dict())
    assert layer(x).shape == (1, 5, 6, 5)
    assert copy.deepcopy(layer)(other).shape == (1, 5, 4, 4)


@pytest.mark.parametrize("make", LAYERS)
def test_an_optimizer_alone_in_a_graph_is_noticed(make):
    """The layer was never captured, and the replays write its weight without a count."""
    layer = make()
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    layer(input_of(layer)).sum().backward()
    layer.weight.grad.copy_(-layer.weight.detach())  # each step multiplies the weight by 1.5
    graph = capture(optimizer.step, "cpu")
    for _ in range(5):
        graph.replay()
    assert_evaluates(layer)
    with torch.no_grad():
        layer.eval()(input_of(layer))
    graph.replay()
    assert_evaluates(layer)
