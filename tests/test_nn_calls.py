"""How a call goes through the parts of a model: what they get, what parts of others' making get, and what is left."""

import weakref

import pytest
import torch
from models_examples import FLOWS, make_data, make_flow

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import FlowConfig, IResNetFlow, ResidualFlow
from iresnet_fast.solvers import FixedPoint

pytestmark = pytest.mark.usefixtures("one_thread")


class Scale(torch.nn.Module):
    """A transform that knows nothing of calls, as users write them."""

    def forward(self, x):
        return 2.0 * x, x.new_full(x.shape[:1], x.shape[1] * 0.6931471805599453)

    def inverse(self, z):
        return 0.5 * z, z.new_full(z.shape[:1], -z.shape[1] * 0.6931471805599453)


class Drawn(nn.Dequantize):
    """A transform that notes what it draws from."""

    def forward(self, x, context=None, call=None):
        self.keys = call.keys()
        return super().forward(x, context, call)


class Wrapped(nn.InvertibleResidualBlock):
    """A block with a forward and an inverse of its own, of the signature without a call."""

    inverted = 0

    def forward(self, x, context=None):
        return super().forward(x, context)

    def inverse(self, z, context=None):
        self.inverted += 1
        return super().inverse(z, context)


def block(kind=nn.InvertibleResidualBlock, estimator=PowerSeries(4)):  # noqa: B008  # frozen
    return kind(nn.ResidualBranch.dense([3, 8, 3]), estimator, FixedPoint(1e-10)).double()


@pytest.mark.parametrize(
    "transform",
    [
        block(estimator=Exact()),
        nn.NoisePad(1),
        nn.Dequantize(4),
        nn.DequantizeSteps([1.0, 0.0, 1.0]),
        nn.Sequential(nn.ActNorm(3)).double(),
        nn.MultiScale([nn.Permutation([2, 0, 1])], (3,)),
        IResNetFlow(FlowConfig((3,), (1,), actnorm=False)).double(),
    ],
)
@pytest.mark.filterwarnings("ignore:iresnet_fast. evaluation of an ActNorm")
def test_a_call_is_that_of_its_samples(transform):
    x = torch.ones(5, 3, dtype=torch.float64)
    transform.eval()(x, call=nn.Call.of(x))
    for n in (1, 4):
        with pytest.raises(ValueError, match=f"call must be that of the 5 samples of x, got one of {n}; pass nn.Call"):
            transform(x, call=nn.Call.of(x[:n]))
    with pytest.raises(TypeError, match=r"call must be an nn.Call or None, got int; pass nn.Call.of\(x\)"):
        transform(x, call=3)


def test_transforms_of_others_are_parts():
    flow = nn.Sequential(Scale(), block(), Scale(), nn.MultiScale([Scale(), nn.Sequential(Scale())], (3,))).eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    z, logdet = flow(x)
    found = flow.solve(z)
    torch.testing.assert_close(found.x, x, rtol=0.0, atol=1e-8)
    assert float(found.error.max()) <= 1e-10
    assert int(found.iterations.min()) > 1
    back, inverse_logdet = flow.inverse(z)
    assert torch.equal(back, found.x)
    torch.testing.assert_close(inverse_logdet, -flow(back)[1])
    scales = 3 * 3 + 1
    alone = flow[1](2.0 * x, call=nn.Call.of(x).part(1))[1]
    torch.testing.assert_close(logdet, alone + scales * 0.6931471805599453)


def test_subclasses_that_know_no_call_are_asked_without():
    custom = block(Wrapped)
    assert (nn.InvertibleResidualBlock.takes_call, Wrapped.takes_call) == (True, False)
    flow, x = nn.Sequential(custom).eval(), torch.randn(4, 3, dtype=torch.float64)
    z, logdet = flow(x)
    torch.testing.assert_close(logdet, custom(x)[1])
    assert torch.equal(flow.solve(z).x, flow.inverse(z)[0])
    assert custom.inverted == 2


