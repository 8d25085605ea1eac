"""Models and training recipes for the data sets: those of this project for a CPU, and those of the papers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..data import DataSet
from ..models import FlowConfig, HybridIResNet, IDenseNet, IResNetClassifier, IResNetFlow, ResidualFlow
from .config import TrainConfig
from .image_sizes import Sizes, grid_sizes
from .table_sizes import TableSizes, table_sizes

Model = IResNetFlow | IResNetClassifier | HybridIResNet

MODELS: dict[str, type[Model]] = {
    "flow": IResNetFlow,
    "residual_flow": ResidualFlow,
    "idensenet": IDenseNet,
    "classifier": IResNetClassifier,
    "hybrid": HybridIResNet,
}

# Images by their shape: Fashion-MNIST goes with MNIST, SVHN with CIFAR-10.
_IMAGES: dict[tuple[int, ...], str] = {(1, 8, 8): "digits", (1, 28, 28): "mnist", (3, 32, 32): "cifar10"}

# Recipes of this project. Their learning rates are high, since normalised weights have no scale: as weights grow, the
# same step turns them less. After 8000 steps on mnist 5e-3 came to 1.32 bits/dim, 2e-2 to 1.29 and 4e-2 to 1.27.
_TOY = TrainConfig(batch_size=500, learning_rate=1e-3, max_minutes=5.0)
_TABULAR = TrainConfig(batch_size=1000, learning_rate=1e-3, max_minutes=10.0)
_DIGITS = TrainConfig(batch_size=64, learning_rate=5e-3, max_minutes=2.0)
_MNIST = TrainConfig(batch_size=32, learning_rate=4e-2, decay_start=0.7, max_minutes=20.0)
_CLASSIFIER = TrainConfig(optimizer="adamw", learning_rate=3e-3, weight_decay=0.01, decay_start=0.3, max_minutes=10.0)
_SIGNAL = TrainConfig(batch_size=32, learning_rate=5e-3, decay_start=0.7, max_minutes=10.0)
_OTHER_IMAGES = _SIGNAL.replace(max_minutes=20.0)  # of a shape without a preset

# i-ResNet, arXiv 1811.00995, and the scripts published with it: the rate is multiplied by 0.2 after 60, 120 and 160 of
# 200 epochs. Their crops are shifts here, whose mirror does not repeat the outermost pixels as theirs does.
_PAPER = TrainConfig(128, "adamax", 3e-3, clip=None, warmup_steps=400, decay_start=1.0, ema=None, max_epochs=200)
_PAPER_CLASSIFIER = _PAPER.replace(
    optimizer="sgd", learning_rate=0.1, weight_decay=5e-4, warmup_steps=3900, decay="steps", decay_at=(0.3, 0.6, 0.8)
)

# Residual Flows, arXiv 1906.02735, and the defaults of its code, which sets betas for images only; i-DenseNet, arXiv
# 2102.02694, trains alike.
_RESIDUAL_FLOW = TrainConfig(64, "adam", 1e-3, (0.9, 0.99), warmup_steps=1000, decay_start=1.0, max_epochs=1000)
_RESIDUAL_TOY = _RESIDUAL_FLOW.replace(
    batch_size=500,
    betas=None,
    weight_decay=1e-5,
    clip=None,
    warmup_steps=0,
    ema=None,
    max_epochs=None,
    max_steps=50_000,
)

# By the kind of a model and its preset; "" stands for all other presets.
_TRAINING: dict[str, dict[str, TrainConfig]] = {
    "flow": {"toy": _TOY, "tabular": _TABULAR, "signal": _SIGNAL, "digits": _DIGITS, "mnist": _MNIST, "": _PAPER},
    "residual_flow": {"toy": _RESIDUAL_TOY, "": _RESIDUAL_FLOW},
    "idensenet": {"toy": _TOY, "": _RESIDUAL_FLOW},
    "classifier": {
        "digits": _CLASSIFIER.replace(max_minutes=2.0),
        "mnist": _CLASSIFIER.replace(shift=2),
        "mnist_paper": _PAPER_CLASSIFIER,
        "": _PAPER_CLASSIFIER.replace(shift=4, shift_padding="reflect", flip=True),
    },
    "hybrid": {"digits": _DIGITS, "mnist": _MNIST.replace(learning_rate=5e-3), "": _RESIDUAL_FLOW},
}


def recipe(
    dataset: DataSet, kind: str = "flow", preset: str | None = None, changes: Mapping[str, Any] | None = None
) -> tuple[Model, TrainConfig]:
    """Return an untrained model that fits the data, and how to train it.

    The shape of an event, the number of levels and that of classes are those of the data, and so is the width of the
    context, which is standardised and moves ActNorms and a learned prior too. Initial weights come from torch's global
    generator.

    Args:
        dataset: what to train on.
        kind: one of MODELS.
        preset: a preset of that class; None: "toy" for points of two dimensions, "tabular" for tables and other
            vectors, "digits", "mnist" or "cifar10" for images of 1 x 8 x 8, 1 x 28 x 28 or 3 x 32 x 32 values; a flow
            of a table, and the model of other images and of signals, is as large as `sizes_of` says.
        changes: other values of fields of the model's configuration; of a hybrid, of its flow's too.

    Returns:
        The model, and a TrainConfig with a budget, whose batches have at most as many samples as there are to train on;
        `replace` changes it.

    Raises:
        ValueError: the kind, the preset or a field is unknown, the data do not go with the model, or a value is out of
            range.
        TypeError: a value has the wrong type.
    """
    if kind not in MODELS:
        raise ValueError(f"kind must be one of {', '.join(MODELS)}, got {kind!r}; use one of them.")
    model_class = MODELS[kind]
    if kind in ("classifier", "hybrid") and (dataset.n_classes is None or not dataset.is_image):
        what = "images" if dataset.is_image else "vectors"
        labels = "without" if dataset.n_classes is None else "with"
        raise ValueError(
            f"a {kind} needs images with labels, got {what} {labels} labels in {dataset.name}; train a flow instead."
        )
    sizes = sizes_of(dataset, kind, preset)
    if preset is None:
        preset = _preset_for(dataset, kind) if sizes is None else sizes.preset
    config: Any = model_class.preset_config(preset)
    own = dict(changes or {})
    of_data: dict[str, Any]
    if kind == "classifier":
        of_data = {
            "image_shape": dataset.event_shape,
            "n_classes": dataset.n_classes,
            "n_levels": dataset.n_levels,
        }
    else:
        of_data = {"event_shape": dataset.event_shape, "n_levels": dataset.n_levels}
        if dataset.table is not None and any(dataset.table.steps):
            of_data["dequantize"] = dataset.table.steps
        if dataset.context_features:
            of_data |= _of_context(config.flow if kind == "hybrid" else config, dataset.context_features)
    if sizes is not None:
        of_data |= sizes.changes
    if kind == "hybrid":
        names = {field.name for field in fields(FlowConfig)}
        of_flow = {**of_data, **{name: own.pop(name) for name in names & own.keys()}}
        of_data = {"flow": config.flow.replace(**of_flow), "n_classes": dataset.n_classes}
    config = config.replace(**{**of_data, **own})
    model = model_class(config)
    training = _training_of(kind, preset, sizes)
    training = training.replace(batch_size=min(training.batch_size, len(dataset.train)))
    if kind == "hybrid":  # bits/dim beside the cross-entropy, as in Residual Flows
        training = training.replace(density_weight=1.0 / dataset.train[0].numel())
    return model, training


def sizes_of(dataset: DataSet, kind: str = "flow", preset: str | None = None) -> Sizes | TableSizes | None:
    """Return what `recipe` takes from the size of the data, and why; None where a preset says everything."""
    known = MODELS[kind].presets()
    if preset is not None:
        return None
    if len(dataset.event_shape) == 1:
        points = dataset.event_shape == (2,) and dataset.table is None
        return None if kind != "flow" or points else table_sizes(len(dataset.train), dataset.event_shape[0])
    if _IMAGES.get(dataset.event_shape) in known:
        return None
    sizes = grid_sizes(dataset, kind)
    return sizes if sizes.preset in known else None


def _training_of(kind: str, preset: str, sizes: Sizes | TableSizes | None) -> TrainConfig:
    if isinstance(sizes, TableSizes):
        return sizes.training
    if sizes is None:
        return _TRAINING[kind].get(preset, _TRAINING[kind][""])
    known = _TRAINING[kind][preset] if kind == "classifier" or preset == "signal" else _OTHER_IMAGES
    return known.replace(batch_size=sizes.batch_size)


def _of_context(config: FlowConfig, width: int) -> dict[str, Any]:
    """Return the fields of a flow for a context: all that can depend on it does.

    After equal steps on two moons turned by an angle, the conditional ActNorms were worth 0.2 nats and the prior 0.05.
    """
    return {
        "context_features": width,
        "context_preprocess": "standardize",
        "conditional_actnorm": config.actnorm or config.final_actnorm,
        "prior": "conditional" if config.prior == "learned" else config.prior,
    }


def _preset_for(dataset: DataSet, kind: str) -> str:
    preset: str | None
    if len(dataset.event_shape) > 1:
        preset = _IMAGES.get(dataset.event_shape)
    else:
        preset = "toy" if dataset.event_shape == (2,) else "tabular"
    known = MODELS[kind].presets()
    if preset not in known:
        raise ValueError(
            f"preset must be given for a {kind} on events of shape {dataset.event_shape}, for which there is no "
            f"recipe, got None; pass one of {', '.join(known)}, or another model."
        )
    return preset
