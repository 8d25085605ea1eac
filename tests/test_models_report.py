"""log_prob with several probes: what a report says is true, costs what it must, and is a function of each sample."""

import itertools
import math
import warnings

import pytest
import torch
from models_examples import FLOWS, grow, make_data, make_flow, make_hybrid

from iresnet_fast import _library, nn, ops
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import FlowConfig, IResNetFlow, LogProbReport, _report

pytestmark = pytest.mark.usefixtures("one_thread")

NOISY = PowerSeries(12, exact_terms=0)
KINDS = ["dense", "all dense options", "densenet", "image", "image, factored out", "image, context", "padded", "digits"]
KINDS.append("context everywhere")


def series_flow(name, estimator=NOISY):
    """A flow in eval mode that estimates its log-determinants, and more data for it than a block of the kernels."""
    flow = make_flow(name)
    for block in blocks_of(flow):
        block.eval_estimator = estimator
    return flow.eval(), *make_data(flow, 11)


def blocks_of(flow):
    return [module for module in flow.modules() if isinstance(module, nn.InvertibleResidualBlock)]


def noisy_pair():
    """A flow of six dimensions whose estimates spread by about half a nat, and one with its exact log-determinants."""
    config = FlowConfig((6,), blocks=(2,), hidden=(8,), eval_estimator=PowerSeries(60, exact_terms=0))
    flow, exact = (IResNetFlow(c).double() for c in (config, config.replace(eval_estimator=Exact())))
    grow(flow, 20.0)
    flow.initialize(torch.randn(200, 6, dtype=torch.float64))
    exact.load_state_dict(flow.state_dict())
    return flow.eval(), exact.eval()


def estimates_of(flow, x, n, context=None):
    """The estimates [n, B] one by one, from means of more and more of them."""
    means = [k * flow.log_prob(x, context, probes=k) for k in range(1, n + 1)]
    return torch.stack([means[0], *(after - before for before, after in itertools.pairwise(means))])


@pytest.mark.parametrize("exact_terms", [0, "auto"])
@pytest.mark.parametrize("name", KINDS)
def test_the_first_estimate_is_log_prob(name, exact_terms):
    flow, x, context = series_flow(name, PowerSeries(12, exact_terms=exact_terms))
    # Both in float64, of numbers below a thousand: the runs of blocks sum in another order.
    torch.testing.assert_close(flow.log_prob(x, context, probes=1), flow.log_prob(x, context), rtol=0.0, atol=1e-10)
    call = nn.Call.of(x, seed=5)
    one = flow.log_prob(x, context, call, probes=1)
    torch.testing.assert_close(one, flow.log_prob(x, context, call), rtol=0.0, atol=1e-10)
    assert not torch.equal(one, flow.log_prob(x, context))


def test_what_is_less_noisy_is_reported_so():
    """By a control variate: the first convolution has an activation before it, and too many channels for its trace."""
    config = FlowConfig((1, 8, 8), blocks=(3,), hidden=(24, 24), squeeze_first=True, preactivation=True)
    flow = IResNetFlow(config).double()
    grow(flow, 20.0)
    x = torch.randn(40, 1, 8, 8, dtype=torch.float64)
    flow.initialize(x)
    flow.eval()
    errors = []
    for exact_terms in (0, "auto"):
        for block in blocks_of(flow):
            block.eval_estimator = PowerSeries(20, exact_terms=exact_terms)
        torch.testing.assert_close(flow.log_prob(x, probes=1), flow.log_prob(x), rtol=0.0, atol=1e-10)
        errors.append(flow.log_prob(x, report=True, probes=16).standard_error.square().mean().sqrt())
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("exact_terms", [1, 2])
@pytest.mark.parametrize("name", ["dense", "image, factored out", "image, context"])
def test_exact_terms_are_computed_once(name, exact_terms, backend, monkeypatch):
    flow, x, context = series_flow(name, PowerSeries(12, exact_terms=exact_terms))
    with _library.use_backend(backend or _library.backend()):
        expected = flow.log_prob(x, context)
        calls = []
        traces = ops.jacobian_traces
        monkeypatch.setattr(ops, "jacobian_traces", lambda *given: calls.append(0) or traces(*given))
        torch.testing.assert_close(flow.log_prob(x, context, probes=1), expected, rtol=0.0, atol=1e-10)
        del calls[:]
        report = flow.log_prob(x, context, report=True, probes=4)
    assert len(calls) == len(blocks_of(flow))
    assert (report.n_probes == 4).all()