def test_methods_of_mixins_are_those_of_the_part():
    class Logged:
        def forward(self, x, context=None):
            calls.append("forward")
            return super().forward(x, context)

        def inverse(self, z, context=None):
            calls.append("inverse")
            return super().inverse(z, context)

    class Block(Logged, nn.InvertibleResidualBlock):
        pass

    calls = []
    flow = nn.Sequential(Block(nn.ResidualBranch.dense([4, 8, 4]))).eval()
    z, _ = flow(torch.randn(2, 4))
    flow.inverse(z)
    assert calls[:2] == ["forward", "inverse"]


def test_a_part_that_takes_a_call_gets_keys_of_the_whole():
    first, second = Drawn(4), Drawn(4)
    flow = nn.Sequential(first, Scale(), nn.Sequential(nn.Permutation.reverse(3), second)).eval()
    x = torch.zeros(2, 3)
    x[1] = 1.0
    with pytest.raises(ValueError, match="x must hold whole numbers, got fractions"):
        flow(x)
    assert torch.equal(first.keys, nn.Call.of(x).part(0).keys())
    assert torch.equal(second.keys, nn.Call.of(x).part(2).part(1).keys())
    assert torch.cat((first.keys, second.keys)).unique().numel() == 4


@pytest.mark.parametrize("name", sorted(FLOWS))
def test_no_two_parts_of_a_model_draw_the_same_numbers(name, monkeypatch):
    """Not the noise of one part and the probe of another either, since the sign of a probe is a bit of the noise."""
    flow = make_flow(name).eval()
    for module in flow.modules():
        if isinstance(module, nn.InvertibleResidualBlock):
            module.estimator = PowerSeries(4)
    x, context = make_data(flow, 1)
    outer = nn.Sequential(nn.Sequential(nn.Sequential(flow)))
    drawn = []
    keys = nn.Call.keys
    monkeypatch.setattr(nn.Call, "keys", lambda call: (drawn.append(keys(call)), keys(call))[1])
    for model in (flow, outer):
        drawn.clear()
        model(x, context)
        assert drawn
        assert torch.cat(drawn).unique().numel() == len(drawn)


def test_nested_parts_draw_numbers_of_their_own():
    pads = nn.Sequential(nn.Sequential(nn.Flatten((2,)), nn.NoisePad(1)), nn.NoisePad(1), nn.Sequential(nn.NoisePad(1)))
    z, _ = pads.eval()(torch.randn(3, 2))
    assert z[:, 2:].flatten().unique().numel() == 9


class Counted(nn.InvertibleResidualBlock):
    """A block that notes which of its outputs are still alive."""

    def deferred_inverse(self, z, context=None, logdet=True):
        found = super().deferred_inverse(z, context, logdet)
        self.output = weakref.ref(found.x)
        return found

    def inverse(self, z, context=None):
        raise AssertionError("not asked")


def test_an_inverse_without_log_determinant_keeps_nothing():
    flow = nn.Sequential(*[block(Counted) for _ in range(4)]).eval()
    with torch.no_grad():
        found = flow.solve(torch.randn(5, 3, dtype=torch.float64))
        assert [part.output() is not None for part in flow] == [True, False, False, False]
        kept = flow.deferred_inverse(found.x)
        assert all(part.output() is not None for part in flow)
        assert kept.logdet(nn.Call.of(kept.x)).shape == (5,)


