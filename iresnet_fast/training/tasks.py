"""What each kind of model is trained for, and the form in which it takes the data."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from .._inputs import described
from ..data import DataSet
from ..models import HybridIResNet, IResNetClassifier, IResNetFlow


class Task(ABC):
    """What a model is trained for.

    Args:
        model: the model.

    Attributes:
        metrics: names of what `evaluate` measures of such a model.
        needs_labels: whether the loss looks at labels.
        event_shape: of the data.
        context_features: width of the context of the data, 0 if there is none.
        n_classes: of the logits; None if there are none.
        class_weights: how much each class counts in the cross-entropy, [n_classes], 1 on average over the training
            samples; None: all the same, or there is no cross-entropy.
    """

    metrics: tuple[str, ...]
    needs_labels = True

    def __init__(self, model: nn.Module) -> None:
        """Train the model."""
        self._model = model
        flow, own = flow_of(model), cast(Any, model).config
        config: Any = own if flow is None else flow.config
        self.event_shape: tuple[int, ...] = config.image_shape if flow is None else config.event_shape
        self.context_features = 0 if flow is None else flow.config.context_features
        self.n_classes: int | None = getattr(own, "n_classes", None)
        self._dtype = next(model.parameters()).dtype
        self.class_weights: Tensor | None = None

    @property
    def decisive(self) -> str:
        """The metric by which one model is better than another, the smaller the better."""
        return self.metrics[0]

    def inputs(self, x: Tensor) -> Tensor:
        """Return what the model takes for data [B, *event_shape] as a DataSet holds them: whole numbers stay whole."""
        return x.to(self._dtype)

    def context(self, context: Tensor | None) -> Tensor | None:
        """Return what the model takes for a context [B, context_features] as a DataSet holds it."""
        return None if context is None else context.to(self._dtype)

    @abstractmethod
    def loss(
        self, x: Tensor, labels: Tensor | None, context: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss [] of inputs [B, *event_shape], their labels [B] and context [B, context_features].

        The loss of each is multiplied by its weight [B]; the class weights multiply its cross-entropy too.
        """

    @abstractmethod
    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Start ActNorms, and a learned prior, from inputs [n, *event_shape] and their context."""

    @abstractmethod
    def check(self, dataset: DataSet) -> None:
        """Raise ValueError unless the model fits the data."""

    def adopted(self, dataset: DataSet) -> Any:
        """Return the configuration of the model with what it leaves open taken over from the data."""
        return self._model.config

    def adopt(self, dataset: DataSet) -> None:
        """Give the model its adopted configuration."""
        self._model.config = self.adopted(dataset)


class FlowTask(Task):
    """Density: the loss is the mean of -log_prob, in bits/dim, or in nats for vectors of continuous values."""

    needs_labels = False

    def __init__(self, flow: IResNetFlow) -> None:
        """Train the flow."""
        super().__init__(flow)
        self.flow = flow
        self.metrics = (_density_metric(flow),)

    def loss(
        self, x: Tensor, labels: Tensor | None, context: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean of -log_prob []; labels are not used."""
        if self.metrics == ("nats",):
            return -_mean(self.flow.log_prob(x, context), weights)
        return _mean(self.flow.bits_per_dim(x, context), weights)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Start ActNorms and a learned prior."""
        self.flow.initialize(x, context)

    def check(self, dataset: DataSet) -> None:
        """Raise ValueError unless the model fits the data."""
        _check_flow(self.flow, "", dataset)


class ClassifierTask(Task):
    """Classification: the loss is the cross-entropy, in nats."""

    metrics = ("error_percent",)

    def __init__(self, classifier: IResNetClassifier) -> None:
        """Train the classifier."""
        super().__init__(classifier)
        self.classifier = classifier

    def inputs(self, x: Tensor) -> Tensor:
        """Return images as the residual blocks see them: whole numbers, of any dtype, if the model has n_levels.

        Raises:
            ValueError: x holds integers and the model has no n_levels, or x has other values.
        """
        whole = self.classifier.config.n_levels is not None or not x.is_floating_point()
        return self.classifier.scaled(x) if whole else x.to(self._dtype)

    def loss(
        self, x: Tensor, labels: Tensor | None, context: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean cross-entropy []; there is no context."""
        assert labels is not None  # see check
        return _cross_entropy(self.classifier(x), labels, self.class_weights, weights)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Start ActNorms."""
        self.classifier.train()
        self.classifier(x)

    def check(self, dataset: DataSet) -> None:
        """Raise ValueError unless the model fits the data."""
        if dataset.context_features:
            raise ValueError(
                f"train_context of {dataset.name} must be None for a classifier, got one of width "
                f"{dataset.context_features}; leave it out, or train a flow or a hybrid."
            )
        config = self.classifier.config
        _check_equal("image_shape", config.image_shape, dataset.event_shape, dataset)
        _check_equal("n_classes", config.n_classes, dataset.n_classes, dataset)
        if config.n_levels is not None:
            _check_equal("n_levels", config.n_levels, dataset.n_levels, dataset)

    def adopted(self, dataset: DataSet) -> Any:
        """Return the configuration by which a classifier without n_levels scales integers as those of the data."""
        return self.classifier.config.replace(n_levels=dataset.n_levels)


class HybridTask(Task):
    """Density and classification: the loss is that of the HybridIResNet, in bits."""

    def __init__(self, model: HybridIResNet, density_weight: float) -> None:
        """Train the model."""
        super().__init__(model)
        self.model, self.density_weight = model, density_weight
        self.metrics = (_density_metric(model.flow), "error_percent")

    @property
    def decisive(self) -> str:
        """The density, unless it has no weight."""
        return self.metrics[0 if self.density_weight else 1]

    def loss(
        self, x: Tensor, labels: Tensor | None, context: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean of density_weight * -log p(x) - log p(y | x) []."""
        assert labels is not None  # see check
        if weights is None and self.class_weights is None:
            return self.model.loss(x, labels, self.density_weight, context)
        logits, log_prob = self.model(x, context)
        cross_entropy = _cross_entropy(logits, labels, self.class_weights, weights)
        return (cross_entropy - self.density_weight * _mean(log_prob, weights)) / math.log(2.0)

    def initialize(self, x: Tensor, context: Tensor | None = None) -> None:
        """Start ActNorms, of the head too, and a learned prior."""
        flow = self.model.flow
        flow.initialize(x, context)
        self.model.train()
        self.model.head(flow.pieces(flow.transform_to_noise(x, context)))

    def check(self, dataset: DataSet) -> None:
        """Raise ValueError unless the model fits the data."""
        _check_flow(self.model.flow, "flow.", dataset)
        _check_equal("n_classes", self.model.config.n_classes, dataset.n_classes, dataset)


