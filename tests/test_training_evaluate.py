"""evaluate: the mean it states, the estimator it uses, and what it leaves as it was."""

import math

import pytest
import torch

from iresnet_fast import nn
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import (
    ClassifierConfig,
    FlowConfig,
    HybridConfig,
    HybridIResNet,
    IResNetClassifier,
    IResNetFlow,
)
from iresnet_fast.training.evaluate import Evaluation, evaluate

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = 4
IMAGES = FlowConfig((1, 4, 4), blocks=(2,), hidden=(5, 5), squeeze_first=True, n_levels=LEVELS, preprocess="logit")
VECTORS = FlowConfig((3,), blocks=(2,), hidden=(8, 8))
LABELS = torch.arange(30) % 3


def images(n=30):
    return torch.randint(0, LEVELS, (n, 1, 4, 4), dtype=torch.uint8)


def make_flow(config):
    flow = IResNetFlow(config)
    flow.initialize(images() if config.is_image else torch.randn(30, 3))
    return flow


@pytest.mark.parametrize("estimator", [Exact(), PowerSeries(20)])
def test_is_the_mean_of_bits_per_dim_in_batches_of_any_size(estimator):
    flow, x = make_flow(IMAGES.replace(eval_estimator=estimator)).eval(), images()
    found = evaluate(flow, x, batch_size=12, seed=5)
    with torch.no_grad():
        bits = -flow.log_prob(x.float(), call=nn.Call.of(x, seed=5)).double() / (16 * math.log(2.0))
    assert found.n == 30
    # log_prob is one float32 of some tens of nats; dividing it by 16 log 2 leaves less than 1e-6.
    assert found.metrics == {"bits_per_dim": pytest.approx(float(bits.mean()), abs=1e-6)}
    spread = float((bits - bits.mean()).square().sum() / 29)
    assert found.standard_errors == {"bits_per_dim": pytest.approx(math.sqrt(spread / 30), abs=1e-6)}
    assert found.truncation_bound == flow.truncation_bound()
    for batch_size in (1, 7, 30):
        again = evaluate(flow, x.flip(0), batch_size=batch_size, seed=5)
        assert again.metrics == {"bits_per_dim": pytest.approx(found.metrics["bits_per_dim"], abs=1e-6)}


def test_samples_have_probes_of_their_own():
    flow = make_flow(VECTORS.replace(eval_estimator=PowerSeries(20)))
    x = torch.randn(1, 3) + 1e-6 * torch.randn(200, 3)
    exact = make_flow(VECTORS.replace(eval_estimator=Exact()))
    exact.load_state_dict(flow.state_dict())
    # Samples that hardly differ: what spreads them is the noise of the probes.
    found, without = (evaluate(model, x).standard_errors["nats"] for model in (flow, exact))
    assert found > 100.0 * without
    off = evaluate(flow, x).metrics["nats"] - evaluate(exact, x).metrics["nats"]
    assert abs(off) < 4.0 * found + evaluate(flow, x).truncation_bound
    assert evaluate(flow, x[:2], seed=1) != evaluate(flow, x[:2])
    assert evaluate(flow, x[:2], seed=1) == evaluate(flow, x[:2], seed=1)


def test_uses_the_estimator_of_evaluation_and_restores_everything():
    flow, x = make_flow(IMAGES.replace(train_estimator=PowerSeries(1), eval_estimator=PowerSeries(30))), images()
    flow.eval()
    expected = evaluate(flow, x, batch_size=7)
    flow.train()
    flow.preprocessing.eval()  # one part is in another mode, and stays there
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    blocks = [module for module in flow.modules() if isinstance(module, nn.InvertibleResidualBlock)]
    assert [block.estimator for block in blocks] == [PowerSeries(1)] * 2
    torch.manual_seed(3)
    state = torch.get_rng_state()
    found = evaluate(flow, x, batch_size=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in flow.body.modules())
    assert not any(module.training for module in flow.preprocessing.modules())
    assert [block.estimator for block in blocks] == [PowerSeries(1)] * 2
    # Converged numbers are kept to the bit, and a flow that has been evaluated once had converged.
    assert found == expected
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())


def test_restores_after_an_error():
    flow = make_flow(IMAGES).train()
    with pytest.raises(ValueError, match="x must"):
        evaluate(flow, images() + LEVELS)
    assert flow.training


@pytest.mark.parametrize("estimator", [PowerSeries(5), PowerSeries(9), RussianRoulette(n_exact=2, eval_terms=7)])
def test_refuses_a_short_series(estimator):
    flow = make_flow(VECTORS.replace(eval_estimator=estimator))
    with pytest.raises(ValueError, match=r"eval_estimator must be Exact or have at least 10 terms, got [59] in body"):
        evaluate(flow, torch.randn(4, 3))