class Delegating(torch.nn.Module):
    """A wrapper that passes on the attributes of a part, and is called without anything but x."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("part"), name)

    def forward(self, x):
        return self.part(x)

    def inverse(self, z):
        return self.part.inverse(z)


def test_wrappers_get_what_their_forward_takes():
    part, x = block(), torch.randn(4, 3, dtype=torch.float64)
    flow = nn.Sequential(Delegating(part)).eval()
    torch.testing.assert_close(flow(x)[1], part(x)[1])
    z = flow(x)[0]
    torch.testing.assert_close(flow.solve(z).x, x, rtol=0.0, atol=1e-8)
    whole = nn.Sequential(part).eval()
    part.forward = lambda x: (x, x[:, 0])
    assert torch.equal(whole(x)[1], x[:, 0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.ones(3),), ValueError, r"x must have shape \[B, \*event\]"),
        ((torch.ones(3, 2), -1), ValueError, "seed must be at least 0"),
        ((torch.ones(3, 2), 1.5), TypeError, "seed must be an integer"),
    ],
)
def test_bad_calls(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.Call.of(*arguments)
    with pytest.raises(ValueError, match=r"keys must have shape \(4,\), got \(2,\); pass one a sample"):
        PowerSeries().draw(torch.ones(4, 2), False, keys=torch.arange(2))


def test_what_needs_no_keys_hashes_none(monkeypatch):
    from iresnet_fast.nn import _call

    def refuse(x):
        raise AssertionError("nothing here draws")

    monkeypatch.setattr(_call, "sample_keys", refuse)
    x = torch.randn(4, 3, dtype=torch.float64)
    nn.Sequential(block(), block(estimator=RussianRoulette())).train()(x)
    flow = nn.Sequential(block(estimator=Exact()), block(estimator=None)).eval()
    flow.inverse(flow(x)[0])
    noisy = nn.Sequential(block())
    noisy.eval()(x, call=nn.Call.of(x, logdet=False))
    noisy.solve(x)
    with pytest.raises(AssertionError, match="nothing here draws"):
        noisy(x)


def test_without_log_determinants_none_is_computed(monkeypatch):
    flow = IResNetFlow(FlowConfig((3,), blocks=(2,), hidden=(8, 8), eval_estimator=PowerSeries(20)))
    flow.initialize(torch.randn(20, 3))
    x = torch.randn(4, 3)
    expected = flow.eval()(x)[0]
    for name in ("residual_logdet", "residual_logdet_exact"):
        monkeypatch.setattr(f"iresnet_fast.ops.{name}", None)
    for mode in (True, False):
        flow.train(mode)
        z = flow.transform_to_noise(x)
        torch.testing.assert_close(z, expected)
        torch.testing.assert_close(flow.solve(z).x, x, rtol=0.0, atol=1e-4)
        assert flow.sample(3).shape == (3, 3)
        assert flow.reconstruct(x).error.shape == (4,)
        assert flow.interpolate(x, x.flip(0), 3).shape == (3, 4, 3)


@pytest.mark.parametrize("write", ["method", "attribute"])
def test_the_estimator_is_that_of_the_mode_however_it_is_set(write):
    flow = ResidualFlow.preset("toy", blocks=(1,), hidden=(8,))
    flow.initialize(torch.randn(20, 2))
    (part,) = (module for module in flow.modules() if isinstance(module, nn.InvertibleResidualBlock))

    def switch(training):
        if write == "method":
            flow.train(training)
        for module in flow.modules():
            module.training = training

    for training in (True, False, True):
        switch(training)
        assert isinstance(part.estimator, RussianRoulette if training else Exact)
    modes = {name: module.training for name, module in flow.named_modules()}
    flow.eval()
    assert torch.equal(flow.log_prob(torch.ones(2, 2)), flow.log_prob(torch.ones(2, 2)))
    for name, module in flow.named_modules():
        module.training = modes[name]
    x = torch.randn(2, 2)
    assert not torch.equal(flow.log_prob(x), flow.log_prob(x))  # random depths and probes again
    part.estimator = PowerSeries(3)
    assert part.train_estimator == PowerSeries(3)
    assert isinstance(part.eval_estimator, type(None)) or isinstance(part.eval_estimator, Exact)
    with torch.no_grad():
        part.eval().estimator = None
    assert (part.train_estimator, part.eval_estimator) == (PowerSeries(3), None)


def test_modes_of_parts_survive():
    flow = IResNetFlow(FlowConfig((2,), blocks=(2,), hidden=(8,), prior="learned"))
    flow.body[1].eval()
    before = {name: module.training for name, module in flow.named_modules()}
    flow.initialize(torch.randn(20, 2))
    assert {name: module.training for name, module in flow.named_modules()} == before
    with pytest.raises(ValueError, match="finite"):
        IResNetFlow(FlowConfig((2,), blocks=(1,), hidden=(8,))).initialize(torch.full((4, 2), torch.nan))


def test_compiled_containers_pass_calls():
    flow = nn.Sequential(block(), nn.Sequential(block(), nn.ActNorm(3).double()))
    x = torch.randn(6, 3, dtype=torch.float64)
    flow(x)
    flow.eval()
    expected = flow(x)
    compiled = torch.compile(flow, backend="aot_eager", fullgraph=True)
    for ours, theirs in zip(compiled(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
