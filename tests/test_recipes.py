"""recipe: the model is that of the data, and how to train it is written down once."""

import pytest
import torch

from iresnet_fast.data import DataSet
from iresnet_fast.models import HybridIResNet, IDenseNet, IResNetClassifier, IResNetFlow, ResidualFlow
from iresnet_fast.training.config import TrainConfig
from iresnet_fast.training.recipes import _TRAINING, MODELS, recipe
from iresnet_fast.training.schedule import learning_rate

SMALL = {"blocks": (1,), "hidden": (4, 4)}


def vectors(d):
    return DataSet("points", 3.0 * torch.randn(2000, d) + 1.0, torch.randn(9, d))


def signals(channels, length, n=200):
    return DataSet("waves", torch.randn(n, channels, length), torch.randn(9, channels, length))


def images(shape, n_levels=256, n_classes=10):
    train, test = (torch.randint(0, n_levels, (n, *shape), dtype=torch.uint8) for n in (200, 3))
    labels = (None, None) if n_classes is None else (torch.arange(200) % n_classes, torch.arange(3) % n_classes)
    return DataSet("pictures", train, test, *labels, n_levels, n_classes)


@pytest.mark.parametrize(
    ("dataset", "kind", "changes", "model_class", "expected"),
    [
        (vectors(2), "flow", SMALL, IResNetFlow, {"batch_size": 500, "learning_rate": 1e-3}),
        (vectors(2), "residual_flow", SMALL, ResidualFlow, {"batch_size": 500, "max_steps": 50_000, "betas": None}),
        (vectors(2), "idensenet", {"blocks": (1,)}, IDenseNet, {"batch_size": 500}),
        (vectors(5), "flow", SMALL, IResNetFlow, {"batch_size": 256, "optimizer": "adamw", "learning_rate": 3e-3}),
        (
            images((1, 8, 8), 17),
            "flow",
            SMALL,
            IResNetFlow,
            {"batch_size": 64, "optimizer": "adam", "learning_rate": 5e-3, "clip": 1.0, "decay_start": 0.6},
        ),
        (
            images((1, 28, 28)),
            "flow",
            {"blocks": (1, 1), "hidden": (4, 4)},
            IResNetFlow,
            {"batch_size": 32, "optimizer": "adam", "learning_rate": 4e-2, "clip": 1.0, "decay_start": 0.7},
        ),
        (
            images((1, 28, 28)),
            "classifier",
            {"blocks": (1, 1), "hidden": (4, 4)},
            IResNetClassifier,
            {"batch_size": 64, "optimizer": "adamw", "learning_rate": 3e-3, "decay_start": 0.3, "shift": 2},
        ),
        (
            images((3, 32, 32)),
            "flow",
            SMALL,
            IResNetFlow,
            {"batch_size": 128, "optimizer": "adamax", "learning_rate": 3e-3},
        ),
        (
            images((3, 32, 32)),
            "residual_flow",
            {**SMALL, "fc_blocks": 0},
            ResidualFlow,
            {"batch_size": 64, "optimizer": "adam", "betas": (0.9, 0.99), "warmup_steps": 1000, "ema": 0.999},
        ),
        (
            images((1, 8, 8), 17, 4),
            "hybrid",
            {**SMALL, "head_hidden": 3},
            HybridIResNet,
            {"batch_size": 64, "density_weight": 1.0 / 64.0},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_model_and_training_fit_the_data(dataset, kind, changes, model_class, expected):
    model, training = recipe(dataset, kind, changes=changes)
    assert type(model) is model_class
    config = model.config
    if kind == "hybrid":
        assert config.head_hidden == 3
    if kind in ("classifier", "hybrid"):
        assert config.n_classes == dataset.n_classes
    if kind == "classifier":
        assert config.image_shape == dataset.event_shape
    else:
        flow = config.flow if kind == "hybrid" else config
        assert (flow.event_shape, flow.n_levels) == (dataset.event_shape, dataset.n_levels)
        config = flow
    assert {name: getattr(config, name) for name in changes if name != "head_hidden"} == {
        name: value for name, value in changes.items() if name != "head_hidden"
    }
    assert {name: getattr(training, name) for name in expected} == expected
    assert isinstance(training, TrainConfig)


def test_a_preset_brings_its_own_recipe():
    _, training = recipe(images((1, 28, 28)), "flow", "mnist_paper", {"blocks": (1, 1), "hidden": (4, 4)})
    assert training.optimizer == "adamax"


def test_the_papers_classifiers_train_as_published():
    mnist, cifar10 = (_TRAINING["classifier"][preset] for preset in ("mnist_paper", ""))
    for training in (mnist, cifar10):
        assert (training.optimizer, training.learning_rate, training.max_epochs) == ("sgd", 0.1, 200)
        rates = [learning_rate(training, 10_000, epoch / 200) for epoch in (0, 60, 120, 160)]
        assert rates == pytest.approx([0.1, 0.02, 0.004, 0.0008], rel=1e-12)
    assert (cifar10.shift, cifar10.shift_padding, cifar10.flip) == (4, "reflect", True)
    assert (mnist.shift, mnist.flip) == (0, False)


def test_every_preset_of_every_model_has_a_recipe():
    for kind, model_class in MODELS.items():
        assert set(_TRAINING[kind]) - {""} <= set(model_class.presets())
        assert "" in _TRAINING[kind] or set(_TRAINING[kind]) == set(model_class.presets())
        for training in _TRAINING[kind].values():
            budgets = [training.max_steps, training.max_epochs, training.max_minutes]
            assert sum(budget is not None for budget in budgets) == 1


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        (vectors(2), {"kind": "gan"}, "kind must be one of flow, residual_flow, .*, got 'gan'"),
        (vectors(2), {"preset": "big"}, "name must be one of toy, tabular, .*, got 'big'"),
        (
            vectors(2),
            {"kind": "classifier"},
            "a classifier needs images with labels, got vectors without labels in points",
        ),
        (vectors(2), {"kind": "hybrid", "preset": "mnist"}, "a hybrid needs images with labels, got vectors"),
        (images((1, 8, 8), 17, None), {"kind": "classifier"}, "got images without labels in pictures"),
        (vectors(5), {"kind": "residual_flow"}, "preset must be given for a residual_flow on events of shape"),
        (signals(1, 4), {"kind": "idensenet"}, r"preset must be given for a idensenet on events of shape \(1, 4\)"),
        (vectors(2), {"changes": {"depths": 3}}, "FlowConfig must have keys of .*, got 'depths'"),
        (images((1, 8, 8), 17), {"kind": "hybrid", "changes": {"depths": 3}}, "HybridConfig must have keys of"),
        (vectors(2), {"changes": {"coeff": 1.5}}, "coeff must be in"),
    ],
)
def test_errors(dataset, arguments, message):
    with pytest.raises(ValueError, match=message):
        recipe(dataset, **arguments)


def test_changes_stay_the_callers():
    changes = {"blocks": (1,), "hidden": (4, 4)}
    recipe(images((1, 8, 8), 17), "hybrid", changes=changes)
    assert changes == {"blocks": (1,), "hidden": (4, 4)}
