"""The emulated CUDA graph itself: it computes nothing while it is captured, and refuses what a GPU would."""

import pytest
import torch
from emulated_graph import EmulatedGraph, capture

from iresnet_fast import _capture


def captured(function):
    return capture(function, "cpu", n_warmups=0)


def test_a_capture_computes_nothing_and_a_replay_all():
    x, out, generator = torch.arange(4.0), [], torch.get_rng_state()
    graph = EmulatedGraph()
    with graph.capture():
        x.mul_(2.0)
        out.append(x + torch.rand(4))
    assert torch.equal(x, torch.arange(4.0))
    assert out[0].isnan().all()
    assert torch.equal(torch.get_rng_state(), generator)
    x.fill_(3.0)
    for k in (1, 2):
        state = torch.get_rng_state()
        graph.replay()
        assert torch.equal(x, torch.full((4,), 3.0 * 2.0**k))
        torch.set_rng_state(state)
        assert torch.equal(out[0], x + torch.rand(4))


def test_views_and_gradients_are_replayed():
    weight, x = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2)
    rows = torch.zeros(4, 3)

    def step():
        weight.grad = None
        y = (x @ weight.t()).tanh()
        rows[1:].copy_(y[1:].detach())
        y.sum().backward()
        with torch.no_grad():
            weight.sub_(weight.grad)

    graph = captured(step)
    before = weight.detach().clone().requires_grad_()
    x.mul_(0.5)
    graph.replay()
    y = (x @ before.t()).tanh()
    (gradient,) = torch.autograd.grad(y.sum(), before)
    assert torch.equal(rows[1:], y[1:])
    assert not rows[0].any()
    assert torch.equal(weight.grad, gradient)
    assert torch.equal(weight, before - gradient)


def test_memory_from_outside_must_live():
    kept, gone = torch.ones(2), [torch.ones(2)]
    graph = captured(lambda: kept.add_(gone[0].view(1, 2)[0]))
    graph.replay()
    assert torch.equal(kept, torch.full((2,), 2.0))
    gone.clear()
    with pytest.raises(RuntimeError, match="reads freed memory"):
        graph.replay()


def test_memory_of_the_graph_stays():
    x = torch.zeros(2)
    graph = captured(lambda: x.copy_((x + 1.0) * 2.0))
    for expected in (2.0, 6.0):
        graph.replay()
        assert torch.equal(x, torch.full((2,), expected))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x[x > 0],
        lambda x: torch.equal(x, x),
        lambda x: torch.linalg.inv(x),
        lambda x: x + torch.tensor([1.0, 2.0]),
    ],
)
def test_what_waits_for_the_device_is_refused(read):
    x = torch.eye(2)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        captured(lambda: read(x))
    assert _capture.of(x) is None


def test_each_capture_has_a_number_of_its_own():
    numbers = []
    for _ in range(2):
        captured(lambda: numbers.append((_capture.of(torch.empty(1)), _capture.of(torch.empty(2)))))
    assert numbers[0][0] == numbers[0][1] != numbers[1][0]
    assert _capture.of(torch.empty(1)) is None