class LossModule(nn.Module):
    """The loss of a model as a module, so that DistributedDataParallel sees the whole of it."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        """Hold the model and its task."""
        super().__init__()
        self.model, self.task = model, task

    def forward(
        self, x: Tensor, labels: Tensor | None, context: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Return the loss []; arguments as of `Task.loss`."""
        return self.task.loss(x, labels, context, weights)


def task_of(model: nn.Module, density_weight: float = 1.0) -> Task:
    """Return what such a model is trained for.

    Args:
        model: an IResNetFlow, IResNetClassifier or HybridIResNet.
        density_weight: of the density in the loss of a HybridIResNet.

    Raises:
        TypeError: the model is none of them.
    """
    if isinstance(model, HybridIResNet):
        return HybridTask(model, density_weight)
    if isinstance(model, IResNetFlow):
        return FlowTask(model)
    if isinstance(model, IResNetClassifier):
        return ClassifierTask(model)
    raise TypeError(
        f"model must be an IResNetFlow, IResNetClassifier or HybridIResNet, got {described(model)}; pass one."
    )


def flow_of(model: nn.Module) -> IResNetFlow | None:
    """Return the flow of a model, None if it has no density."""
    flow = model.flow if isinstance(model, HybridIResNet) else model
    return flow if isinstance(flow, IResNetFlow) else None


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * weights.to(values.dtype)).mean()


def _cross_entropy(logits: Tensor, labels: Tensor, of_classes: Tensor | None, weights: Tensor | None) -> Tensor:
    """Return the mean over the samples [], each times both of its weights."""
    if of_classes is None and weights is None:
        return F.cross_entropy(logits, labels)
    values = F.cross_entropy(logits, labels, reduction="none")
    return _mean(values if of_classes is None else values * of_classes.to(values)[labels], weights)


def _density_metric(flow: IResNetFlow) -> str:
    return "bits_per_dim" if flow.config.is_image or flow.config.n_levels is not None else "nats"


def _check_flow(flow: IResNetFlow, prefix: str, dataset: DataSet) -> None:
    _check_equal(f"{prefix}event_shape", flow.config.event_shape, dataset.event_shape, dataset)
    _check_equal(f"{prefix}n_levels", flow.config.n_levels, dataset.n_levels, dataset)
    _check_equal(f"{prefix}context_features", flow.config.context_features, dataset.context_features, dataset)


def _check_equal(field: str, ours: object, theirs: object, dataset: DataSet) -> None:
    if ours != theirs:
        raise ValueError(
            f"{field} of the model must be {theirs}, that of {dataset.name}, got {ours}; build the model for the data."
        )