def test_a_report_is_the_mean_and_the_spread_of_the_estimates():
    flow, x, context = series_flow("context everywhere")
    estimates = estimates_of(flow, x, 5, context)
    report = flow.log_prob(x, context, report=True, probes=5)
    assert isinstance(report, LogProbReport)
    torch.testing.assert_close(report.log_prob, estimates.mean(0), rtol=0.0, atol=1e-10)
    torch.testing.assert_close(report.standard_error, estimates.std(0) / math.sqrt(5), rtol=1e-6, atol=1e-9)
    assert report.n_probes.tolist() == [5] * 11
    assert report.n_terms.tolist() == [12] * 11
    assert (flow.log_prob(x, context, report=True).n_probes == 8).all()
    assert not report.log_prob.requires_grad
    assert torch.equal(flow.log_prob(x, context, probes=5), report.log_prob)


def test_estimates_are_independent_and_the_standard_error_is_right():
    flow, exact = noisy_pair()
    x = torch.randn(4000, 6, dtype=torch.float64)
    truth = exact.log_prob(x)
    errors = estimates_of(flow, x, 4) - truth
    correlations = torch.corrcoef(errors)[~torch.eye(4, dtype=torch.bool)]
    assert correlations.abs().max() < 5.0 / math.sqrt(4000)  # five standard deviations of a correlation of nothing
    report = flow.log_prob(x, report=True)
    off = report.log_prob - truth
    assert off.mean().abs() < 5.0 * off.std() / math.sqrt(4000)
    # Both have the same mean if the standard error is right; five standard deviations of the difference.
    difference = off.square() - report.standard_error.square()
    assert difference.mean().abs() < 5.0 * difference.std() / math.sqrt(4000)
    assert report.standard_error.mean() > 0.1


@pytest.mark.parametrize("count", [8, 32])
def test_tol_covers_the_true_error(count):
    flow, exact = noisy_pair()
    x = torch.randn(1500, 6, dtype=torch.float64)
    deviation = 16.0 * flow.log_prob(x, report=True, probes=256).standard_error  # true, to a twentieth
    # With so many probes half of the samples are just above it: measured spreads would let half of those stop.
    tol = 0.97 * float(deviation.median()) / math.sqrt(count)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = flow.log_prob(x, report=True, tol=tol, max_probes=4096)
    off = report.log_prob - exact.log_prob(x)
    assert off.square().mean().sqrt() < tol
    assert off.mean().abs() < 5.0 * off.std() / math.sqrt(1500)
    # One look in twenty at a spread may be too hopeful, and the looks at which it matters are the last one or two.
    assert (deviation / report.n_probes.sqrt() > tol).double().mean() < 0.1
    counts = report.n_probes.unique().tolist()
    assert len(counts) > 1
    assert all(math.log2(n).is_integer() for n in counts)
    # Not many more than needed: a factor of two for the doubling, and one for not knowing the spread.
    assert report.n_probes.double().mean() < 4.0 * (deviation / tol).square().mean() + 8.0
    assert torch.equal(flow.log_prob(x, tol=tol, max_probes=4096), report.log_prob)


@pytest.mark.filterwarnings("ignore:iresnet_fast. .* samples may have a standard error above tol")
@pytest.mark.parametrize("name", KINDS)
def test_a_report_is_a_function_of_each_sample(name):
    flow, x, context = series_flow(name)
    spread = flow.log_prob(x, context, report=True).standard_error
    tol = float(spread.median())
    report = flow.log_prob(x, context, report=True, tol=tol, max_probes=32)
    assert len(report.n_probes.unique()) > 1
    for order in (torch.arange(11).flip(0), torch.tensor([4]), torch.tensor([9, 2, 2, 7])):
        given = None if context is None else context[order]
        again = flow.log_prob(x[order], given, report=True, tol=tol, max_probes=32)
        assert torch.equal(again.n_probes, report.n_probes[order])
        assert torch.equal(again.n_terms, report.n_terms[order])
        for one, all_of_them in zip(numbers(again), numbers(report), strict=True):
            torch.testing.assert_close(one, all_of_them[order], rtol=1e-9, atol=1e-9)


def numbers(report):
    return report.log_prob, report.standard_error, report.truncation_bound


