import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from iresnet_fast import estimators
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette, roulette_coefficients

ROULETTES = [
    RussianRoulette(),
    RussianRoulette(n_exact=0, parameter=0.3),
    RussianRoulette(distribution="poisson"),
    RussianRoulette(n_exact=1, distribution="poisson", parameter=4.5),
    RussianRoulette(distribution="poisson", parameter=60.0),
]


def _exact_survival(roulette, n):
    """P(N >= m), m = 1 .. n, in rational arithmetic."""
    parameter = Fraction(roulette.parameter)
    if roulette.distribution == "geometric":
        return [(1 - parameter) ** (m - 1) for m in range(1, n + 1)]
    top = n + 120 + 2 * int(roulette.parameter)
    masses = [parameter**j / math.factorial(j) for j in range(top)]  # times exp(-lambda)
    return [sum(masses[m:]) * Fraction(math.exp(-roulette.parameter)) for m in range(1, n + 1)]


@pytest.mark.parametrize("roulette", ROULETTES)
def test_survival_keeps_its_digits(roulette):
    got, expected = roulette.survival(60), _exact_survival(roulette, 60)
    assert got.dtype == torch.float64
    assert all(abs(Fraction(float(g)) / e - 1) < 1e-12 for g, e in zip(got, expected, strict=True))


@pytest.mark.parametrize("roulette", ROULETTES)
def test_terms_of_a_captured_roulette(roulette):
    n = roulette.n_captured
    assert _exact_survival(roulette, n + 1)[-1] <= Fraction(2) ** -53 < _exact_survival(roulette, n)[-1]


@pytest.mark.parametrize("roulette", ROULETTES)
def test_coefficients_are_unbiased_by_enumeration(roulette):
    # sum over N of P(N) q_k(N) = 1 for every k: N = 0 .. 400 leaves nothing out for these parameters.
    n_terms, top = 60, 400
    survival = roulette.survival(top + 1)
    at_least = torch.cat((torch.ones(1, dtype=torch.float64), survival))
    # P(N) as a difference, except far out, where the next survival is negligible against what it is subtracted from.
    mass = at_least[:-1] - at_least[1:]
    coefficients = roulette_coefficients(torch.arange(top + 1), roulette.n_exact, survival, n_terms)
    assert coefficients.isfinite().all()
    torch.testing.assert_close(mass @ coefficients, torch.ones(n_terms, dtype=torch.float64), rtol=1e-10, atol=0.0)


def test_coefficients_of_given_depths():
    survival = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    got = roulette_coefficients(torch.tensor([0, 1, 3]), 2, survival, 5)
    assert got.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 2, 4]]
    assert roulette_coefficients(torch.tensor(2), 2, survival, 5).tolist() == [1, 1, 1, 2, 0]
    assert roulette_coefficients(torch.tensor(0), 4, survival, 3).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="survival must have at least n_terms - n_exact = 4 entries, got 3"):
        roulette_coefficients(torch.tensor(2), 1, survival, 5)


def test_no_nan_where_the_inverse_survival_overflows():
    roulette = RussianRoulette(distribution="poisson")
    got = roulette_coefficients(torch.tensor(3), 2, roulette.survival(300), 302)
    assert got[:5].gt(0).all()
    assert not got[5:].any()


@pytest.mark.parametrize("roulette", ROULETTES)
def test_drawn_depths_follow_the_survival_function(roulette):
    n = 20_000
    roulette = RussianRoulette(
        roulette.n_exact, roulette.distribution, roulette.parameter, per_sample=True, probe="gaussian"
    )
    coefficients = roulette.draw(torch.empty(n, 1), True, torch.Generator().manual_seed(5))[1]
    frequency = (coefficients[:, roulette.n_exact :] > 0).double().mean(0)
    survival = roulette.survival(frequency.shape[0])
    assert ((frequency - survival).abs() <= 4 * (survival * (1 - survival) / n).sqrt() + 4 / n).all()


