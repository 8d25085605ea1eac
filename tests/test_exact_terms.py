"""Exact first terms of the log-determinant, against Jacobians by autograd in float64: values, means and gradients."""

import itertools
import math
import weakref

import pytest
import torch

from iresnet_fast import nn, ops, reference
from iresnet_fast._lowering import lowered
from iresnet_fast._traces import _last, coloured_probes, kept_maps_of, places_of
from iresnet_fast.estimators import PowerSeries, RussianRoulette
from iresnet_fast.nn import Call

# A name, the event, hidden channels, the kernel of each stage (none: dense), activations, and how many traces have a
# closed form.
CASES = {
    "one dense": ((4,), (), (), ("elu",), 2),
    "two dense": ((4,), (6,), (), ("identity", "elu"), 2),
    "two dense, leading": ((3,), (5,), (), ("lipswish", "tanh"), 1),
    "three dense": ((4,), (6, 5), (), ("identity", "elu", "softplus"), 1),
    "three dense, leading": ((4,), (6, 5), (), ("elu", "elu", "softplus"), 0),
    "narrow": ((5,), (2,), (), ("identity", "tanh"), 2),
    "one number": ((1,), (3, 2), (), ("identity", "sin", "elu"), 1),
    "one convolution": ((2, 3, 3), (), (3,), ("softplus",), 1),
    "two convolutions": ((1, 4, 3), (5,), (3, 3), ("identity", "elu"), 1),
    "two convolutions, leading": ((2, 3, 2), (5,), (3, 5), ("lipswish", "elu"), 1),
    "pointwise": ((2, 3, 2), (4,), (1, 1), ("identity", "tanh"), 2),
    "three pointwise": ((3, 2, 2), (4, 5), (1, 1, 1), ("identity", "tanh", "elu"), 1),
    "3-1-3": ((1, 5, 3), (4, 3), (3, 1, 3), ("identity", "elu", "lipswish"), 0),
    "3-1-3, leading": ((2, 3, 5), (4, 3), (3, 1, 3), ("lipswish", "elu", "lipswish"), 0),
    "3-3-3": ((1, 3, 4), (2, 3), (3, 3, 3), ("elu", "elu", "tanh"), 0),
    "1-5": ((3, 1, 4), (4,), (1, 5), ("identity", "elu"), 1),
    "48 channels": ((48, 1, 2), (7,), (3, 3), ("lipswish", "elu"), 1),
    "maxmin": ((4,), (6,), (), ("identity", "maxmin"), 2),
    "clipswish": ((3,), (4,), (), ("identity", "clipswish"), 2),
}
SMALL = ["two dense", "two dense, leading", "three dense", "three dense, leading", "narrow", "one convolution"]
SMALL += ["two convolutions", "two convolutions, leading", "pointwise", "three pointwise", "3-1-3", "3-1-3, leading"]
API = {"kernels": ops, "reference": reference}


def build(name, batch=2, seed=0):
    """Return x and the weights, biases and activations of a contraction, in float64."""
    event, hidden, kernels, activations, _ = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    channels = (event[0], *hidden, event[0])
    weights, biases = [], []
    for i, (n_in, n_out) in enumerate(itertools.pairwise(channels)):
        n_in *= 2 if activations[i] == "clipswish" else 1
        side = (kernels[i],) * 2 if kernels else ()
        bound = 0.8 / math.sqrt(n_in * math.prod(side))
        weights.append(bound * torch.randn(n_out, n_in, *side, generator=generator).double())
        biases.append(torch.randn(n_out, generator=generator).double())
    x = torch.randn(batch, *event, generator=generator).double()
    return x, weights, biases, activations


def jacobians(x, weights, biases, activations):
    """Return J [B, d, d], differentiable."""
    d = x[0].numel()

    def g(sample):
        return reference.branch(sample[None], weights, biases, activations)[0]

    return torch.stack([torch.autograd.functional.jacobian(g, s, create_graph=True).reshape(d, d) for s in x])


def trace(matrices):
    return matrices.diagonal(0, 1, 2).sum(1)


def gradients_of(values, leaves, seed):
    return torch.autograd.grad(values, leaves, seed, allow_unused=True, materialize_grads=True, retain_graph=True)


