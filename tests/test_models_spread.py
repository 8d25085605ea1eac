"""Means of estimates that come in pieces, and the factor for not knowing their spread."""

import math

import pytest
import torch
from scipy import stats

from iresnet_fast.models._spread import FEWEST, Spread, largest_factor


def test_pieces_make_the_whole():
    values = 1e3 + torch.randn(30, 5, dtype=torch.float64)
    spread = Spread(5, torch.device("cpu"))
    spread.add(slice(None), values[:1])
    assert spread.variance.isnan().all()
    spread.add(slice(None), values[1:8])
    spread.add(torch.tensor([3, 1]), values[8:, [3, 1]])
    for sample, count in enumerate([8, 30, 8, 30, 8]):
        own = values[:count, sample]
        assert float(spread.count[sample]) == count
        assert float(spread.mean[sample]) == pytest.approx(float(own.mean()), rel=1e-14)
        assert float(spread.variance[sample]) == pytest.approx(float(own.var()), rel=1e-9)
        assert float(spread.standard_error[sample]) == pytest.approx(float(own.std()) / math.sqrt(count), rel=1e-9)


@pytest.mark.parametrize(("degrees", "margin"), [(1, math.inf), (3, 0.04), (7, 0.004), (31, 0.001), (1000, 1e-4)])
def test_the_factor_is_that_of_chi_squared(degrees, margin):
    true = math.sqrt(degrees / stats.chi2.ppf(0.05, degrees))
    found = float(largest_factor(torch.tensor(float(degrees), dtype=torch.float64)))
    assert true * (1.0 - 1e-3) <= found <= true * (1.0 + margin)


def test_a_decision_by_two_valued_estimates_is_rarely_wrong():
    """All estimates of a block of two dimensions may be equal: that looks as if nothing spread."""
    assert 2.0 * 0.5**FEWEST < 0.01