@pytest.mark.parametrize("estimator", [PowerSeries(), RussianRoulette(), RussianRoulette(per_sample=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_draws_come_from_the_generator(estimator, dtype):
    x = torch.empty(3, 2, 4, 4, dtype=dtype)
    first, second, third = (estimator.draw(x, True, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first[0].dtype == first[1].dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    torch.manual_seed(7)
    glob = estimator.draw(x, True)
    torch.manual_seed(7)
    assert all(torch.equal(a, b) for a, b in zip(estimator.draw(x, True), glob, strict=True))


@pytest.mark.parametrize("estimator", [PowerSeries(n_terms=7), RussianRoulette(n_exact=3, eval_terms=4)])
def test_evaluation_is_deterministic(estimator):
    x = torch.randn(3, 5)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    probe, coefficients = estimator.draw(x, False, torch.Generator().manual_seed(9))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(probe, estimator.draw(x, False)[0])
    assert coefficients.tolist() == [1.0] * 7


@pytest.mark.parametrize("training", [True, False])
def test_eval_seed_changes_only_evaluation(training):
    x, generators = torch.ones(5, 6), [torch.Generator().manual_seed(1) for _ in range(2)]
    probes = [PowerSeries(eval_seed=i).draw(x, training, generators[i])[0] for i in range(2)]
    assert torch.equal(*probes) == training


@pytest.mark.parametrize("training", [True, False])
def test_shapes_of_probes(training):
    x = torch.randn(3, 2, 4)
    assert PowerSeries().draw(x, training)[0].shape == (3, 2, 4)
    assert PowerSeries(n_probes=2).draw(x, training)[0].shape == (2, 3, 2, 4)
    assert RussianRoulette(per_sample=True).draw(x[:0], training)[0].shape == (0, 2, 4)
    assert RussianRoulette(per_sample=True).draw(x, True)[1].shape[0] == 3


def test_distributions_of_probes():
    x = torch.empty(40_000)
    rademacher = PowerSeries().draw(x, True)[0]
    assert set(rademacher.unique().tolist()) == {-1.0, 1.0}
    gaussian = PowerSeries(probe="gaussian").draw(x, True)[0]
    assert gaussian.abs().max() > 3
    for probe in (rademacher, gaussian):
        assert abs(float(probe.mean())) < 4 / 200
        assert abs(float(probe.square().mean()) - 1) < 4 * math.sqrt(2) / 200


def test_there_is_always_a_term():
    roulette = RussianRoulette(n_exact=0, distribution="poisson", parameter=1e-9, exact_terms=0)
    assert roulette.draw(torch.empty(2, 2), True)[1].tolist() == [0.0]
    # Exact terms want a coefficient each.
    assert replace(roulette, exact_terms=2).draw(torch.empty(2, 2), True)[1].tolist() == [0.0, 0.0]


def test_power_series_draw_compiles_as_one_graph():
    compiled = torch.compile(lambda x: PowerSeries().draw(x, True), fullgraph=True, backend="aot_eager")
    probe, coefficients = compiled(torch.empty(3, 4))
    assert set(probe.unique().tolist()) <= {-1.0, 1.0}
    assert coefficients.tolist() == [1.0] * 10


def test_default_parameters():
    assert RussianRoulette().parameter == 0.5
    assert RussianRoulette(distribution="poisson").parameter == 2.0
    assert Exact() == Exact()
    assert estimators.PowerSeries(5) == PowerSeries(n_terms=5)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"),
    [
        (PowerSeries, {"n_terms": 0}, ValueError, "n_terms must be at least 1, got 0"),
        (PowerSeries, {"n_terms": 2.5}, TypeError, "n_terms must be an integer, got 2.5"),
        (PowerSeries, {"n_probes": 0}, ValueError, "n_probes must be at least 1"),
        (PowerSeries, {"probe": "uniform"}, ValueError, "probe must be 'rademacher' or 'gaussian', got 'uniform'"),
        (PowerSeries, {"gradient": "exact"}, ValueError, "gradient must be 'neumann' or 'series'"),
        (PowerSeries, {"tol": -1.0}, ValueError, "tol must be positive, got -1.0"),
        (PowerSeries, {"eval_seed": -1}, ValueError, "eval_seed must be at least 0"),
        (RussianRoulette, {"n_exact": -1}, ValueError, "n_exact must be at least 0"),
        (RussianRoulette, {"eval_terms": -1}, ValueError, "eval_terms must be at least 0"),
        (RussianRoulette, {"n_exact": 0, "eval_terms": 0}, ValueError, "n_exact \\+ eval_terms must be at least 1"),
        (RussianRoulette, {"distribution": "uniform"}, ValueError, "distribution must be 'geometric' or 'poisson'"),
        (RussianRoulette, {"parameter": 1.0}, ValueError, r"parameter must be in \(0, 1\) for geometric, got 1.0"),
        (
            RussianRoulette,
            {"distribution": "poisson", "parameter": 0.0},
            ValueError,
            r"parameter must be in \(0, 500\]",
        ),
    ],
)
def test_errors(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make(**arguments)