@pytest.mark.parametrize("estimator", [PowerSeries(10), RussianRoulette(n_exact=2, eval_terms=8), None])
def test_takes_a_long_one(estimator):
    evaluate(make_flow(VECTORS.replace(train_estimator=PowerSeries(2), eval_estimator=estimator)), torch.randn(4, 3))


def test_vectors_are_in_nats_and_so_is_the_bound():
    flow, x = make_flow(VECTORS.replace(eval_estimator=PowerSeries(10))).eval(), torch.randn(20, 3)
    found = evaluate(flow, x)
    with torch.no_grad():
        assert found.metrics == {"nats": pytest.approx(-float(flow.log_prob(x).mean()), abs=1e-5)}
    lipschitz = 0.9**3
    tail = sum(lipschitz**k / k for k in range(11, 400))
    assert found.truncation_bound == pytest.approx(2 * 3 * tail, rel=1e-6)


def test_classifier():
    model, x = IResNetClassifier(ClassifierConfig((1, 4, 4), 3, (1,), (4,))), torch.randn(30, 1, 4, 4)
    model.train()(x)
    model.eval()
    with torch.no_grad():
        wrong = (model(x).argmax(1) != LABELS).double()
    assert 0.0 < wrong.mean() < 1.0
    found = evaluate(model, x, LABELS, batch_size=9)
    assert found.metrics == {"error_percent": pytest.approx(100.0 * float(wrong.mean()))}
    p = float(wrong.mean())  # binomial, with the correction for an estimated mean
    assert found.standard_errors == {"error_percent": pytest.approx(100.0 * math.sqrt(p * (1.0 - p) / 29))}
    assert found.truncation_bound == 0.0


def test_hybrid_has_both():
    model, x = HybridIResNet(HybridConfig(IMAGES, 3, head_hidden=4)), images()
    model.train()(x)
    model.eval()
    found = evaluate(model, x, LABELS, batch_size=30)
    with torch.no_grad():
        logits, _ = model(x)
        assert found.metrics == {
            "bits_per_dim": pytest.approx(float(model.flow.bits_per_dim(x).mean()), abs=1e-5),
            "error_percent": pytest.approx(100.0 * float((logits.argmax(1) != LABELS).double().mean())),
        }
    assert found.truncation_bound == model.flow.truncation_bound()


def test_what_is_not_finite_is_an_error():
    flow = make_flow(IMAGES)
    with torch.no_grad():
        flow.prior.mean[0] = math.nan
    with pytest.raises(ValueError, match="bits_per_dim must be finite, got nan for sample 0; the model has diverged"):
        evaluate(flow, images())
    model = IResNetClassifier(ClassifierConfig((1, 4, 4), 3, (1,), (4,), actnorm=False))
    x = torch.randn(30, 1, 4, 4)
    model.train()(x)
    with torch.no_grad():
        model.head.linear.bias[1] = math.nan  # argmax would call it a class
    with pytest.raises(ValueError, match="error_percent must be finite, got nan for sample 0; the model has diverged"):
        evaluate(model, x, LABELS, batch_size=5)
    x[17] = math.nan
    with pytest.raises(ValueError, match="x must be finite, got NaN or infinity in sample 17; remove such samples"):
        evaluate(make_flow(VECTORS), x[:, 0, 0, :3], batch_size=30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": images(0)}, "x must hold at least one sample"),
        ({"x": images(3)}, "labels must be given for a HybridIResNet, got None"),
        ({"x": images(3), "labels": LABELS}, r"labels must have shape \(3,\), got \(30,\)"),
        ({"x": images(3), "labels": LABELS[:3], "batch_size": 0}, "batch_size must be at least 1"),
        ({"x": images(3), "labels": LABELS[:3], "seed": -1}, "seed must be at least 0"),
    ],
)
def test_errors(arguments, message):
    model = HybridIResNet(HybridConfig(IMAGES, 3, head_hidden=4))
    with pytest.raises(ValueError, match=message):
        evaluate(model, **arguments)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_are_numbers_of_classes(label):
    """Another one would count as an error; a model without classes does not look at them."""
    labels = LABELS.clone()
    labels[20] = label
    low, high = min(label, 0), max(label, 2)
    classifier = IResNetClassifier(ClassifierConfig((1, 4, 4), 3, (1,), (4,), n_levels=LEVELS))
    hybrid = HybridIResNet(HybridConfig(IMAGES, 3, head_hidden=4))
    for model in (classifier, hybrid):
        model.train()(images())
        with pytest.raises(
            ValueError, match=rf"labels must have values in \[0, 2\], got values from {low} to {high}; n"
        ):
            evaluate(model, images(), labels)
    evaluate(make_flow(VECTORS), torch.randn(30, 3), labels)


def test_one_line():
    found = Evaluation(
        {"bits_per_dim": 1.23412, "error_percent": 2.5}, {"bits_per_dim": 0.0031, "error_percent": 0.2}, 99
    )
    assert str(found) == "bits_per_dim 1.234 +- 0.003, error_percent 2.500 +- 0.200 (99 samples)"
