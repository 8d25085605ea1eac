"""When an ActNorm starts: in the direction that is trained first, once, and never over what its parameters hold."""

import copy
import threading
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from iresnet_fast import nn
from iresnet_fast.models import FlowConfig, IResNetFlow

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = {"dense": (64, 5), "conv": (8, 5, 4, 3)}


def batch(kind="dense", scale=3.0, shift=2.0):
    return torch.randn(SHAPES[kind]) * scale + shift


def state(layer):
    return {name: value.clone() for name, value in layer.state_dict().items()}


def is_unchanged(layer, before):
    return all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("kind", SHAPES)
def test_trained_backwards_the_first_batch_comes_out_normalised(kind):
    layer, z = nn.ActNorm(5), batch(kind)
    x, logdet = layer.inverse(z)
    rows = x.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(1), torch.zeros(5), atol=1e-5, rtol=0.0)
    torch.testing.assert_close(rows.var(1, correction=0), torch.ones(5))
    again, minus = layer(x)
    torch.testing.assert_close(again, z)
    torch.testing.assert_close(minus, -logdet)
    assert layer.initialized
    before = state(layer)
    layer.inverse(z + 1.0)
    layer(z - 1.0)
    assert is_unchanged(layer, before)


def test_backwards_a_constant_channel_keeps_its_scale():
    z = torch.cat((torch.randn(16, 2), torch.full((16, 1), 1000.1)), 1)
    layer = nn.ActNorm(3)
    x, _ = layer.inverse(z)
    assert float(layer.log_scale[2].detach()) == 0.0
    torch.testing.assert_close(x[:, 2], torch.zeros(16), atol=1e-3, rtol=0.0)
    alone = nn.ActNorm(3)
    assert torch.equal(alone.inverse(torch.ones(1, 3))[0], torch.zeros(1, 3))
    waiting = nn.ActNorm(3)
    waiting.inverse(torch.empty(0, 3))
    assert not waiting.initialized
    with pytest.raises(ValueError, match="first batch of an ActNorm must be finite, got NaN or infinity"):
        waiting.inverse(torch.full((4, 3), torch.nan))
    assert not waiting.initialized


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_samples_without_gradient_start_nothing(mode):
    """A picture before the training on data must not fit the layers to the prior."""
    layer, z = nn.ActNorm(5), batch()
    with mode(), pytest.warns(RuntimeWarning, match="the inverse of an ActNorm that has seen no batch is the identity"):
        x, _ = layer.inverse(z)
    assert torch.equal(x, z)
    assert not layer.initialized
    torch.testing.assert_close(layer(batch())[0].var(0, correction=0), torch.ones(5))


def by_steps_in_evaluation(layer):
    layer.eval()
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        z, logdet = layer(batch())
    (z.square().sum(1) - logdet).mean().backward()
    optimizer.step()
    layer.train()


def by_steps_backwards(layer):
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    x, logdet = layer.inverse(batch())
    ((x - 4.0).square().sum(1) - logdet).mean().backward()
    optimizer.step()


def by_hand(layer):
    with torch.no_grad():
        layer.bias[1] = -3.0


def by_data(layer):
    layer.log_scale.data += 0.5


def by_parameters_alone(layer):
    trained = nn.ActNorm(5)
    trained(batch())
    layer.load_state_dict(dict(trained.named_parameters()), strict=False)


def by_copies_of_parameters(layer):
    trained = nn.ActNorm(5)
    trained(batch())
    with torch.no_grad():
        for ours, theirs in zip(layer.parameters(), trained.parameters(), strict=True):
            ours.copy_(theirs)


def by_an_average_of_parameters(layer):
    trained = nn.ActNorm(5)
    trained(batch())
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.5)
    average(list(layer.parameters()), list(trained.parameters()), None)


def by_tying(layer):
    trained = nn.ActNorm(5)
    trained(batch())
    layer.bias, layer.log_scale = trained.bias, trained.log_scale


def by_freezing(layer):
    layer.requires_grad_(False)


def by_freezing_once_started(layer):
    layer.inverse(batch())
    layer.requires_grad_(False)


WAYS = [
    by_steps_in_evaluation,
    by_steps_backwards,
    by_hand,
    by_data,
    by_parameters_alone,
    by_copies_of_parameters,
    by_an_average_of_parameters,
    by_tying,
    by_freezing,
    by_freezing_once_started,
]


@pytest.mark.filterwarnings("ignore:iresnet_fast")
@pytest.mark.parametrize("direction", ["forward", "inverse"])
@pytest.mark.parametrize("way", WAYS)
def test_no_batch_overwrites_what_the_parameters_hold(way, direction):
    layer = nn.ActNorm(5)
    way(layer)
    before = [parameter.clone() for parameter in layer.parameters()]
    getattr(layer.train(), direction)(batch(shift=-9.0))
    for parameter, expected in zip(layer.parameters(), before, strict=True):
        assert torch.equal(parameter, expected)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_parameters_that_hold_something_are_no_identity_to_warn_of(mode):
    layer = nn.ActNorm(5)
    by_copies_of_parameters(layer)
    getattr(layer, mode)()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(batch())
        layer.inverse(batch())
    assert layer.initialized


def test_frozen_parameters_say_that_they_wait():
    layer = nn.ActNorm(5).requires_grad_(False)
    with pytest.warns(
        RuntimeWarning, match="training with frozen parameters of an ActNorm that has seen no batch"
    ) as told:
        layer(batch())
    assert told[0].filename == __file__
    layer.requires_grad_(True)
    torch.testing.assert_close(layer(batch())[0].var(0, correction=0), torch.ones(5))


