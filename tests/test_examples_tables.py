"""The tables of examples/tables.py, and the density that it takes of normflows."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.fixture
def module(monkeypatch, one_thread):
    """Import a module of examples/ by name, as its scripts do."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    return importlib.import_module


def test_there_are_twelve_tables_of_a_hundred_rows(module):
    sets = module("_table_sets")
    assert len(sets.TABLES) == 12
    for name in sets.TABLES:
        split, other = sets.split(name, 0), sets.split(name, 1)
        n, m = len(split.train), len(split.test)
        assert n + m >= 100
        assert m == round(0.2 * (n + m))
        assert not torch.equal(split.test, other.test)
        for rows, noisy in ((split.dataset.train, split.train), (split.dataset.test, split.test)):
            steps = torch.tensor(split.steps)
            assert bool(((noisy - rows).abs() <= 0.51 * steps).all())
            assert bool((noisy != rows).any(0)[steps > 0.0].all())


def test_the_exact_density_of_normflows_is_that_of_its_estimates(module):
    models = module("_table_models")
    nf = models.nf
    torch.manual_seed(0)
    net = nf.nets.LipschitzMLP([3, 16, 16, 3], lipschitz_const=0.9, init_zeros=False)
    block = nf.flows.Residual(net, n_exact_terms=20, n_samples=1)
    model = nf.NormalizingFlow(nf.distributions.DiagGaussian(3, trainable=False), [block, nf.flows.ActNorm((3,))])
    x = torch.randn(40, 3)
    model.forward_kld(x)  # which starts the ActNorm
    nf.utils.update_lipschitz(model, 50)
    estimates = torch.stack([model.log_prob(x).detach() for _ in range(200)])
    error = estimates.std(0) / len(estimates) ** 0.5
    # 40 means, each of 200 estimates: 5 standard errors, and what rounding leaves.
    assert bool(((estimates.mean(0) - models.exact_log_prob(model, x)).abs() < 5.0 * error + 1e-4).all())
