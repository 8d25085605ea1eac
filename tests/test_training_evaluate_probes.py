"""evaluate with several probes: the mean they make, the error that is due to them, and how many are enough."""

import dataclasses
import math
import re
import sys

import pytest
import torch
from models_examples import grow

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries
from iresnet_fast.models import (
    ClassifierConfig,
    FlowConfig,
    HybridConfig,
    HybridIResNet,
    IResNetClassifier,
    IResNetFlow,
    _report,
)
from iresnet_fast.models._modes import evaluating
from iresnet_fast.training import _passes
from iresnet_fast.training._passes import Passes
from iresnet_fast.training.batches import Batch
from iresnet_fast.training.evaluate import Evaluation, evaluate
from iresnet_fast.training.tasks import task_of

pytestmark = pytest.mark.usefixtures("one_thread")

NOISY = PowerSeries(20, exact_terms=0)
IMAGES = FlowConfig(
    (1, 4, 4), blocks=(2,), hidden=(5, 5), squeeze_first=True, n_levels=4, preprocess="logit", eval_estimator=NOISY
)
VECTORS = FlowConfig((6,), blocks=(2,), hidden=(8,), eval_estimator=NOISY)


def make_data(config, n=60):
    return torch.randint(0, 4, (n, 1, 4, 4)) if config.is_image else torch.randn(n, *config.event_shape)


def make_flow(config):
    flow = IResNetFlow(config)
    grow(flow, 20.0)
    flow.initialize(make_data(config))
    return flow.eval()


@pytest.mark.parametrize("config", [IMAGES, VECTORS])
def test_is_the_mean_of_reports(config):
    flow, x = make_flow(config), make_data(config)
    unit = 16 * math.log(2.0) if config.is_image else 1.0
    found = evaluate(flow, x, probes=5, batch_size=7, seed=3)
    report = flow.log_prob(x, call=nn.Call.of(x, seed=3), report=True, probes=5)
    values = -report.log_prob.double() / unit
    # Float32 numbers of some tens of nats.
    assert list(found.metrics.values()) == [pytest.approx(float(values.mean()), abs=1e-5 / unit)]
    assert list(found.standard_errors.values()) == [pytest.approx(float(values.std()) / math.sqrt(60), rel=1e-4)]
    error = float(report.standard_error.double().square().sum().sqrt()) / 60 / unit
    assert found.probe_error == pytest.approx(error, rel=1e-4)
    assert found.n_probes == 5


def test_one_probe_is_what_it_was(monkeypatch):
    flow, x = make_flow(VECTORS), make_data(VECTORS)
    monkeypatch.setattr(_passes, "Survey", None)  # nothing is asked of anybody
    found = evaluate(flow, x)
    with torch.no_grad():
        assert found.metrics == {"nats": pytest.approx(-float(flow.log_prob(x).mean()), abs=1e-5)}
    assert (found.n_probes, found.probe_error) == (1, None)
    exact = evaluate(make_flow(VECTORS.replace(eval_estimator=Exact())), x)
    assert (exact.n_probes, exact.probe_error) == (1, 0.0)


def test_the_probe_error_is_right():
    """Over many sets of probes, against the exact log-determinants of the same flow."""
    flow = make_flow(VECTORS)
    exact = IResNetFlow(VECTORS.replace(eval_estimator=Exact())).eval()
    exact.load_state_dict(flow.state_dict())
    for block in flow.modules():
        if isinstance(block, nn.InvertibleResidualBlock):
            block.eval_estimator = PowerSeries(60, exact_terms=0)
    x = make_data(VECTORS, 20)
    truth = evaluate(exact, x).metrics["nats"]
    found = [evaluate(flow, x, probes=3, seed=seed) for seed in range(200)]
    squares = torch.tensor([[(f.metrics["nats"] - truth) ** 2, f.probe_error**2] for f in found], dtype=torch.float64)
    difference = squares[:, 0] - squares[:, 1]
    assert difference.mean().abs() < 5.0 * difference.std() / math.sqrt(200)
    assert squares[:, 1].mean().sqrt() > 0.05  # that is 30 standard deviations of what rounding makes


@pytest.mark.parametrize("config", [IMAGES, VECTORS])
def test_auto_reaches_the_standard_error(config):
    flow, x = make_flow(config), make_data(config)
    two = evaluate(flow, x, probes=2).probe_error
    for share in (0.7, 0.2):
        found = evaluate(flow, x, probes="auto", standard_error=share * two, batch_size=11)
        assert found.probe_error <= share * two
        # One probe of two has the variance; the rest is not knowing it, and doubling the number at most.
        assert 2 < found.n_probes < 3.0 * 2.0 / share**2
        again = evaluate(flow, x, probes=found.n_probes)
        assert again.metrics == {name: pytest.approx(mean, abs=1e-5) for name, mean in found.metrics.items()}
        assert again.probe_error == pytest.approx(found.probe_error, rel=1e-4)
    assert evaluate(flow, x, probes="auto", standard_error=100.0).n_probes == 2
    assert evaluate(flow, x[:1], probes="auto", standard_error=100.0).n_probes == 8  # a spread of as many estimates


