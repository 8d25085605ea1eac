"""Models as modules: state_dict, copies, pickles, dtypes, one kernel call for all spectral norms, other libraries."""

import copy
import pickle

import pytest
import torch
from models_examples import CLASSIFIERS, FLOWS, make_classifier, make_data, make_flow, make_hybrid

from iresnet_fast import nn
from iresnet_fast.estimators import PowerSeries, RussianRoulette
from iresnet_fast.models import DiagonalNormal, IResNetClassifier, IResNetFlow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs"),
]


def trained_flow(name):
    flow = make_flow(name)
    x, context = make_data(flow)
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (-flow.log_prob(x, context).mean()).backward()
        optimizer.step()
    return flow, x, context


@pytest.mark.parametrize("name", list(FLOWS))
def test_defect_28_a_loaded_flow_goes_on_where_it_was(name):
    """The original's ActNorm forgets that it is initialised, and starts again from the first batch it sees."""
    flow, x, context = trained_flow(name)
    torch.manual_seed(1)
    again = IResNetFlow(flow.config).double()
    again.load_state_dict(flow.state_dict())
    assert torch.equal(again.eval().log_prob(x, context), flow.eval().log_prob(x, context))
    flow.train()
    again.train()
    torch.manual_seed(2)
    expected = flow.log_prob(x, context)
    torch.manual_seed(2)
    assert torch.equal(again.log_prob(x, context), expected)


@pytest.mark.parametrize("name", list(FLOWS))
def test_copies_and_pickles(name):
    flow, x, context = trained_flow(name)
    expected = flow.eval().log_prob(x, context)
    for again in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(again.log_prob(x, context), expected)
    assert "DiagonalNormal" in repr(flow)


def models():
    yield from ((name, make_flow(name)) for name in FLOWS)
    yield from ((name, make_classifier(name)[0]) for name in CLASSIFIERS)
    model, x, _ = make_hybrid()
    model(x)
    yield "hybrid", model


def test_safetensors_would_take_the_state():
    for name, model in models():
        state = model.state_dict()
        assert all(tensor.is_contiguous() for tensor in state.values()), name
        places = [tensor.untyped_storage().data_ptr() for tensor in state.values() if tensor.numel()]
        assert len(set(places)) == len(places), name


def test_safetensors_round_trip(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    flow, x, context = trained_flow("digits")
    safetensors.save_file(flow.state_dict(), tmp_path / "flow.safetensors")
    again = IResNetFlow(flow.config).double()
    again.load_state_dict(safetensors.load_file(tmp_path / "flow.safetensors"))
    assert torch.equal(again.eval().log_prob(x, context), flow.eval().log_prob(x, context))


def test_classifier_state():
    model, x = make_classifier("small")
    again = IResNetClassifier(model.config).double()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(x), model.eval()(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


@pytest.mark.parametrize("name", ["dense", "digits"])
def test_one_kernel_call_refreshes_all_norms(name, calls):
    flow = make_flow(name, torch.float32)
    x, _ = make_data(flow)
    optimizer = torch.optim.SGD(flow.parameters(), lr=1e-3)
    for model in (flow, copy.deepcopy(flow)):
        model.log_prob(x)  # a copy forms its own group
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()
        calls.clear()
        flow.log_prob(x)
        assert calls == [6]


def test_dtypes():
    flow = make_flow("digits", torch.float32).eval()
    x, _ = make_data(flow)
    assert flow.log_prob(x.to(torch.uint8)).dtype == torch.float32
    double = copy.deepcopy(flow).double()
    assert double.log_prob(x).dtype == torch.float64
    assert double.sample(1).dtype == torch.float64
    torch.testing.assert_close(double.log_prob(x).float(), flow.log_prob(x), atol=0.1, rtol=0.0)


@pytest.mark.parametrize("name", ["dense", "digits"])
@pytest.mark.parametrize("training", [False, True])
def test_compiles_as_one_graph(name, training):
    flow = make_flow(name, torch.float32).train(training)
    for block in flow.modules():
        if isinstance(getattr(block, "estimator", None), RussianRoulette):
            block.estimator = PowerSeries(n_terms=5)  # a number of terms drawn at random breaks the graph
    x, _ = make_data(flow)
    torch.manual_seed(1)
    expected = flow.log_prob(x)
    torch._dynamo.reset()
    torch.manual_seed(1)
    torch.testing.assert_close(torch.compile(flow.log_prob, backend="eager", fullgraph=True)(x), expected)
    with torch.inference_mode():
        assert flow.eval().log_prob(x).isfinite().all()


def test_a_flow_is_a_transform():
    """The contract of nflows: forward and inverse take (inputs, context) and return (outputs, logabsdet)."""
    flow = make_flow("context").eval()
    x, context = make_data(flow)
    joined = nn.Sequential(flow, nn.Affine(2.0))
    assert joined.takes_context
    assert joined.output_shape((3,)) == (3,)
    z, logdet = joined(x, context)
    expected, part = flow(x, context)
    torch.testing.assert_close(z, 2.0 * expected)
    torch.testing.assert_close(logdet, part + 3.0 * torch.log(torch.tensor(2.0)).double())
    torch.testing.assert_close(joined.inverse(z, context)[0], x, atol=1e-8, rtol=0.0)


def test_nflows_takes_it():
    flows = pytest.importorskip("nflows.flows")
    normal = pytest.importorskip("nflows.distributions.normal")
    flow = make_flow("dense", torch.float32).eval()
    x, _ = make_data(flow)
    theirs = flows.Flow(flow, normal.StandardNormal([3]))
    z, logdet = flow(x)
    torch.testing.assert_close(theirs.log_prob(x), DiagonalNormal(3, learned=False).log_prob(z) + logdet)


def test_prior():
    prior = DiagonalNormal(3)
    z = torch.randn(500, 3) * torch.tensor([2.0, 0.5, 0.0]) + torch.tensor([1.0, 0.0, -1.0])
    prior.fit(z)
    expected = torch.distributions.Normal(prior.mean, prior.log_scale.exp())
    torch.testing.assert_close(prior.log_prob(z), expected.log_prob(z).sum(1))
    torch.testing.assert_close(prior.mean.detach(), z.mean(0), atol=1e-6, rtol=1e-5)
    assert float(prior.log_scale[2].detach().exp()) == pytest.approx(0.01)
    sample = prior.sample(4000).detach()
    torch.testing.assert_close(sample.std(0), torch.tensor([2.0, 0.5, 0.01]), atol=0.2, rtol=0.1)
    standard = DiagonalNormal(3, learned=False)
    standard.fit(z)
    assert list(standard.parameters()) == []
    assert float(standard.mean.abs().sum()) == 0.0
    with pytest.raises(ValueError, match="z must hold at least one sample, got none"):
        prior.fit(z[:0])
    with pytest.raises(ValueError, match="n_dims must be at least 1"):
        DiagonalNormal(0)
