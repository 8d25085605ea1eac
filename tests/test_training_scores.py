"""Scores of rows: those that evaluate has the mean of, one for each row, whatever batch it comes in."""

import math

import pytest
import torch
from training_examples import make_data, make_model

from iresnet_fast import training
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training.batches import Batch
from iresnet_fast.training.scores import row_scores

pytestmark = pytest.mark.usefixtures("one_thread")


def started(kind="plane"):
    """A model whose ActNorms have seen data, and the data."""
    dataset, model = make_data("plane" if kind == "plane" else "images"), make_model(kind)
    task = training.task_of(model)
    task.adopt(dataset)
    with torch.no_grad():
        task.initialize(task.inputs(dataset.train))
    return model.eval(), dataset


def test_their_mean_is_what_evaluate_finds():
    model, dataset = started()
    x = dataset.test
    found = row_scores(model, Batch(x))
    assert -float(found.log_prob.mean()) == pytest.approx(training.evaluate(model, x).metrics["nats"], rel=1e-12)
    assert (found.standard_error, found.classes, found.probabilities) == (None, None, None)


@pytest.mark.parametrize("kind", ["plane", "flow", "hybrid", "classifier"])
def test_they_do_not_depend_on_the_batch(kind):
    model, dataset = started(kind)
    x = dataset.test
    whole = row_scores(model, Batch(x))
    for order in (torch.arange(len(x)), torch.arange(len(x)).flip(0)):
        other = row_scores(model, Batch(x[order]), batch_size=5)
        for name in ("log_prob", "classes", "probabilities"):
            ours, theirs = getattr(whole, name), getattr(other, name)
            assert (ours is None) == (theirs is None)
            if ours is not None:  # float32 sums in another order
                torch.testing.assert_close(theirs, ours[order], rtol=1e-5, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("kind", ["hybrid", "classifier"])
def test_classes(kind):
    model, data = started(kind)
    found = row_scores(model, Batch(data.test))
    wrong = (found.classes != data.test_labels).double().mean()
    metrics = training.evaluate(model, data.test, data.test_labels).metrics
    assert 100.0 * float(wrong) == pytest.approx(metrics["error_percent"])
    assert ((found.probabilities >= 1.0 / 3.0) & (found.probabilities <= 1.0)).all()
    assert (found.log_prob is None) == (kind == "classifier")


def test_a_class_of_no_number_has_no_probability():
    model, data = started("classifier")
    with torch.no_grad():
        model.head.linear.bias[0] = math.nan
    assert row_scores(model, Batch(data.test)).probabilities.isnan().all()


def series():
    config = FlowConfig((6,), blocks=(2,), hidden=(16,), coeff=0.9, eval_estimator=PowerSeries(12, exact_terms=0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = IResNetFlow(config)
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    model.initialize(x)
    return model.eval(), x[:10]


def test_probes():
    model, x = series()
    report = model.log_prob(x, report=True, probes=12)
    found = row_scores(model, Batch(x), probes=12)
    assert torch.equal(found.log_prob, report.log_prob.double())
    assert torch.equal(found.standard_error, report.standard_error.double())
    limit = 0.5 * float(report.standard_error.max())
    better = row_scores(model, Batch(x), probes="auto", standard_error=limit)
    assert float(better.standard_error.max()) <= limit
    assert row_scores(model, Batch(x)).standard_error is None
    # Exact log-determinants have no probes: nothing is estimated, whatever is asked for.
    model, dataset = started()
    assert row_scores(model, Batch(dataset.test), probes=3).standard_error is None


def test_errors():
    model, x = make_model(), make_data().test
    with pytest.raises(ValueError, match="x must hold at least one row, got none; pass rows of data"):
        row_scores(model, Batch(x[:0]))
    with pytest.raises(ValueError, match="context must be None for this model"):
        row_scores(model, Batch(x, None, x))
    with pytest.raises(ValueError, match=r"standard_error must be None for a given number of probes, 1, got 0\.1"):
        row_scores(model, Batch(x), standard_error=0.1)
    with pytest.raises(ValueError, match="probes must be 1 for a model without a density"):
        row_scores(make_model("classifier"), Batch(make_data("images").test), probes=2)
