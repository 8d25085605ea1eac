"""In eval mode everything about a sample is a function of that sample: its score, its latent, its noise, its number."""

import copy
import math

import pytest
import torch
from models_examples import FLOWS, make_data, make_flow, make_hybrid

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import FlowConfig, IResNetFlow

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. .* as its branch on the autograd"),
]

ROUNDING = {"rtol": 1e-12, "atol": 1e-10}  # float64: products of other batch sizes are summed in another order


def with_series(name):
    """A flow in eval mode whose estimates are noisy, and a batch."""
    flow = make_flow(name).eval()
    for module in flow.modules():
        if isinstance(module, nn.InvertibleResidualBlock):
            module.estimator = PowerSeries(6, n_probes=2) if name == "dense" else PowerSeries(6)
    return flow, *make_data(flow, 6)


def in_parts(function, x, context, sizes):
    """The function of a batch, applied to parts of such sizes."""
    contexts = [None] * len(sizes) if context is None else context.split(sizes)
    return torch.cat([function(part, c) for part, c in zip(x.split(sizes), contexts, strict=True)])


@pytest.mark.parametrize("name", FLOWS)
def test_a_score_and_a_latent_do_not_depend_on_the_batch(name):
    flow, x, context = with_series(name)
    functions = [
        flow.log_prob,
        flow.transform_to_noise,
        lambda x, context: flow(x, context)[1],
        lambda x, context: flow.reconstruct(x, context).z,
    ]
    with torch.no_grad():
        for function in functions:
            whole = function(x, context)
            torch.testing.assert_close(in_parts(function, x, context, [1] * 6), whole, **ROUNDING)
            torch.testing.assert_close(in_parts(function, x, context, [2, 4]), whole, **ROUNDING)
            order = torch.tensor([3, 0, 5, 1, 4, 2])
            shuffled = function(x[order], None if context is None else context[order])
            torch.testing.assert_close(shuffled, whole[order], **ROUNDING)
            twice = function(torch.cat((x, x)), None if context is None else torch.cat((context, context)))
            torch.testing.assert_close(twice, torch.cat((whole, whole)), **ROUNDING)
        z = flow.transform_to_noise(x, context)
        whole = flow.inverse(z, context)[1]
        # The inverse's x may differ in its last bits, and with them its probes, where a batch is summed otherwise.
        torch.testing.assert_close(flow.inverse(z, context)[1], whole, **ROUNDING)


# Forward adds noise of the data to the others, another than that of the latent.
@pytest.mark.parametrize("name", sorted(FLOWS.keys() - {"digits", "padded"}))
def test_the_inverse_has_the_log_determinant_of_its_x(name):
    flow, x, context = with_series(name)
    with torch.no_grad():
        z = flow.transform_to_noise(x, context)
        back, logdet = flow.inverse(z, context)
        torch.testing.assert_close(logdet, -flow(back, context)[1], rtol=1e-9, atol=1e-8)


def test_a_sample_with_its_log_density_is_scored_alike():
    flow, _, _ = with_series("image, factored out")
    with torch.no_grad():
        x, log_prob = flow.sample_and_log_prob(7)
        torch.testing.assert_close(log_prob, flow.log_prob(x), rtol=1e-8, atol=1e-7)


def test_hybrids_and_blocks_alone():
    model, x, _ = make_hybrid(eval_estimator=PowerSeries(12))
    model(x)
    model.eval()
    block = nn.InvertibleResidualBlock(nn.ResidualBranch.dense([5, 8, 5]), RussianRoulette()).double().eval()
    rows = torch.randn(6, 5, dtype=torch.float64)
    with torch.no_grad():
        whole = model(x)
        for i in range(6):
            alone = model(x[i : i + 1])
            for ours, theirs in zip(alone, whole, strict=True):
                torch.testing.assert_close(ours, theirs[i : i + 1], **ROUNDING)
        torch.testing.assert_close(in_parts(lambda x, _: block(x)[1], rows, None, [1] * 6), block(rows)[1], **ROUNDING)


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_noise_is_that_of_the_sample(noise):
    x = torch.randint(0, 4, (6, 3, 2, 2))
    layers = [nn.Dequantize(4), nn.NoisePad(2, noise)]
    for layer, y in zip(layers, (x, x.double()), strict=True):
        layer.eval()
        whole = layer(y)[0]
        assert torch.equal(layer(y.flip(0))[0], whole.flip(0))
        assert torch.equal(layer(y[2:3])[0], whole[2:3])
        layer.eval_seed = 1
        assert not torch.equal(layer(y)[0], whole)
    # In a flow they share the keys of a sample, and are independent all the same.
    pads = nn.Sequential(nn.NoisePad(1), nn.NoisePad(1)).eval()
    added = pads(torch.randn(20_000, 1))[0][:, 1:]
    assert float((added[:, 0] * added[:, 1]).mean().abs()) < 5.0 / math.sqrt(20_000)