@pytest.mark.parametrize("n_terms", [1, 2])
@pytest.mark.parametrize("api", API)
@pytest.mark.parametrize("name", CASES)
def test_traces_and_their_gradients_are_those_of_the_jacobian(name, api, n_terms):
    x, weights, biases, activations = build(name)
    leaves = [tensor.requires_grad_() for tensor in (x, *weights, *biases)]
    J = jacobians(x, weights, biases, activations)
    expected = torch.stack((trace(J), trace(J @ J)), 1)[:, :n_terms]
    with torch.no_grad():
        found = API[api].jacobian_traces(x, weights, biases, activations, n_terms)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    found = API[api].jacobian_traces(x, weights, biases, activations, n_terms)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    seed = torch.tensor([[0.3, -1.1], [1.7, 0.6]]).double()[:, :n_terms]
    for got, want in zip(gradients_of(found, leaves, seed), gradients_of(expected, leaves, seed), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
def test_closed_forms_are_known_where_they_should_be(name):
    _, weights, biases, activations = build(name)
    stages = lowered(weights, biases, activations, None, None)
    assert len(places_of(stages.weights, stages.activations, stages.factors)) == CASES[name][4]


def signs(event):
    """Return every vector of signs, [2^d, *event]."""
    d = math.prod(event)
    bits = torch.arange(2**d)[:, None] >> torch.arange(d) & 1
    return (2.0 * bits - 1.0).double().view(-1, *event)


@pytest.mark.parametrize("gradient", ["neumann", "series"])
@pytest.mark.parametrize("n_exact", [0, 1, 2])
@pytest.mark.parametrize("api", API)
@pytest.mark.parametrize("name", SMALL)
def test_unbiased_by_enumeration_of_all_probes(name, api, n_exact, gradient):
    """The mean over all vectors of signs is the series of traces; its gradient is that of the series."""
    event = CASES[name][0]
    x, weights, biases, activations = build(name, batch=1)
    leaves = [tensor.requires_grad_() for tensor in (x, *weights, *biases)]
    q = torch.tensor([1.0, 0.7, 1.3, 2.0]).double()  # as of a roulette: none of them is 1 throughout
    J = jacobians(x, weights, biases, activations)
    powers = itertools.accumulate(itertools.repeat(J, len(q)), torch.matmul)
    expected = sum((-1) ** k / (k + 1) * q[k] * trace(power) for k, power in enumerate(powers))
    every = signs(event) if math.prod(event) <= 6 else None
    if every is None:  # too many to enumerate: the unit vectors, scaled, have the identity as their second moment too
        every = math.sqrt(math.prod(event)) * torch.eye(math.prod(event)).double().view(-1, *event)
    _, logdet = API[api].residual_logdet(
        x, weights, biases, activations, every[:, None], q, gradient, exact_terms=n_exact
    )
    torch.testing.assert_close(logdet, expected, rtol=1e-10, atol=1e-12)
    seed = torch.tensor([1.3]).double()
    for got, want in zip(gradients_of(logdet, leaves, seed), gradients_of(expected, leaves, seed), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["two dense", "three dense", "two convolutions", "3-1-3", "3-1-3, leading"])
def test_exact_terms_take_their_variance_away(name):
    """With all terms exact nothing varies; with fewer, less does."""
    x, *branch = build(name)
    generator = torch.Generator().manual_seed(1)
    probes = torch.randint(0, 2, (200, *x.shape), generator=generator).double() * 2.0 - 1.0
    spreads = []
    for n_exact in (0, 1, 2):
        values = [ops.residual_logdet(x, *branch, v, [1.0, 1.0], exact_terms=n_exact)[1] for v in probes]
        spreads.append(torch.stack(values).std(0).max().item())
    assert spreads[0] > 1.3 * spreads[1] > 0.0
    assert spreads[2] < 1e-12


@pytest.mark.parametrize("name", ["two dense", "two convolutions", "three dense", "3-1-3"])
def test_second_derivatives(name):
    """Through the reference, with the maps of the traces among what is differentiated."""
    x, weights, biases, activations = build(name)
    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    leaves = [tensor.requires_grad_() for tensor in (x, *weights)]

    def curvature(api):
        logdet = api.residual_logdet(x, weights, biases, activations, probe, [1.0, 0.5, 2.0], exact_terms=1)[1]
        first = torch.autograd.grad(logdet.sin().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    for got, want in zip(curvature(ops), curvature(reference), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 6), (2, 9)])
