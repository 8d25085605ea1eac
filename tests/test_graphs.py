"""Blocks and flows in CUDA graphs, emulated on the CPU by `emulated_graph`."""

import pytest
import torch
from emulated_graph import capture
from graph_cases import CASES, Training, assert_replays_are_eager_steps
from models_examples import FLOWS, make_data, make_flow
from nn_models import make_block, make_input

from iresnet_fast import estimators, nn
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.models import FlowConfig, IResNetFlow

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", CASES)
def test_replays_are_eager_steps(name):
    assert_replays_are_eager_steps(name, "cpu")


@pytest.mark.parametrize("name", FLOWS)
def test_a_step_of_any_flow_reads_nothing(name):
    flow = make_flow(name, torch.float32)
    x, context = make_data(flow)
    loss = torch.zeros(())

    def step():
        flow.zero_grad()
        value = -flow.log_prob(x, context).mean()
        value.backward()
        loss.copy_(value.detach())

    capture(step, "cpu", n_warmups=1).replay()
    assert loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in flow.parameters())


def test_a_flow_is_refreshed_in_one_call(calls):
    training = Training(CASES["flow of images"], "cpu")
    n_layers = len([m for m in training.model.modules() if isinstance(m, nn.SpectralConv2d)])
    graph = capture(training.step, "cpu")
    calls.clear()
    graph.replay()
    assert calls == []
    training.evaluate()
    assert calls == [n_layers]


def test_an_actnorm_that_has_seen_no_batch_is_refused():
    layer = nn.ActNorm(3)
    with pytest.raises(RuntimeError, match=r"ActNorm must be initialised before it is .* captured in a CUDA graph"):
        capture(lambda: layer(torch.zeros(2, 3)), "cpu", n_warmups=0)
    layer(torch.randn(5, 3))
    capture(lambda: layer(torch.zeros(2, 3)), "cpu", n_warmups=0)


def test_inverses_and_samples_can_be_captured():
    block = make_block("dense").eval()
    z = make_input("dense")
    x = torch.zeros_like(z)

    @torch.no_grad()
    def step():
        x.copy_(block.inverse(z)[0])

    graph = capture(step, "cpu", n_warmups=0)
    graph.replay()
    torch.testing.assert_close(x, block.inverse(z)[0].detach(), rtol=0.0, atol=2e-5)

    flow = IResNetFlow(FlowConfig((3,), blocks=(2,), hidden=(6, 6)))
    flow.initialize(torch.randn(16, 3))
    flow.eval()
    samples = torch.zeros(4, 3)
    graph = capture(lambda: samples.copy_(flow.sample(4)), "cpu")
    torch.manual_seed(3)
    graph.replay()
    torch.manual_seed(3)
    torch.testing.assert_close(samples, flow.sample(4), rtol=0.0, atol=1e-3)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("distribution", ["geometric", "poisson"])
def test_a_captured_roulette_draws_anew(distribution, per_sample):
    """The same depths and coefficients as in eager mode from the same numbers, with zeros behind."""
    roulette = estimators.RussianRoulette(distribution=distribution, per_sample=per_sample)
    x, drawn = torch.empty(3, 2), []
    graph = capture(lambda: drawn.append(roulette.draw(x, True)), "cpu", n_warmups=0)
    (probe, coefficients) = drawn[0]
    assert coefficients.shape[-1] == roulette.n_exact + roulette.n_captured
    for seed in range(20):
        torch.manual_seed(seed)
        graph.replay()
        torch.manual_seed(seed)
        expected_probe, expected = roulette.draw(x, True)
        n = expected.shape[-1]
        assert torch.equal(probe, expected_probe)
        torch.testing.assert_close(coefficients[..., :n], expected, rtol=1e-6, atol=0.0)
        assert not coefficients[..., n:].any()


def test_a_block_refreshes_once_a_call_after_replays(calls):
    """The fixed point of a branch on autograd evaluates it many times."""
    block = nn.InvertibleResidualBlock(nn.DenseBranch.dense(6, 4, 2), PowerSeries(4))
    x = make_input("dense")
    block(x)
    graph = capture(lambda: block(x), "cpu")
    graph.replay()
    block.eval()
    with torch.no_grad():
        z, _ = block(x)
        calls.clear()
        again, logdet_of_inverse = block.inverse(z)
        assert len(calls) <= 2  # the solution, and the log-determinant there
        torch.testing.assert_close(again, x, rtol=0.0, atol=1e-4)
        torch.testing.assert_close(logdet_of_inverse, -block(again)[1], rtol=1e-5, atol=1e-5)
