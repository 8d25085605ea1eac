"""The Gaussian that a model of a table is held against."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats
from training_examples import make_config, make_data, make_model

from iresnet_fast import data, training
from iresnet_fast.training import baseline
from iresnet_fast.training.baseline import Baseline, gaussian_log_prob

pytestmark = pytest.mark.usefixtures("one_thread")

NO_NOISE = torch.zeros(1, dtype=torch.float64)


def table(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d))


def test_it_is_the_gaussian_of_largest_likelihood():
    train, test = table(200, 4), table(30, 4, 1)
    expected = stats.multivariate_normal(train.numpy().mean(0), np.cov(train.numpy().T, bias=True)).logpdf(test.numpy())
    # Both are computed in float64, of a matrix whose condition is far below 1e6.
    np.testing.assert_allclose(gaussian_log_prob(train, test, NO_NOISE).numpy(), expected, rtol=1e-9)


def test_units_that_differ_by_orders_of_magnitude_cost_no_digits():
    train, test = table(200, 3), table(30, 3, 1)
    scale = torch.tensor([1e-9, 1.0, 1e9], dtype=torch.float64)
    found = gaussian_log_prob(train * scale + 5.0 * scale, test * scale + 5.0 * scale, NO_NOISE)
    np.testing.assert_allclose(found.numpy(), gaussian_log_prob(train, test, NO_NOISE).numpy(), rtol=1e-9)


def test_noise_counts_by_its_mean():
    """Against the average over many draws of the noise, of both parts."""
    train, test = table(400, 2), table(5, 2, 1)
    steps = torch.tensor([1.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    noise = (torch.rand(2000, 5, 2, generator=generator, dtype=torch.float64) - 0.5) * steps
    covariance = np.cov(train.numpy().T, bias=True) + np.diag((steps.numpy() ** 2) / 12.0)
    values = stats.multivariate_normal(train.numpy().mean(0), covariance).logpdf((test + noise).numpy())
    found = gaussian_log_prob(train, test, steps.square() / 12.0).numpy()
    error = values.std(0) / math.sqrt(2000)
    assert (np.abs(found - values.mean(0)) < 5.0 * error).all()


def test_a_context_moves_the_mean():
    rng = np.random.default_rng(0)
    context = torch.from_numpy(rng.normal(3.0, 10.0, size=(300, 2)))
    train = context @ torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64) + table(300, 2, 5)
    found = gaussian_log_prob(train[:250], train[250:], NO_NOISE, context[:250], context[250:])
    design = np.column_stack([np.ones(250), context[:250].numpy()])
    coefficients, *_ = np.linalg.lstsq(design, train[:250].numpy(), rcond=None)
    rest = train[:250].numpy() - design @ coefficients
    means = np.column_stack([np.ones(50), context[250:].numpy()]) @ coefficients
    normal = stats.multivariate_normal(np.zeros(2), rest.T @ rest / 250)
    np.testing.assert_allclose(found.numpy(), normal.logpdf(train[250:].numpy() - means), rtol=1e-8)


def test_weights_count_like_repeated_rows():
    train, test = table(60, 3), table(10, 3, 1)
    weights = torch.arange(60) % 3
    repeated = train.repeat_interleave(weights, 0)
    found = gaussian_log_prob(train, test, NO_NOISE, weights=weights.float())
    np.testing.assert_allclose(found.numpy(), gaussian_log_prob(repeated, test, NO_NOISE).numpy(), rtol=1e-6)


def test_a_singular_covariance_has_a_density():
    train = table(100, 2)
    for twin in (train, torch.cat([train, train[:, :1]], 1), torch.cat([train, torch.ones(100, 1)], 1), train[:2]):
        assert gaussian_log_prob(twin, twin[:5], NO_NOISE).isfinite().all()


def test_the_difference_and_its_paired_error(tmp_path):
    dataset = make_data()
    done = training.fit(make_model(), dataset, make_config(max_steps=2), tmp_path, show_progress=False)
    ours = -training.evaluate(done.best, dataset.test).values["nats"]
    theirs = gaussian_log_prob(dataset.train, dataset.test, NO_NOISE)
    found = done.baseline
    assert found.log_prob == pytest.approx(float(theirs.mean()))
    assert found.difference == pytest.approx(float((ours - theirs).mean()))
    assert found.standard_error == pytest.approx(float((ours - theirs).std()) / math.sqrt(20))


def test_it_is_fitted_to_the_samples_held_out_too(tmp_path):
    dataset = make_data()
    done = training.fit(make_model(), dataset, make_config(max_steps=2, validation=0.2), tmp_path, show_progress=False)
    assert done.baseline.log_prob == pytest.approx(
        float(gaussian_log_prob(dataset.train, dataset.test, NO_NOISE).mean())
    )


@pytest.mark.parametrize("kind", ["flow", "classifier", "hybrid"])
def test_where_it_cannot_be_asked(kind, tmp_path):
    done = training.fit(make_model(kind), make_data("images"), make_config(max_steps=1), tmp_path, show_progress=False)
    assert done.baseline is None


def test_vectors_with_labels_have_none():
    plain = make_data()
    labels = torch.arange(70) % 2
    labelled = dataclasses.replace(plain, train_labels=labels[:50], test_labels=labels[50:], n_classes=2)
    found = training.evaluate(make_model().eval(), plain.test)
    assert baseline.compare(make_model(), labelled, found) is None
    assert baseline.compare(make_model(), plain, found) is not None


def test_what_is_said():
    worse, better = Baseline(-3.0, -0.312, 0.124), Baseline(-3.0, 0.25, math.nan, True)
    assert str(worse) == (
        "baseline: the model is worse than a full-covariance Gaussian by 0.31 +- 0.12 nats on the test samples: more "
        "data, --validation or --patience may help"
    )
    assert str(better) == (
        "baseline: the model is better than a full-covariance Gaussian around a linear function of the context by 0.25 "
        "nats on the test samples"
    )


def test_one_test_sample_has_no_error():
    dataset = data.DataSet("few", table(20, 2).float(), table(1, 2, 1).float())
    found = baseline.compare(make_model(), dataset, training.evaluate(make_model().eval(), dataset.test))
    assert math.isnan(found.standard_error)
