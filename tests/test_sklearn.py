"""The estimators with the interface of scikit-learn."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from iresnet_fast.sklearn import ResidualFlowDensity, ResidualFlowOutlier
from iresnet_fast.sklearn._rows import distinct, fit_scaling, offset

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"n_blocks": 2, "hidden": (8,), "max_steps": 20, "random_state": 0}
TRAINED = {**SMALL, "validation_fraction": 0.0}  # else the best state may be the first, a normal density


@pytest.fixture(scope="module")
def x():
    """Correlated columns of unlike scales, of two clusters."""
    mixing = np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 1.0], [0.0, 0.0, 100.0]])
    return make_blobs(120, 3, centers=2, random_state=1)[0] @ mixing


@pytest.fixture(scope="module")
def fitted(x):
    return ResidualFlowDensity(**TRAINED).fit(x)


@pytest.mark.filterwarnings("ignore:iresnet_fast. X has .* distinct rows:RuntimeWarning")
@parametrize_with_checks([ResidualFlowDensity(**SMALL), ResidualFlowOutlier(**SMALL)])
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:iresnet_fast. X has .* distinct rows:RuntimeWarning")
@parametrize_with_checks([ResidualFlowDensity(), ResidualFlowOutlier()])
def test_checks_of_scikit_learn_with_the_defaults(estimator, check):
    check(estimator)


def test_scores_are_the_log_density_of_the_flow_in_the_units_of_the_data(fitted, x):
    z = torch.from_numpy((x - x.mean(0)) / x.std(0))
    with torch.no_grad():
        expected = fitted.flow_.log_prob(z).numpy() - np.log(x.std(0)).sum()
    # A rounding of z by eps of its order, 10, moves its log-density, of slope 10 at most, by as much; so do the sums.
    np.testing.assert_allclose(fitted.score_samples(x), expected, rtol=0, atol=1e4 * np.finfo(float).eps * x.shape[1])
    assert fitted.score(x) == fitted.score_samples(x).mean()


def test_the_density_integrates_to_one():
    x = np.random.default_rng(0).exponential(size=(200, 1)) + 5.0
    density = ResidualFlowDensity(**TRAINED).fit(x)
    points = np.linspace(-50.0, 60.0, 20_001)
    total = np.trapezoid(np.exp(density.score_samples(points[:, None])), points)
    assert total == pytest.approx(1.0, abs=1e-3)  # the grid has 90 points per standard deviation


def test_units_move_log_densities_by_their_logarithm(x):
    """Powers of two, which change no digit."""
    factors = np.array([2.0**40, 1.0, 2.0**-30])
    scores = ResidualFlowDensity(**TRAINED).fit(x).score_samples(x)
    scaled = ResidualFlowDensity(**TRAINED).fit(x * factors).score_samples(x * factors)
    np.testing.assert_allclose(scaled, scores - np.log(factors).sum(), rtol=1e-12)


def test_a_large_offset_loses_no_digits(x):
    """Whole numbers, which float64 holds with the offset and float32 does not."""
    whole = np.rint(100.0 * x)
    scores = ResidualFlowDensity(**TRAINED).fit(whole).score_samples(whole)
    moved = ResidualFlowDensity(**TRAINED).fit(whole + 2.0**40).score_samples(whole + 2.0**40)
    assert np.array_equal(moved, scores)


def test_samples_are_like_the_data_and_a_function_of_their_seed(fitted, x):
    samples = fitted.sample(4000, random_state=0)
    assert samples.shape == (4000, 3)
    assert samples.dtype == np.float64
    assert np.array_equal(samples, fitted.sample(4000, random_state=0))
    assert not np.array_equal(samples, fitted.sample(4000, random_state=1))
    spread = x.std(0)  # of 120 rows, their mean is known to a tenth of it, and of 96 that are trained on a little less
    assert np.all(np.abs(samples.mean(0) - x.mean(0)) < 0.5 * spread)
    assert np.all(np.abs(samples.std(0) / spread - 1.0) < 0.5)
    assert fitted.sample().shape == (1, 3)


def test_the_same_random_state_gives_the_same_bits_and_leaves_the_global_generators(x):
    before = torch.random.get_rng_state()
    first, second = (ResidualFlowDensity(**TRAINED).fit(x).score_samples(x) for _ in range(2))
    other = ResidualFlowDensity(**{**TRAINED, "random_state": 1}).fit(x).score_samples(x)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_pickled_and_cloned(fitted, x):
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.score_samples(x), fitted.score_samples(x))
    assert np.array_equal(again.sample(5, 0), fitted.sample(5, 0))
    assert clone(fitted).get_params() == fitted.get_params()


def test_in_pipelines_cross_validation_and_searches(x):
    pipeline = make_pipeline(StandardScaler(), ResidualFlowDensity(**TRAINED))
    scores = cross_val_score(pipeline, x, cv=3)
    assert np.isfinite(scores).all()
    search = GridSearchCV(pipeline, {"residualflowdensity__n_blocks": [1, 2]}, cv=2, error_score="raise").fit(x)
    assert search.best_params_["residualflowdensity__n_blocks"] in (1, 2)
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])


def test_parameters_may_be_numbers_of_numpy(x):
    parameters = {
        "n_blocks": np.int64(1),
        "hidden": [np.int32(4)],
        "batch_size": np.int64(30),
        "max_steps": np.int64(2),
    }
    others = {"learning_rate": np.float32(0.01), "validation_fraction": np.float64(0.2), "patience": np.int64(1)}
    density = ResidualFlowDensity(**parameters, **others, max_minutes=np.float64(5.0), random_state=np.int64(0)).fit(x)
    assert density.n_steps_ == 2
    assert density.flow_.config.hidden == (4,)


def test_data_frames_keep_the_names_of_their_columns(x):
    frame = pd.DataFrame(x, columns=["a", "b", "c"])
    density = ResidualFlowDensity(**TRAINED).fit(frame)
    assert list(density.feature_names_in_) == ["a", "b", "c"]
    assert density.n_features_in_ == 3
    with pytest.raises(ValueError, match="feature names"):
        density.score_samples(frame[["b", "a", "c"]])
    constant = frame.assign(b=7.0)
    with pytest.raises(ValueError, match=r"must vary in every column, got only 7 in column 'b'"):
        density.fit(constant)


def test_a_weight_counts_rows(x):
    weights = np.random.default_rng(0).integers(0, 3, len(x))
    weighted = ResidualFlowDensity(**TRAINED).fit(x, sample_weight=weights)
    repeated = ResidualFlowDensity(**TRAINED).fit(np.repeat(x, weights, 0))
    assert np.array_equal(weighted.score_samples(x), repeated.score_samples(x))


def test_weights_move_the_density(x):
    heavy = np.where(x[:, 0] > np.median(x[:, 0]), 20.0, 1.0)
    plain, weighted = (ResidualFlowDensity(**TRAINED).fit(x, sample_weight=weights) for weights in (None, heavy))
    gain = weighted.score_samples(x) - plain.score_samples(x)
    assert gain[heavy > 1.0].mean() > 0.0 > gain[heavy == 1.0].mean()


@pytest.mark.parametrize("weighted", [False, True])
def test_few_rows_have_a_normal_density(weighted):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2)) @ np.array([[1.0, 2.0], [0.0, 3.0]])
    weights = rng.integers(1, 5, 40) if weighted else np.ones(40, int)
    with pytest.warns(RuntimeWarning, match="X has 40 distinct rows, fewer than the 50"):
        density = ResidualFlowDensity().fit(x, sample_weight=weights)
    assert density.n_steps_ == 0
    mean, covariance = np.average(x, 0, weights), np.cov(x.T, bias=True, fweights=weights)
    centred = x - mean
    squares = (centred @ np.linalg.inv(covariance) * centred).sum(1)
    expected = -0.5 * (squares + np.log(np.linalg.det(2.0 * np.pi * covariance)))
    # All is float64: sums of 40 numbers, and squares up to 20 with a covariance matrix of condition 20.
    np.testing.assert_allclose(density.score_samples(x), expected, rtol=0, atol=40 * 20 * 20 * np.finfo(float).eps)


def test_training_gets_better_and_patience_ends_it(x):
    start, trained = (ResidualFlowDensity(random_state=0, max_steps=steps).fit(x).score(x) for steps in (1, 200))
    assert trained > start
    ended = ResidualFlowDensity(**{**SMALL, "max_steps": 5000, "learning_rate": 1e-9, "patience": 1}).fit(x)
    assert ended.n_steps_ < 5000


def test_outliers_are_found(x):
    far = x.mean(0) + 12.0 * x.std(0) * np.array([[1.0, -1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, 1.0, -1.0]])
    detector = ResidualFlowOutlier(contamination=0.05, **TRAINED).fit(x)
    assert (detector.predict(far) == -1).all()
    assert detector.decision_function(far).max() < detector.decision_function(x).min()
    assert (detector.predict(x) == -1).sum() == round(0.05 * len(x))
    mixed = ResidualFlowOutlier(contamination=3 / (len(x) + 3), **TRAINED).fit_predict(np.vstack((x, far)))
    assert np.flatnonzero(mixed == -1).tolist() == [len(x), len(x) + 1, len(x) + 2]


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"n_blocks": 0}, ValueError, "n_blocks"),
        ({"hidden": (0,)}, ValueError, "hidden"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"max_minutes": 0.0}, ValueError, "max_minutes"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction"),
        ({"validation_fraction": 0.001}, ValueError, "validation_fraction"),
        ({"patience": 0}, ValueError, "patience"),
    ],
)
def test_parameters_out_of_range(x, parameters, error, said):
    with pytest.raises(error, match=said):
        ResidualFlowDensity(**parameters).fit(x)


@pytest.mark.parametrize("contamination", [0.0, 0.6, -1])
def test_contamination_out_of_range(x, contamination):
    with pytest.raises(ValueError, match="contamination must be in"):
        ResidualFlowOutlier(contamination).fit(x)


def test_nothing_is_held_out(x):
    density = ResidualFlowDensity(**TRAINED).fit(x)
    assert density.n_steps_ == 20


def test_nothing_is_written_where_it_runs(x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ResidualFlowDensity(**TRAINED).fit(x)
    assert list(tmp_path.iterdir()) == []


def test_distinct_rows_have_the_sum_of_their_weights():
    rows = distinct(np.array([[2.0, 1.0], [1.0, 5.0], [2.0, 1.0], [3.0, 3.0]]), np.array([1.0, 2.0, 0.5, 0.0]))
    assert rows.x.tolist() == [[1.0, 5.0], [2.0, 1.0]]
    assert rows.weights.tolist() == [2.0, 1.5]


def test_scaling_of_the_largest_and_the_smallest_numbers():
    x = np.array([[1e308, 1e-308], [1.1e308, 2e-308], [1.2e308, 3e-308]])
    scaling = fit_scaling(distinct(x, None), None)
    z = scaling.forward(x)
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-9)
    np.testing.assert_allclose(z.std(0), 1.0, rtol=1e-9)
    np.testing.assert_allclose(scaling.inverse(z), x)
    with pytest.raises(ValueError, match="span float64 holds, got more in column 0"):
        fit_scaling(distinct(np.array([[-1e308], [1e308]]), None), None)


@pytest.mark.parametrize(
    ("weights", "contamination", "expected"),
    [
        ([1, 1, 1, 1], 0.5, 2.5),
        ([1, 1, 1, 1], 0.3, 1.5),
        ([1, 1, 1, 1], 0.1, 1.0),
        ([5, 1, 1, 1], 0.5, 1.0),
        ([1, 1, 1, 5], 0.4, 3.5),
    ],
)
def test_offset(weights, contamination, expected):
    scores = np.array([1.0, 2.0, 3.0, 4.0])
    assert offset(scores, np.array(weights, float), contamination) == expected