def test_rounds_end_in_the_mean_of_all_estimates():
    """Whatever the rounds that they came in."""
    flow, x, context = series_flow("context everywhere")
    tol = 1e-9  # never reached
    with pytest.warns(RuntimeWarning, match=r"11 of 11 samples may have a standard error above tol, 1e-09, after max_"):
        rounds = flow.log_prob(x, context, report=True, tol=tol, max_probes=27)
    at_once = flow.log_prob(x, context, report=True, probes=27)
    assert torch.equal(rounds.n_probes, at_once.n_probes)
    for one, other in zip(numbers(rounds), numbers(at_once), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_noise_is_that_of_one_call():
    flow, x, _ = series_flow("digits")
    flow.preprocessing[0].eval_noise = "random"  # so that a second draw would show
    drawn = []
    flow.preprocessing[0].register_forward_hook(lambda *_: drawn.append(0))
    torch.manual_seed(3)
    first = flow.log_prob(x)
    torch.manual_seed(3)
    torch.testing.assert_close(flow.log_prob(x, probes=1), first, rtol=0.0, atol=1e-4)  # float32 of digits
    del drawn[:]
    with pytest.warns(RuntimeWarning, match="may have a standard error"):
        flow.log_prob(x, tol=1e-6, max_probes=32)
    assert len(drawn) == 1


def test_the_bound_is_on_what_longer_series_would_add():
    flow, exact = noisy_pair()
    x = torch.randn(50, 6, dtype=torch.float64)
    long = flow.log_prob(x, probes=5)
    worst = []
    for n_terms in (1, 2, 5, 10):
        for block in blocks_of(flow):
            block.eval_estimator = PowerSeries(n_terms, exact_terms=0)
        report = flow.log_prob(x, report=True, probes=5)
        off = (report.log_prob - long).abs()
        assert (off <= report.truncation_bound).all()
        assert (report.n_terms == n_terms).all()
        assert report.truncation_bound.mean() < flow.truncation_bound() * 6 * math.log(2.0)
        worst.append(float(report.truncation_bound.max()))
    assert worst == sorted(worst, reverse=True)
    assert worst[-1] < 1e-3
    assert exact.log_prob(x, report=True).truncation_bound.max() == 0.0


def test_terms_end_where_the_estimator_stops():
    flow, x, _ = series_flow("dense", PowerSeries(60, tol=1e-3, exact_terms=0))
    report = flow.log_prob(x, report=True)
    assert report.n_terms.max() < 60
    assert report.truncation_bound.max() <= 1e-3 * len(blocks_of(flow))


def test_exact_log_determinants_have_no_error():
    flow, x, context = series_flow("dense", Exact())
    report = flow.log_prob(x, context, report=True, tol=1e-9)
    assert torch.equal(report.log_prob, flow.log_prob(x, context))
    for zero in (report.standard_error, report.truncation_bound, report.n_terms):
        assert (zero == 0).all()
    assert (report.n_probes == 1).all()
    assert str(report).endswith("(11 samples)\nlog-determinants: exact")
    # One block with a series is enough.
    blocks_of(flow)[0].eval_estimator = RussianRoulette(n_exact=2, eval_terms=10, exact_terms=0)
    report = flow.log_prob(x, context, report=True)
    assert (report.standard_error > 0.0).any()
    assert (report.n_terms == 12).all()


class Plain(torch.nn.Module):
    """A branch that knows nothing of stages."""

    def __init__(self):
        super().__init__()
        self.linear = nn.SpectralLinear(3, 3, coeff=0.6).double()

    def forward(self, x):
        return self.linear(x).sin()


@pytest.mark.filterwarnings("ignore:iresnet_fast. InvertibleResidualBlock runs a Plain")
@pytest.mark.parametrize("exact_terms", ["auto", 0, 1, 2])
def test_any_branch(exact_terms):
    flow, x, _ = series_flow("dense")
    estimator = PowerSeries(12, exact_terms=exact_terms)
    flow.body.append(nn.InvertibleResidualBlock(Plain(), estimator, lipschitz=0.6).double())
    flow.eval()
    torch.testing.assert_close(flow.log_prob(x, probes=1), flow.log_prob(x), rtol=0.0, atol=1e-10)
    report = flow.log_prob(x, report=True)
    assert report.truncation_bound.isfinite().all()
    estimates = estimates_of(flow, x, 8)
    torch.testing.assert_close(report.standard_error, estimates.std(0) / math.sqrt(8), rtol=1e-6, atol=1e-9)
    flow.body[-1] = nn.InvertibleResidualBlock(Plain(), estimator).double().eval()
    assert (flow.log_prob(x, report=True).truncation_bound == math.inf).all()  # of what nobody knows


class Deaf(torch.nn.Module):
    """A transform around a block that does not hand the call on."""

    takes_context = False

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x)

    def inverse(self, z):
        return self.block.inverse(z)


