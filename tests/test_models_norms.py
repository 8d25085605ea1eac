"""A model iterates and normalises all of its spectral layers in one call each, and nobody notices."""

import contextlib

import pytest
import torch

from iresnet_fast import nn, ops
from iresnet_fast.models import ClassifierConfig, FlowConfig, IResNetClassifier, IResNetFlow

FLOW = FlowConfig(event_shape=(4,), blocks=(3,), hidden=(8, 8))
CLASSIFIER = ClassifierConfig((1, 8, 8), 10, blocks=(1, 1), hidden=(4, 4), squeeze_first=True)


@pytest.fixture
def calls(monkeypatch):
    """How many layers each call of ops.spectral_normalize had."""
    counts = []
    normalize = ops.spectral_normalize

    def counted(weights, *others):
        counts.append(len(weights))
        return normalize(weights, *others)

    monkeypatch.setattr(ops, "spectral_normalize", counted)
    return counts


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def test_a_flow_normalises_once(calls):
    flow = IResNetFlow(FLOW)
    x = torch.randn(16, 4)
    flow.initialize(x)
    calls.clear()
    flow.log_prob(x).sum().backward()
    assert calls == [9]


def test_a_classifier_normalises_once(calls):
    model = IResNetClassifier(CLASSIFIER)
    x = torch.rand(8, 1, 8, 8)
    model(x)
    calls.clear()
    model(x).sum().backward()
    assert calls == [6]


def test_gradients_are_those_of_layers_on_their_own(monkeypatch):
    flow = IResNetFlow(FLOW).double()
    x = torch.randn(16, 4, dtype=torch.float64)
    flow.initialize(x)
    weight = torch.linspace(0.5, 2.0, 16, dtype=torch.float64)
    together = gradients(flow, (weight * flow.log_prob(x)).sum())
    monkeypatch.setattr(flow, "_grouped_norms", contextlib.nullcontext)
    alone = gradients(flow, (weight * flow.log_prob(x)).sum())
    for mine, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_each_forward_has_a_graph_of_its_own():
    flow = IResNetFlow(FLOW)
    x = torch.randn(16, 4)
    flow.initialize(x)
    first, second = flow.log_prob(x[:8]).sum(), flow.log_prob(x[8:]).sum()
    first.backward()
    second.backward()  # no buffer of the first one is missing


def test_nothing_is_at_hand_after_an_error():
    flow = IResNetFlow(FLOW)
    x = torch.randn(16, 4)
    flow.initialize(x)
    with pytest.raises(ValueError, match="z must"):
        flow.inverse(torch.randn(3, 5))
    block = next(module for module in flow.modules() if isinstance(module, nn.InvertibleResidualBlock))
    with torch.no_grad():
        before = block(x)[0]
        for layer in block.branch.layers:
            layer.weight.zero_()
        after = block(x)[0]
    assert not torch.equal(before, after)


@pytest.mark.slow
def test_a_compiled_model_agrees():
    flow = IResNetFlow(FLOW)
    x = torch.randn(16, 4)
    flow.initialize(x)
    flow.eval()
    with torch.no_grad():
        flow.log_prob(x)
        compiled = torch.compile(flow, backend="eager", fullgraph=True)
        z, logdet = compiled(x)
        expected, expected_logdet = flow(x)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(logdet, expected_logdet)
