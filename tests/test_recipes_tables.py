"""The recipe of tables: its size is that of the table, and it ends no worse than the Gaussian it begins as."""

import itertools
import math

import pytest
import torch

from iresnet_fast.data import Column, DataSet, TableSchema
from iresnet_fast.training.baseline import Baseline, gaussian_log_prob
from iresnet_fast.training.batches import divided
from iresnet_fast.training.fit import fit
from iresnet_fast.training.recipes import recipe, sizes_of
from iresnet_fast.training.table_sizes import table_sizes

pytestmark = pytest.mark.usefixtures("one_thread")


def table(n, d, steps=None, seed=0):
    """A table of n rows to train on: normal numbers, whole where there is a step."""
    generator = torch.Generator().manual_seed(seed)
    x = 3.0 * torch.randn(n + 40, d, generator=generator) + 10.0
    steps = steps or [0.0] * d
    for column, step in zip(x.T, steps, strict=True):
        if step:
            column.copy_((column / step).round() * step)
    columns = tuple(Column(f"c{i}", step=step) for i, step in enumerate(steps))
    return DataSet("rows", x[:n], x[n:], table=TableSchema(columns))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20, 59, 60, 150, 1999, 2000, 10_000, 1_000_000])
@pytest.mark.parametrize("d", [1, 2, 30])
def test_sizes_can_be_trained_on(n, d):
    sizes = table_sizes(n, d)
    rest, held_out = divided(n, sizes.training)
    n_fit = n if rest is None else len(rest)
    assert 1 <= sizes.batch_size <= n_fit
    assert (held_out is None) == (n == 1)
    assert sizes.preprocess == ("whiten" if n >= 2 * d else "standardize")
    assert f"{n} rows of {d} number" in sizes.reason
    assert f"{0 if held_out is None else len(held_out)} are held out" in sizes.reason


def test_more_rows_mean_a_larger_model_that_is_held_back_less():
    found = [table_sizes(n, 5) for n in (50, 500, 5_000, 50_000, 500_000)]
    for few, many in itertools.pairwise(found):
        assert few.weight_decay > many.weight_decay
        assert (few.batch_size, few.blocks, few.hidden) <= (many.batch_size, many.blocks, many.hidden)
        assert few.validation >= many.validation


def test_steps_and_statistics_come_from_the_table():
    dataset = table(100, 3, [1.0, 0.0, 0.5])
    model, training = recipe(dataset)
    assert model.config.dequantize == (1.0, 0.0, 0.5)
    assert model.config.starts_normal
    assert training.patience is not None
    assert 0.1 <= training.validation < 0.2
    own, _ = recipe(dataset, changes={"blocks": (1,), "preprocess": "standardize"})
    assert (own.config.blocks, own.config.preprocess) == ((1,), "standardize")
    assert recipe(table(100, 3))[0].config.dequantize == ()
    named, training = recipe(dataset, preset="tabular")
    assert named.config.blocks == (20,)
    assert named.config.dequantize == (1.0, 0.0, 0.5)
    assert training.batch_size == 100


def test_points_without_a_schema_are_toys():
    points = DataSet("points", torch.randn(300, 2), torch.randn(9, 2))
    assert sizes_of(points) is None
    assert recipe(points)[1].patience is None
    assert sizes_of(table(300, 2)) is not None
    assert sizes_of(DataSet("rows", torch.randn(300, 3), torch.randn(9, 3))) is not None
    assert sizes_of(table(300, 2), preset="toy") is None


@pytest.mark.parametrize(("n", "d"), [(1, 2), (2, 1), (2, 5), (3, 2), (9, 12), (30, 1), (40, 2)])
def test_the_smallest_tables_train(n, d, tmp_path):
    dataset = table(n, d, [1.0] + [0.0] * (d - 1))
    torch.manual_seed(0)
    model, training = recipe(dataset)
    run = fit(model, dataset, training.replace(max_steps=3), tmp_path / "run", show_progress=False)
    assert math.isfinite(run.evaluation.metrics["nats"])
    assert run.best.sample(4).isfinite().all()


def test_a_run_begins_as_the_gaussian_of_all_training_rows(tmp_path):
    """Rows of a normal law tell a flow nothing more, so that it had best stay what it is."""
    dataset = table(80, 4)
    torch.manual_seed(0)
    model, training = recipe(dataset)
    run = fit(model, dataset, training.replace(max_steps=1), tmp_path / "run", show_progress=False)
    assert run.history[0]["step"] == 0
    held_out = divided(80, training)[1]
    expected = gaussian_log_prob(dataset.train, dataset.train[held_out], torch.zeros(1, dtype=torch.float64))
    assert run.history[0]["validation_nats"] == pytest.approx(-float(expected.mean()), abs=1e-4)  # float32


def test_a_model_that_stayed_the_gaussian_is_called_level():
    for difference in (0.004, -0.004):
        assert str(Baseline(1.0, difference, 0.001)) == (
            "baseline: the model is level with a full-covariance Gaussian on the test samples"
        )
    assert "worse than a full-covariance Gaussian by 0.01 +- 0.00 nats" in str(Baseline(1.0, -0.0051, 0.001))
    assert "better than a full-covariance Gaussian by 0.01 +- 0.00 nats" in str(Baseline(1.0, 0.0051, 0.001))