def test_a_block_that_is_not_handed_the_call_is_named():
    flow, x, _ = series_flow("dense")
    place = next(i for i, part in enumerate(flow.body) if isinstance(part, nn.InvertibleResidualBlock))
    flow.body[place] = Deaf(flow.body[place])
    flow.eval()
    flow.log_prob(x)
    with pytest.raises(ValueError, match=rf"body.{place}.block must be handed the call of its container for its prob"):
        flow.log_prob(x, report=True)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"report": 1}, TypeError, "report must be True or False, got 1; pass one of them"),
        ({"probes": 0}, ValueError, "probes must be at least 1, got 0"),
        ({"probes": 2.0}, TypeError, "probes must be an integer, got 2.0"),
        ({"probes": 1, "report": True}, ValueError, "probes must be at least 2 for a report, got 1; one estimate has"),
        ({"probes": 8, "tol": 0.1}, ValueError, "probes must be None where tol says how many are enough, got 8; pass"),
        ({"tol": math.nan}, ValueError, "tol must be positive, a standard error in nats, got nan"),
        ({"tol": "little"}, TypeError, "tol must be a number, got 'little'"),
        ({"tol": 0.1, "max_probes": 7}, ValueError, "max_probes must be at least 8, got 7; increase it"),
        ({"max_probes": -3}, ValueError, "max_probes must be left out without tol, got -3; pass tol"),
        ({"tol": 0.0}, ValueError, "tol must be positive, a standard error in nats, got 0.0; pass e.g. 0.1"),
    ],
)
def test_errors(given, error, message):
    flow, x, _ = series_flow("dense")
    with pytest.raises(error, match=message):
        flow.log_prob(x, **given)


def test_training_mode_is_refused():
    flow, x, _ = series_flow("dense")
    flow.train()
    with pytest.raises(ValueError, match="the model must be in eval mode to count probes, got the whole in training m"):
        flow.log_prob(x, probes=2)
    flow.eval().body[1].train()
    with pytest.raises(ValueError, match=r"got its part body.1 in training mode, where each call draws others; call"):
        flow.log_prob(x, report=True)


def test_a_model_that_is_shared_out_has_no_tol(monkeypatch):
    """Its processes would make different numbers of calls, and wait for each other for ever."""
    flow, x, _ = series_flow("dense")
    monkeypatch.setattr(_report, "is_sharded_class", lambda kind: kind is nn.ActNorm)
    with pytest.raises(ValueError, match=r"tol must not be given for a model shared out by fully_shard, .* got body.0"):
        flow.log_prob(x, tol=0.1)
    flow.log_prob(x, report=True)


@pytest.mark.parametrize("options", [{"probes": 4}, {"report": True}, {"tol": 0.1}])
def test_a_call_inside_vmap_has_one_estimate(options):
    flow, x, _ = series_flow("dense")
    with pytest.raises(ValueError, match=r"several estimates must be asked for outside torch\.func\.vmap, got"):
        torch.func.vmap(lambda sample: flow.log_prob(sample[None], **options))(x)
    torch.func.vmap(lambda sample: flow.log_prob(sample[None]))(x)


def test_the_edges_of_a_batch():
    flow, x, _ = series_flow("dense")
    assert str(flow.log_prob(x[:0], report=True)) == "log_prob of no samples"
    assert flow.log_prob(x[:0], tol=0.1).shape == (0,)
    x[3] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # more probes would not help
        report = flow.log_prob(x, report=True, tol=10.0)
    assert report.log_prob.isfinite().tolist() == [i != 3 for i in range(11)]
    assert (report.n_probes == 8).all()


def test_the_words():
    one, two = torch.tensor([-3.25]), torch.tensor([1.0, 2.0])
    report = LogProbReport(one, torch.tensor([0.125]), torch.tensor([2e-4]), torch.tensor([20]), torch.tensor([8]))
    assert str(report) == (
        "log_prob -3.25 nats (1 sample), standard error 0.12 of 8 probes\n"
        "log-determinants: 20 terms, what they leave out is at most 2.0e-04 nats"
    )
    report = LogProbReport(two, 0.1 * two, two, torch.tensor([5, 9]), torch.tensor([8, 16]))
    assert str(report) == (
        "log_prob 1.00 to 2.00 nats (2 samples), standard error 0.1 to 0.2 of 8 to 16 probes\n"
        "log-determinants: 5 to 9 terms, what they leave out is at most 2.0e+00 nats"
    )


def test_other_models_have_it():
    model, x, _ = make_hybrid()
    model.flow.initialize(x)
    for block in blocks_of(model):
        block.eval_estimator = NOISY
    model.eval()
    report = model.flow.log_prob(x, report=True)
    assert (report.standard_error > 0.0).all()
    with torch.no_grad():
        expected = model(x)[1]
    torch.testing.assert_close(model.flow.log_prob(x, probes=1), expected, rtol=0.0, atol=1e-10)
    assert torch.equal(model.flow.as_distribution().log_prob(x), model.flow.log_prob(x))


def test_every_kind_of_flow_is_tried():
    assert set(KINDS) <= set(FLOWS)
