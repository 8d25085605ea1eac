"""A flow as a torch.distributions.Distribution."""

import pytest
import torch
from models_examples import make_flow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs"),
]


def test_density_and_samples():
    flow = make_flow("dense").eval()
    distribution = flow.as_distribution()
    assert isinstance(distribution, torch.distributions.Distribution)
    assert (distribution.batch_shape, distribution.event_shape) == ((), (3,))
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(distribution.log_prob(x), flow.log_prob(x.view(8, 3)).view(4, 2))
    assert distribution.log_prob(x[0, 0]).shape == ()
    assert distribution.sample().shape == (3,)
    assert distribution.sample((2, 5)).shape == (2, 5, 3)
    assert not distribution.sample((2,)).requires_grad
    assert "FlowDistribution(event_shape=(3,))" in repr(distribution)


def test_samples_carry_gradients():
    flow = make_flow("dense").eval()
    distribution = flow.as_distribution()
    assert distribution.has_rsample
    x = distribution.rsample((6,))
    gradients = torch.autograd.grad(x.square().sum(), list(flow.body.parameters()))
    assert all(float(gradient.abs().sum()) > 0.0 for gradient in gradients)
    independent = torch.distributions.Independent(distribution, 0)
    assert independent.log_prob(x).shape == (6,)


def test_at_a_context():
    flow = make_flow("context").eval()
    context = torch.randn(2, dtype=torch.float64)
    distribution = flow.as_distribution(context)
    x = distribution.sample((4,))
    torch.testing.assert_close(distribution.log_prob(x), flow.log_prob(x, context.expand(4, -1)))


def test_values_that_do_not_meet_the_contexts():
    distribution = make_flow("context").eval().as_distribution(torch.randn(4, 2, dtype=torch.float64))
    x = distribution.sample()
    assert distribution.log_prob(x[:, None]).shape == (4, 4)
    with pytest.raises(ValueError, match=r"broadcasts with that of the contexts, \(4,\), got \(3,\); add a dimension"):
        distribution.log_prob(x[:3])


def test_integers_have_no_gradient():
    distribution = make_flow("digits").eval().as_distribution()
    assert not distribution.has_rsample
    assert distribution.sample((2,)).shape == (2, 1, 8, 8)
    with pytest.raises(NotImplementedError, match="rsample needs continuous data"):
        distribution.rsample()