def test_standard_errors_are_right_whatever_the_data():
    """The noise of samples is independent: the mean over n of them is off by 1 / sqrt(n) of one of them."""
    torch.manual_seed(0)
    config = FlowConfig((12,), blocks=(2,), hidden=(16, 16), eval_estimator=PowerSeries(20, exact_terms=0))
    flow = IResNetFlow(config).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(4.0)
    flow.initialize(torch.randn(200, 12).double())
    exact = copy.deepcopy(flow.eval())
    for module in exact.modules():
        if isinstance(module, nn.InvertibleResidualBlock):
            module.estimator = Exact()
    near = torch.randn(12) + 1e-9 * torch.randn(4000, 12, dtype=torch.float64)
    for x in (torch.randn(4000, 12, dtype=torch.float64), near):
        with torch.no_grad():
            noise = flow.log_prob(x) - exact.log_prob(x)
        groups = noise.view(40, 100)
        within, between = float(groups.std(1).mean()), float(groups.mean(1).std())
        assert within > 0.05
        # The chi distribution of 39 degrees of freedom: a factor of 1.6 either way is six standard deviations.
        assert 1 / 1.6 < between * 10.0 / within < 1.6
        assert float(noise.mean().abs()) < 5.0 * within / math.sqrt(4000) + 0.01  # and its truncation


def test_parts_and_seeds_have_probes_of_their_own():
    series = PowerSeries(2, exact_terms=0)
    blocks = [nn.InvertibleResidualBlock(nn.ResidualBranch.dense([6, 8, 6]), series) for _ in range(2)]
    blocks[1].load_state_dict(blocks[0].state_dict())
    flow, x = nn.Sequential(*blocks).eval(), torch.randn(4000, 6)
    with torch.no_grad():
        first = flow[0](x, call=nn.Call.of(x).part(0))[1]
        second = flow(x)[1] - first
        again = flow[1](x, call=nn.Call.of(x).part(1))[1]
        other = flow[0](x, call=nn.Call.of(x, seed=1).part(0))[1]
        assert torch.equal(first, flow[0](x, call=nn.Call.of(x).part(0))[1])
    noises = [noise - noise.mean() for noise in (first, second, again, other)]
    for a, b in ((0, 1), (0, 2), (0, 3)):
        # The values vary with x too, and that alike; a shared probe would correlate them by more than 0.9.
        assert float(torch.corrcoef(torch.stack((noises[a], noises[b])))[0, 1].abs()) < 0.5


def test_samples_are_numbered():
    flow = make_flow("image").eval()
    whole = flow.sample(9, seed=4)
    parts = [flow.sample(n, seed=4, first=first) for first, n in ((0, 2), (2, 6), (8, 1))]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0.0, atol=1e-9)
    assert not torch.allclose(flow.sample(9, seed=5), whole, atol=0.1)
    torch.manual_seed(3)
    first = flow.sample(8)
    assert not torch.allclose(flow.sample(8), first, atol=0.1)
    torch.manual_seed(3)
    torch.testing.assert_close(flow.sample(5), first[:5], rtol=0.0, atol=1e-9)
    state = torch.get_rng_state()
    flow.sample(2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    for arguments, message in (
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**64}, r"seed must be below 2\^64"),
        ({"first": -1}, "first must be at least 0"),
        ({"seed": 1, "first": 2**63}, r"first \+ n must be at most 2\^62"),
    ):
        with pytest.raises(ValueError, match=message):
            flow.sample(2, **arguments)
    last = {"seed": 2**64 - 1, "first": 2**62 - 2}
    assert not torch.allclose(flow.sample(2, **last), flow.sample(2, seed=2**64 - 1), atol=0.1)


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: PowerSeries(eval_seed=seed),
        lambda seed: RussianRoulette(eval_seed=seed),
        lambda seed: nn.NoisePad(1, eval_seed=seed),
        lambda seed: nn.Dequantize(4, eval_seed=seed),
        lambda seed: nn.DequantizeSteps([1.0], eval_seed=seed),
        lambda seed: nn.Call.of(torch.ones(2, 3), seed),
    ],
)
def test_seeds_of_more_than_64_bits_are_refused(draw):
    draw(2**64 - 1)
    with pytest.raises(ValueError, match=r"seed must be below 2\^64, got 18446744073709551616; pass a smaller one"):
        draw(2**64)