@pytest.mark.parametrize("assign", [False, True])
def test_the_bool_of_earlier_checkpoints_loads(assign):
    layer, loaded = nn.ActNorm(5), nn.ActNorm(5)
    layer(batch())
    old = {**layer.state_dict(), "initialized": torch.tensor(True)}
    loaded.load_state_dict(old, strict=True, assign=assign)
    assert loaded.initialized.dtype == torch.float32
    assert old["initialized"].dtype == torch.bool  # the caller's
    before = state(loaded)
    loaded(batch(shift=-9.0))
    assert is_unchanged(loaded, before)
    fresh = {**nn.ActNorm(5).state_dict(), "initialized": torch.tensor(False)}
    loaded.load_state_dict(fresh, strict=True, assign=assign)
    torch.testing.assert_close(loaded(batch())[0].var(0, correction=0), torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_flag_survives_other_dtypes(dtype):
    layer = nn.ActNorm(5)
    layer(batch())
    other = copy.deepcopy(layer).to(dtype)
    assert other.initialized
    before = state(other)
    other(batch(shift=-9.0).to(dtype))
    assert is_unchanged(other, before)


def test_threads_share_one_first_batch():
    for _ in range(20):
        layer, ready, found = nn.ActNorm(5), threading.Barrier(8), []
        batches = [batch(shift=float(i)) for i in range(8)]

        def run(i, layer=layer, ready=ready, found=found, batches=batches):
            ready.wait()
            z, _ = layer(batches[i]) if i % 2 else layer.inverse(batches[i])
            found.append((i, z.detach()))

        threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        for i, z in found:
            expected = layer(batches[i])[0] if i % 2 else layer.inverse(batches[i])[0]
            assert torch.equal(z, expected.detach())


@pytest.mark.filterwarnings("ignore:iresnet_fast")
def test_a_flow_trained_by_reverse_kl_keeps_what_it_learnt():
    torch.manual_seed(0)
    flow = IResNetFlow(FlowConfig((2,), blocks=(2,), hidden=(8, 8), final_actnorm=True)).train()
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(10):
        x, log_q = flow.sample_and_log_prob(64)
        optimizer.zero_grad()
        (log_q + 0.5 * (x - 4.0).square().sum(1)).mean().backward()
        optimizer.step()
    before = {name: value.clone() for name, value in flow.named_parameters()}
    with torch.no_grad():
        flow.log_prob(3.0 * torch.randn(100, 2))
    flow.initialize(torch.randn(100, 2) - 7.0)
    norms = [layer for layer in flow.modules() if isinstance(layer, nn.ActNorm)]
    assert len(norms) == 3
    for name, value in flow.named_parameters():
        if not name.startswith("prior."):  # which `initialize` fits
            assert torch.equal(value, before[name]), name


@pytest.mark.filterwarnings("ignore:iresnet_fast")
def test_a_picture_before_the_first_batch_changes_nothing():
    torch.manual_seed(0)
    flow = IResNetFlow(FlowConfig((2,), blocks=(2,), hidden=(8, 8))).train()
    twin = copy.deepcopy(flow)
    flow.sample(10)
    x = torch.randn(64, 2) * 5.0 + 3.0
    for model in (flow, twin):
        model.initialize(x)
    for ours, theirs in zip(flow.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_both_directions_in_one_loss():
    """What the first call sets, the second finds: no write comes between a graph and its backward pass."""
    layer = nn.ActNorm(5)
    x, first = layer.inverse(batch())
    z, second = layer(batch())
    (x.square().sum() + z.square().sum() + first.sum() + second.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpoint_differentiates_what_it_computed(use_reentrant):
    """The reentrant one calls without gradients first, and with them within the backward pass."""
    layer, z = nn.ActNorm(5), batch().requires_grad_()
    x = checkpoint(lambda a: layer.inverse(a)[0], z, use_reentrant=use_reentrant)
    x.square().sum().backward()
    again = layer.inverse(z.detach())[0] if not use_reentrant else z.detach()
    torch.testing.assert_close(x.detach(), again.detach())
    torch.testing.assert_close(layer.bias.grad, -2.0 * x.detach().sum(0), rtol=1e-3, atol=1e-3)


def test_what_functional_call_lends_is_not_the_layers():
    """A trained state that is lent for one call does not make a fresh layer an initialised one."""
    torch.manual_seed(0)
    trained, fresh, x = nn.ActNorm(3), nn.ActNorm(3), 2.0 * torch.randn(50, 3) + 7.0
    trained(x)
    lent = {**dict(trained.named_parameters()), **dict(trained.named_buffers())}
    z, _ = torch.func.functional_call(fresh, lent, (x,))
    torch.testing.assert_close(z, trained(x)[0])
    torch.testing.assert_close(fresh(x)[0].mean(0), torch.zeros(3), rtol=0.0, atol=1e-5)
    assert float(fresh.initialized) == 1.0


def test_a_layer_that_an_earlier_version_pickled_goes_on():
    layer, linear = nn.ActNorm(3), nn.InvertibleLinear(3)
    layer(torch.randn(20, 3))
    x = torch.randn(4, 3)
    expected, mixed = layer(x)[0], linear(x)[0]
    for old in (layer, linear):
        state = old.__getstate__() if hasattr(old, "__getstate__") else old.__dict__
        old = type(old).__new__(type(old))
        buffers = dict(state["_buffers"])
        if "initialized" in buffers:
            buffers["initialized"] = buffers["initialized"].bool()
        else:
            buffers["permutation"] = buffers["permutation"].argmax(1)
        old.__setstate__({**state, "_buffers": buffers})
        torch.testing.assert_close(old(x)[0], expected if "initialized" in buffers else mixed)
        assert all(buffer.is_floating_point() for buffer in old.buffers())
