"""Parts of a chain that run in one call: what they return, draw and raise is what they do one after the other."""

import pickle

import pytest
import torch
from chains import ESTIMATORS, SHAPES, check_same, dense_chain, make_chain, outcome, part_by_part

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, draw_probe, draw_signs
from iresnet_fast.models import IResNetClassifier, IResNetFlow

pytestmark = pytest.mark.usefixtures("one_thread")

# Sums of float32 numbers of order 10 in another order, through three blocks forward and backward.
CLOSE = {"atol": 2e-4, "rtol": 1e-4}
CLOSE_DOUBLE = {"atol": 1e-11, "rtol": 1e-10}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("training", [True, False])
def test_a_run_is_its_parts(kind, estimator, training, runs):
    chain, x = make_chain(kind, estimator, torch.float64)
    chain.train(training)
    runs.clear()
    check_same(chain, x, **CLOSE_DOUBLE)
    if kind == "images" and estimator == "exact":
        assert runs == [1, 2]  # determinants of more than 16 dimensions of an image are no kernel
    elif kind == "dense" and estimator in ("probes", "roulette", "per sample"):
        assert runs == [4, 1]  # of three layers after an activation the exact term is a call of its own
    elif estimator != "auto" or training:  # in evaluation others are, too
        assert runs == [6 if kind == "dense" else 7]
    with torch.no_grad():
        found, expected = ((torch.manual_seed(1), call(x))[1] for call in (chain, lambda x: part_by_part(chain, x)))
    torch.testing.assert_close(found, expected, **CLOSE_DOUBLE)


@pytest.mark.parametrize("kind", SHAPES)
def test_in_single_precision_and_after_steps_of_an_optimizer(kind, runs):
    chain, x = make_chain(kind, "series")
    optimizer = torch.optim.SGD(chain.parameters(), 0.01)
    runs.clear()
    for step in range(3):
        check_same(chain, x, seed=step, **CLOSE)
        optimizer.zero_grad()
        z, logdet = chain(x)
        (z.square().mean() - logdet.mean()).backward()
        optimizer.step()
    assert set(runs) == {6 if kind == "dense" else 7}


def test_blocks_with_estimators_of_their_own(runs):
    chain, x = make_chain("dense", "series", torch.float64)
    chain[1].estimator, chain[4].estimator = Exact(), None
    runs.clear()
    check_same(chain, x, **CLOSE_DOUBLE)
    chain[5].estimator = ESTIMATORS["per sample"]
    check_same(chain, x, **CLOSE_DOUBLE)
    chain[1].eval()  # draws no number, and hashes its key
    chain[1].estimator = PowerSeries(4, exact_terms=0)
    check_same(chain, x, **CLOSE_DOUBLE)
    assert runs == [6, 6, 6]


def test_a_branch_that_is_normalised_as_a_whole(runs):
    torch.manual_seed(0)
    chain, x = dense_chain(Exact(), "branch").double(), torch.randn(4, 6, dtype=torch.float64)
    chain(x)
    runs.clear()
    check_same(chain, x, **CLOSE_DOUBLE)
    assert runs == [6]