@pytest.mark.parametrize("kernels", [(3, 1, 3), (5, 3), (1,), (7, 7)])
@pytest.mark.parametrize("n_terms", [1, 2])
def test_coloured_probes_connect_no_two_of_their_pixels(size, kernels, n_terms):
    x = torch.empty(0, 2, *size)
    probes = coloured_probes(x, [(k, k) for k in kernels], n_terms)
    assert torch.equal(probes.sum(0), torch.ones(2, *size))  # each number is in one of them
    reach = n_terms * sum(k // 2 for k in kernels)
    for probe in probes:
        places = probe.nonzero()
        assert len(places[:, 0].unique()) == 1  # of one channel
        apart = (places[:, None, 1:] - places[None, :, 1:]).abs().amax(-1)
        apart.fill_diagonal_(reach + 1)
        assert apart.min() > reach


def test_maps_are_made_again_only_for_other_weights():
    _, weights, _, activations = build("two dense")
    places = places_of(weights, activations, [None, None])
    first = kept_maps_of(places, weights, ())
    assert all(a is b for a, b in zip(kept_maps_of(places, weights, ()), first, strict=True))
    with torch.no_grad():
        weights[0].mul_(2.0)
    torch.testing.assert_close(kept_maps_of(places, weights, ())[0], 2.0 * first[0])
    # What anybody may write through .data is never kept.
    weights[0] = torch.nn.Parameter(weights[0], requires_grad=False)
    second = kept_maps_of(places, weights, ())
    weights[0].data.mul_(2.0)
    torch.testing.assert_close(kept_maps_of(places, weights, ())[0], 2.0 * second[0])
    weights[1].requires_grad_()
    assert all(made.requires_grad for made in kept_maps_of(places, weights, ()))


@pytest.mark.parametrize("name", ["one dense", "two dense", "one convolution"])
def test_maps_do_not_keep_weights_alive(name):
    _, weights, _, activations = build(name)
    places = places_of(weights, activations, [None] * len(weights))
    maps = kept_maps_of(places, weights, CASES[name][0][1:])
    before, watched = len(_last), weakref.ref(weights[0])
    weights.clear()
    assert watched() is None
    assert len(_last) == before - 1
    del maps


def test_maps_of_inference_mode_are_of_that_call_alone():
    block = dense_block((64,), 2, d=16).requires_grad_(False).eval()
    x = torch.randn(5, 16).double()
    with torch.inference_mode():
        first = nn.Sequential(block)(x)[1]
    x = x.requires_grad_()
    logdet = nn.Sequential(block)(x)[1]
    torch.testing.assert_close(logdet, first.clone())
    assert torch.autograd.grad(logdet.sum(), x)[0].abs().sum() > 0.0


@pytest.mark.parametrize("exact_terms", ["auto", 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_no_sample_behind_a_mask(exact_terms, training):
    branch = nn.MaskedBranch(nn.ResidualBranch([nn.SpectralLinear(64, 64)], ["identity"]))
    block = nn.InvertibleResidualBlock(branch, PowerSeries(8, exact_terms=exact_terms)).train(training)
    z, logdet = block(torch.randn(0, 64), nn.Masks(None, torch.rand(0, 64)))
    assert z.shape == (0, 64)
    assert logdet.shape == (0,)


@pytest.mark.parametrize("name", ["two dense, leading", "one convolution", "3-1-3"])
def test_traces_are_differentiable_twice(name):
    x, weights, biases, activations = build(name)
    inputs = tuple(tensor.requires_grad_() for tensor in (x, *weights))

    def traces(x, *weights):
        return ops.jacobian_traces(x, weights, biases, activations, 2)

    assert torch.autograd.gradgradcheck(traces, inputs, fast_mode=True)


def test_a_map_is_made_of_square_branches_only():
    x, none = torch.zeros(1, 40), torch.zeros(0)
    weights = [torch.zeros(2, 40), torch.zeros(3, 2)]
    branch = (weights, [none] * 2, [none] * 2, [none] * 2, [0, 1], [0.0, 0.0])
    with pytest.raises(RuntimeError, match="as many channels as they take"):
        torch.ops.iresnet_fast.branch_backward(
            x, *branch, None, None, None, None, [torch.zeros(2)], [1, -2], None, False, True, None, 0
        )


@pytest.mark.parametrize(
    ("value", "error"), [(3, ValueError), (-1, ValueError), ("all", ValueError), (1.5, TypeError), (True, TypeError)]
)
@pytest.mark.parametrize("estimator", [PowerSeries, RussianRoulette])
def test_bad_numbers_of_exact_terms_are_refused(estimator, value, error):
    with pytest.raises(error, match="exact_terms must be"):
        estimator(exact_terms=value)


def dense_block(hidden, exact_terms, d=4, **options):
    torch.manual_seed(0)
    branch = nn.ResidualBranch.dense((d, *hidden, d), coeff=0.8, **options)
    return nn.InvertibleResidualBlock(branch, PowerSeries(n_terms=6, exact_terms=exact_terms)).double()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("exact_terms", [1, 2])
def test_a_block_is_the_op_with_exact_terms(exact_terms, training):
    block = dense_block((9,), exact_terms).train(training)
    x = torch.randn(5, 4).double()
    block(x)
    stages = block.branch.as_stages(x, None)
    torch.manual_seed(3)
    logdet = block(x)[1]
    torch.manual_seed(3)
    probe, q = block.estimator.draw(x, training, keys=None if training else Call.of(x).keys())
    expected = reference.residual_logdet(
        x, *stages[:3], probe, q, parameters=stages.parameters, exact_terms=exact_terms
    )[1]
    torch.testing.assert_close(logdet, expected)


@pytest.mark.parametrize(
    ("hidden", "options", "training", "expected"),
    [
        ((128,), {"d": 16, "batch": 512}, True, 1),  # no product is needed
        ((128,), {"d": 32, "batch": 511}, True, 0),  # of so few samples the map would count
        ((9,), {"batch": 512}, True, 0),  # too small to gain by it
        ((9,), {}, False, 2),
        ((9,), {"preactivation": True}, True, 0),
        ((9,), {"preactivation": True}, False, 2),  # 4 x 4 numbers: J itself is no dearer than the series
        ((9, 8), {}, True, 0),
        ((9, 8), {}, False, 2),
        ((64, 64), {"d": 30}, False, 1),
    ],
)
def test_auto_takes_what_is_cheap(hidden, options, training, expected):
    """A block with so many exact terms gives the same numbers."""
    options = {"d": 4, **options}
    batch = options.pop("batch", 5)
    auto, chosen = (dense_block(hidden, n, **options).train(training) for n in ("auto", expected))
    others = [dense_block(hidden, n, **options).train(training) for n in {0, 1, 2} - {expected}]
    x = torch.randn(batch, options["d"]).double()
    results = []
    for block in (auto, chosen, *others):
        block(x)  # the norms converge
        torch.manual_seed(3)
        results.append(block(x)[1])
    torch.testing.assert_close(results[0], results[1])
    for other in results[2:]:
        assert not torch.allclose(results[0], other)


class Tanh(torch.nn.Module):
    """A branch that is no Branch."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 3).double()

    def forward(self, x):
        return 0.4 * self.linear(x).tanh()


@pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs")
def test_any_module_has_exact_terms_if_they_are_asked_for():
    torch.manual_seed(0)
    branch = Tanh()
    x = torch.randn(2, 3).double()
    values = []
    for exact_terms in (2, 0):
        block = nn.InvertibleResidualBlock(branch, PowerSeries(n_terms=2, exact_terms=exact_terms), lipschitz=0.9)
        values.append(torch.stack([block(x)[1] for _ in range(400)]))
    J = torch.stack([torch.autograd.functional.jacobian(lambda s: branch(s[None])[0], s) for s in x])
    torch.testing.assert_close(values[0], (trace(J) - trace(J @ J) / 2).expand(400, 2))
    assert values[1].std(0).min() > 1e-3