def test_auto_stops_in_time_in_most_runs():
    """The true error is at most what was asked for, with probability 0.95."""
    flow, x = make_flow(VECTORS), make_data(VECTORS, 12)
    deviation = evaluate(flow, x, probes=400).probe_error * 20.0
    target = 0.3 * deviation
    true = [
        deviation / math.sqrt(evaluate(flow, x, probes="auto", standard_error=target, seed=seed).n_probes)
        for seed in range(100)
    ]
    late = sum(error > target for error in true)
    assert late <= 5 + 5 * math.sqrt(100 * 0.05 * 0.95)  # five standard deviations of a binomial


def test_auto_ends_and_says_what_it_has_missed(monkeypatch):
    monkeypatch.setattr(_passes, "_MOST_PROBES", 12)
    flow, x = make_flow(VECTORS), make_data(VECTORS, 12)
    with pytest.warns(RuntimeWarning, match=r"standard_error, 1e-09, was not reached with 12 probes each: it may be "):
        found = evaluate(flow, x, probes="auto", standard_error=1e-9)
    assert found.n_probes == 12
    assert found.probe_error == pytest.approx(evaluate(flow, x, probes=12).probe_error)


def test_exact_models_are_done_at_once():
    found = evaluate(make_flow(VECTORS.replace(eval_estimator=Exact())), make_data(VECTORS), probes="auto")
    assert (found.n_probes, found.probe_error) == (1, 0.0)


def test_passes_add_up():
    """Also where each draws the noise of the images from torch's generator."""
    flow, x = make_flow(IMAGES), make_data(IMAGES)
    flow.preprocessing[0].eval_noise = "random"
    found = []
    for counts in ((6,), (2, 3, 1)):
        passes = Passes(flow, task_of(flow), Batch(x), 25, 7, lambda progress, words: None)
        with evaluating(flow), torch.no_grad():
            for count in counts:
                passes.run(count, True)
        found.append((passes.metrics["bits_per_dim"], passes.probe_error))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0.0, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


def test_a_hybrid_has_both():
    model, x, labels = HybridIResNet(HybridConfig(IMAGES, 3, head_hidden=4)), make_data(IMAGES), torch.arange(60) % 3
    grow(model, 20.0)
    model.train()(x)
    model.eval()
    one, found = evaluate(model, x, labels), evaluate(model, x, labels, probes=4)
    report = model.flow.log_prob(x, report=True, probes=4)
    bits = -float(report.log_prob.mean()) / (16 * math.log(2.0))
    assert found.metrics == {
        "bits_per_dim": pytest.approx(bits, abs=1e-6),
        "error_percent": one.metrics["error_percent"],
    }
    assert found.probe_error > 0.0


def test_torchs_generator_and_the_modes_are_left_alone():
    flow, x = make_flow(IMAGES), make_data(IMAGES)
    flow.train()
    state = torch.get_rng_state()
    evaluate(flow, x, probes="auto", standard_error=0.05)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in flow.modules())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"probes": 0}, ValueError, "probes must be at least 1, got 0"),
        ({"probes": 1.5}, TypeError, "probes must be an integer, got 1.5"),
        ({"probes": "many"}, ValueError, "probes must be a number or 'auto', got 'many'; pass one of them"),
        ({"standard_error": 0.1}, ValueError, "standard_error must be None for a given number of probes, 1, got 0.1"),
        ({"probes": "auto", "standard_error": 0.0}, ValueError, "standard_error must be positive and finite, got 0.0"),
        ({"probes": "auto", "standard_error": "0"}, TypeError, "standard_error must be a number, got '0'"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(make_flow(VECTORS), make_data(VECTORS), **arguments)


def test_a_classifier_has_no_probes():
    model = IResNetClassifier(ClassifierConfig((1, 4, 4), 3, (1,), (4,)))
    x, labels = torch.randn(30, 1, 4, 4), torch.arange(30) % 3
    model.train()(x)
    assert evaluate(model, x, labels).probe_error == 0.0
    with pytest.raises(ValueError, match="probes must be 1 for a model without a density, got 'auto'; leave it out"):
        evaluate(model, x, labels, probes="auto")


def test_a_model_that_is_shared_out_has_no_auto(monkeypatch):
    monkeypatch.setattr(_report, "is_sharded_class", lambda kind: kind is nn.ActNorm)
    with pytest.raises(ValueError, match="probes='auto' must not be given for a model shared out by fully_shard"):
        evaluate(make_flow(VECTORS), make_data(VECTORS), probes="auto")


def test_one_line():
    found = Evaluation(
        {"bits_per_dim": 1.23412, "error_percent": 2.5}, {"bits_per_dim": 0.0031, "error_percent": 0.2}, 9
    )
    assert "probes" not in str(found)
    assert "probes" not in str(dataclasses.replace(found, probe_error=0.0))
    assert str(dataclasses.replace(found, n_probes=8, probe_error=0.000512)) == (
        "bits_per_dim 1.234 +- 0.003, error_percent 2.500 +- 0.200 (9 samples; of bits_per_dim, 8 probes each make "
        "+- 0.00051)"
    )


def test_the_bar_on_a_terminal(capsys, monkeypatch):
    flow, x = make_flow(VECTORS), make_data(VECTORS)
    evaluate(flow, x, show_progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    evaluate(flow, x, probes=4, show_progress=True)
    shown = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", capsys.readouterr().out)
    assert re.search(r"100% 4 probes", shown)
    with pytest.raises(ValueError, match="x must be finite"):
        evaluate(flow, x * math.nan, show_progress=True)
    assert "\x1b[?25h" in capsys.readouterr().out  # the cursor is back
