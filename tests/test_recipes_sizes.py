"""Images and signals of any shape have a recipe: scales as their sides can be halved, batches that there are."""

import math

import pytest
import torch

from iresnet_fast.data import DataSet
from iresnet_fast.models import IResNetFlow
from iresnet_fast.training.fit import fit
from iresnet_fast.training.recipes import recipe, sizes_of

ONE_STEP = {"max_steps": 1, "max_minutes": None, "max_epochs": None}


def events(shape, n, n_levels=256, n_classes=None):
    total = n + 3
    x = torch.rand(total, *shape) if n_levels is None else torch.randint(0, n_levels, (total, *shape)).float()
    labels = None if n_classes is None else torch.arange(total) % n_classes
    parts = (None, None) if labels is None else (labels[:n], labels[n:])
    return DataSet("made up", x[:n], x[n:], *parts, n_levels, n_classes)


@pytest.mark.parametrize(
    ("shape", "scales", "squeezed"),
    [
        ((1, 37, 50), 1, False),
        ((3, 12, 12), 1, True),
        ((3, 16, 24), 2, True),
        ((1, 64, 64), 4, True),
        ((3, 6, 6), 1, False),
        ((1, 64), 3, True),
        ((2, 37), 1, False),
        ((1, 48), 2, True),
    ],
)
def test_scales_follow_from_the_sides(shape, scales, squeezed):
    dataset = events(shape, 5, None)
    config = recipe(dataset)[0].config
    assert (len(config.blocks), config.squeeze_first, config.event_shape) == (scales, squeezed, shape)
    side = min(shape[1:]) // 2 ** (scales if squeezed else 0)
    assert side >= (4 if len(shape) == 3 else 8) or not squeezed


def test_more_data_have_more_blocks_and_the_reason_says_how_many():
    few, many = (events((1, 6, 6), n) for n in (999, 1000))
    assert recipe(few)[0].config.blocks < recipe(many)[0].config.blocks
    assert "999 training images of 1 x 6 x 6" in sizes_of(few).reason
    assert "batches of 32" in sizes_of(many).reason


def test_a_shape_with_a_preset_keeps_it():
    for dataset in (events((1, 8, 8), 50, 17), events((1, 28, 28), 50), events((3, 32, 32), 50)):
        assert sizes_of(dataset) is None
    assert sizes_of(events((1, 9, 9), 50), preset="mnist") is None


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 9, 9), (1, 40), (2,)])
def test_a_batch_has_no_more_samples_than_there_are(shape):
    for n in (3, 7):
        _, training = recipe(events(shape, n, None), changes={"blocks": (1,), "hidden": (4, 4)})
        assert training.batch_size == n


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        (events((1, 5, 7), 6), "flow"),
        (events((3, 8, 12), 6), "residual_flow"),
        (events((1, 28, 28), 6, 256, 2), "classifier"),
        (events((3, 9, 7), 6, 256, 2), "classifier"),
        (events((3, 8, 8), 6, 256, 2), "hybrid"),
        (events((2, 8, 8), 6), "flow"),
        (events((1, 6, 6), 6, 65536), "flow"),
        (events((1, 6, 6), 6, 2), "flow"),
        (events((1, 6, 6), 6, None), "flow"),
        (events((2, 16), 6, None), "flow"),
        (events((1, 15), 6, 17), "flow"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.event_shape} {value.n_levels}",
)
def test_it_trains(dataset, kind, tmp_path):
    torch.manual_seed(0)
    model, training = recipe(dataset, kind)
    done = fit(model, dataset, training.replace(**ONE_STEP), tmp_path / "run", show_progress=False)
    assert done.step == 1
    assert all(math.isfinite(value) for value in done.evaluation.metrics.values())


def test_whole_numbers_of_signals_are_dequantised():
    model, _ = recipe(events((1, 15), 6, 17))
    assert isinstance(model, IResNetFlow)
    assert model.config.n_levels == 17