@pytest.mark.parametrize("shapes", [[(3, 5)], [(3, 5), (2, 3, 5)], [(7, 2, 4, 4), (7, 32), (0, 5), (1, 1), (33, 33)]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs_of_many_blocks_are_those_of_a_draw_for_each(shapes, dtype):
    like = torch.empty((), dtype=dtype)
    torch.manual_seed(3)
    wanted = [(torch.Size(shape).numel(), shape) for shape in shapes]
    together = draw_signs(wanted, like)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    for signs, shape in zip(together, shapes, strict=True):
        alone = draw_probe(torch.empty(shape, dtype=dtype), 1, "rademacher")
        assert signs.shape == alone.shape == shape
        assert signs.dtype == alone.dtype == dtype
        assert torch.equal(signs, alone)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("estimator", ["none", "exact", "series"])
def test_of_no_sample_and_of_one(kind, size, estimator):
    chain, x = make_chain(kind, estimator, torch.float64)
    check_same(chain, x[:size], **CLOSE_DOUBLE)


def test_no_log_determinant_where_none_is_wanted(runs):
    chain, x = make_chain("dense", "series")
    before = torch.get_rng_state()
    z, logdet = chain(x, call=nn.Call.of(x, logdet=False))
    assert torch.equal(torch.get_rng_state(), before)
    expected = part_by_part(chain, x, call=nn.Call.of(x, logdet=False))
    torch.testing.assert_close((z, logdet), expected)


@pytest.mark.parametrize("frozen", ["weight", "bias", "layers", "all"])
def test_frozen_parameters_get_no_gradient(frozen):
    chain, x = make_chain("dense", "exact", torch.float64)
    for name, parameter in chain.named_parameters():
        parameter.requires_grad_(not (frozen == "all" or frozen in name))
    check_same(chain, x, **CLOSE_DOUBLE)
    if frozen == "all":
        assert not chain(x)[0].requires_grad
    chain.train()
    z, logdet = chain(x)  # without a gradient for x
    if frozen != "all":
        (z.sum() + logdet.sum()).backward()


def test_the_input_is_left_alone():
    chain, x = make_chain("images", "series")
    kept = x.clone()
    chain(x)
    with torch.inference_mode():
        chain(x)
    assert torch.equal(x, kept)


def test_second_derivatives_and_two_backward_passes():
    chain, x = make_chain("dense", "exact", torch.float64)
    x = x[:2].requires_grad_()
    found = []
    for function in (chain, lambda x: part_by_part(chain, x)):
        z, logdet = function(x)
        (first,) = torch.autograd.grad(z.cos().sum() + logdet.sum(), x, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [x, *chain.parameters()])
        z, logdet = function(x)
        loss = z.sin().sum() * logdet.sum()
        again = [torch.autograd.grad(loss, [x, *chain.parameters()], retain_graph=True) for _ in range(2)]
        torch.testing.assert_close(*again)
        found.append([first, *second, *again[0]])
    torch.testing.assert_close(*found, atol=1e-9, rtol=1e-8)


def test_gradients_of_one_result_alone():
    chain, x = make_chain("dense", "series", torch.float64)
    for i in range(2):
        found = []
        for function in (chain, lambda x: part_by_part(chain, x)):
            torch.manual_seed(2)
            found.append(torch.autograd.grad(function(x)[i].sum(), list(chain.parameters()), allow_unused=True))
        for ours, theirs in zip(*found, strict=True):
            if ours is not None or theirs is not None:
                zeros = torch.zeros_like(ours if theirs is None else theirs)
                torch.testing.assert_close(zeros if ours is None else ours, zeros if theirs is None else theirs)


def test_one_long_run_of_a_flow_and_of_each_scale(runs):
    torch.manual_seed(0)
    flow = IResNetFlow.preset("toy")
    flow(torch.randn(20, 2))
    runs.clear()
    flow(torch.randn(20, 2))
    assert runs == [len(flow.body)]
    flow = IResNetFlow.preset("mnist", blocks=(1, 1), factor_out=True)
    images = torch.randint(0, 256, (6, 1, 28, 28))
    flow(images)
    runs.clear()
    flow.eval()
    z, logdet = flow(images)
    assert len(runs) == 2
    for scale in flow.body.scales:  # every part by itself
        for part in scale:
            part.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(flow(images), (z, logdet), **CLOSE)
    assert len(runs) == 2


def test_one_run_for_each_scale_of_a_classifier(runs):
    torch.manual_seed(0)
    model = (
        IResNetClassifier.preset("mnist")
        if "mnist" in IResNetClassifier._table
        else IResNetClassifier.preset("cifar10")
    )
    x = torch.rand(3, *model.config.image_shape) - 0.5
    model(x)
    runs.clear()
    model(x)
    assert runs
    assert sum(runs) > len(model.body) / 2
    found, expected = model.body(x)[0], part_by_part(model.body, x)[0]
    torch.testing.assert_close(found, expected, **CLOSE)


def test_pickles_and_copies_hold_nothing_of_a_run():
    chain, x = make_chain("dense", "exact")
    before = len(pickle.dumps(chain))
    chain(x)
    assert len(pickle.dumps(chain)) == before
    twin = pickle.loads(pickle.dumps(chain))
    torch.testing.assert_close(outcome(twin, twin, x)[:2], outcome(chain, chain, x)[:2])
