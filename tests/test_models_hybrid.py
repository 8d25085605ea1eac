"""HybridIResNet: the density is the flow's, the head sees every piece of the latent."""

import math

import pytest
import torch
from models_examples import inverse_error, make_hybrid, unused

from iresnet_fast.models import hybrid_loss

pytestmark = pytest.mark.usefixtures("one_thread")


def test_logits_and_density():
    model, x, _ = make_hybrid()
    model.flow.initialize(x)
    model(x)
    model.eval()
    logits, log_prob = model(x)
    assert logits.shape == (6, 3)
    torch.testing.assert_close(log_prob, model.flow.log_prob(x))
    assert torch.equal(model(x)[0], logits)
    result = model.flow.reconstruct(x)
    assert bool((result.error <= inverse_error(model)).all())
    assert torch.equal(result.x.to(x.dtype), x)
    assert model.flow.sample(2).shape == (2, 1, 8, 8)
    assert model(x[:1])[1].shape == (1,)


def test_defect_23_every_head_sees_the_half_of_its_scale():
    """residual-flows hands the last head the half that left before, so that the last scale never classifies."""
    model, x, _ = make_hybrid()
    model(x)
    model.eval()
    seen = [[] for _ in model.head.maps]
    for layer, inputs in zip(model.head.maps, seen, strict=True):
        layer.register_forward_hook(lambda module, arguments, output, inputs=inputs: inputs.append(arguments[0]))
    scales = []
    for scale in model.flow.body.scales:
        scale.register_forward_hook(lambda module, arguments, output: scales.append(output[0]))
    model(x)
    first, last = scales
    assert model.flow.latent_shapes == [(2, 4, 4), (8, 2, 2)]
    assert torch.equal(seen[0][0], first[:, 2:])
    assert torch.equal(seen[1][0], last)


def test_the_last_scale_learns_from_the_labels():
    model, x, labels = make_hybrid()
    loss = hybrid_loss(*model(x), labels, weight=0.0)
    gradients = torch.autograd.grad(loss, list(model.flow.body.scales[-1].parameters()), allow_unused=True)
    assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 0.0


@pytest.mark.parametrize("changes", [{}, {"factor_out": False}, {"fc_blocks": 1, "fc_hidden": (4,)}])
def test_every_parameter_gets_a_gradient(changes):
    model, x, labels = make_hybrid(**changes)
    assert unused(model, model.loss(x, labels)) == []


def test_loss():
    logits, log_prob = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([-3.0, -5.0])
    labels = torch.tensor([0, 1])
    entropy = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(-2.0))) / 2.0
    assert float(hybrid_loss(logits, log_prob, labels)) == pytest.approx((entropy + 4.0) / math.log(2.0))
    assert float(hybrid_loss(logits, log_prob, labels, 0.5)) == pytest.approx((entropy + 2.0) / math.log(2.0))
    with pytest.raises(ValueError, match="weight must not be negative, got -1"):
        hybrid_loss(logits, log_prob, labels, -1.0)
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\), got \(1,\)"):
        hybrid_loss(logits, log_prob, labels[:1])
