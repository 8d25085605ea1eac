"""What each kind of model is trained for, and the form in which it takes the data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from ..data import DataSet
from ..models import HybridIResNet, IResNetClassifier, IResNetFlow


class Task(ABC):
    """What a model is trained for.

    Args:
        model: the model.

    Attributes:
        metrics: names of what `evaluate` measures of such a model.
        needs_labels: whether the loss looks at labels.
    """

    metrics: tuple[str, ...]
    needs_labels = True

    def __init__(self, model: nn.Module) -> None:
        """Train the model."""
        self._dtype = next(model.parameters()).dtype

    def inputs(self, x: Tensor) -> Tensor:
        """Return what the model takes for data [B, *event_shape] as a DataSet holds them: whole numbers stay whole."""
        return x.to(self._dtype)

    @abstractmethod
    def loss(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean loss [] of inputs [B, *event_shape] and their labels [B]."""

    @abstractmethod
    def initialize(self, x: Tensor) -> None:
        """Start ActNorms, and a learned prior, from inputs [n, *event_shape]."""

    @abstractmethod
    def check(self, dataset: DataSet) -> None:
        """Raise ValueError unless the model fits the data."""


class FlowTask(Task):
    """Density: the loss is the mean of -log_prob, in bits/dim, or in nats for vectors of continuous values."""

    needs_labels = False

    def __init__(self, flow: IResNetFlow) -> None:
        """Train the flow."""
        super().__init__(flow)
        self.flow = flow
        self.metrics = (_density_metric(flow),)

    def loss(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean of -log_prob []; labels are not used."""
        if self.metrics == ("nats",):
            return -self.flow.log_prob(x).mean()
        return self.flow.bits_per_dim(x).mean()

    def initialize(self, x: Tensor) -> None:
        """Start ActNorms and a learned prior."""
        self.flow.initialize(x)

    def check(self, dataset: DataSet) -> None:
        """Raise ValueError unless the model fits the data."""
        _check_flow(self.flow, "", dataset)


class ClassifierTask(Task):
    """Classification: the loss is the cross-entropy, in nats.

    The model takes whole numbers as x / (n_levels - 1) - 1/2. `fit` and `load_model` tell it the levels.
    """

    metrics = ("error_percent",)

    def __init__(self, classifier: IResNetClassifier) -> None:
        """Train the classifier."""
        super().__init__(classifier)
        self.classifier = classifier

    def inputs(self, x: Tensor) -> Tensor:
        """Return images in [-1/2, 1/2]; continuous data as they are.

        Raises:
            ValueError: x holds integers, and nobody has told the model of how many levels.
        """
        n_levels = data_levels(self.classifier)
        if n_levels is not None:
            return x.to(self._dtype) / (n_levels - 1) - 0.5
        if x.is_floating_point():
            return x.to(self._dtype)
        raise ValueError(
            f"x must be of floating point for a classifier that comes neither from fit nor from load_model, got "
            f"{x.dtype}; pass x / (n_levels - 1) - 0.5."
        )

    def loss(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean cross-entropy []."""
        assert labels is not None  # see check
        return F.cross_entropy(self.classifier(x), labels)

    def initialize(self, x: Tensor) -> None:
        """Start ActNorms."""
        self.classifier.train()
        self.classifier(x)

    def check(self, dataset: DataSet) -> None:
        """Raise ValueError unless the model fits the data."""
        config = self.classifier.config
        _check_equal("image_shape", config.image_shape, dataset.event_shape, dataset)
        _check_equal("n_classes", config.n_classes, dataset.n_classes, dataset)


class HybridTask(Task):
    """Density and classification: the loss is that of the HybridIResNet, in bits."""

    def __init__(self, model: HybridIResNet, density_weight: float) -> None:
        """Train the model."""
        super().__init__(model)
        self.model, self.density_weight = model, density_weight
        self.metrics = (_density_metric(model.flow), "error_percent")

    def loss(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return the mean of density_weight * -log p(x) - log p(y | x) []."""
        assert labels is not None  # see check
        return self.model.loss(x, labels, self.density_weight)

    def initialize(self, x: Tensor) -> None:
        """Start ActNorms and a learned prior."""
        self.model.flow.initialize(x)

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

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Return the loss []; arguments as of `Task.loss`."""
        return self.task.loss(x, labels)


def task_of(model: nn.Module, density_weight: float = 1.0) -> Task:
    """Return what such a model is trained for.

    Args:
        model: an IResNetFlow, IResNetClassifier or HybridIResNet.
        density_weight: of the density in the loss of a HybridIResNet.

    Raises:
        TypeError: the model is none of them.
        ValueError: the flow takes a context, for which a DataSet has no place.
    """
    flow = flow_of(model)
    if flow is not None and flow.takes_context:
        raise ValueError(
            f"context_features must be 0, got {flow.config.context_features}; a data set has no context: write the "
            f"loop for such a model yourself."
        )
    if isinstance(model, HybridIResNet):
        return HybridTask(model, density_weight)
    if isinstance(model, IResNetFlow):
        return FlowTask(model)
    if isinstance(model, IResNetClassifier):
        return ClassifierTask(model)
    raise TypeError(
        f"model must be an IResNetFlow, IResNetClassifier or HybridIResNet, got {type(model).__name__}; pass one."
    )


def flow_of(model: nn.Module) -> IResNetFlow | None:
    """Return the flow of a model, None if it has no density."""
    flow = model.flow if isinstance(model, HybridIResNet) else model
    return flow if isinstance(flow, IResNetFlow) else None


def data_levels(model: nn.Module) -> int | None:
    """Return the n_levels of the data the model was trained on, None if they are continuous or not known."""
    levels: int | None = model.__dict__.get("data_levels")
    return levels


def set_data_levels(model: nn.Module, n_levels: int | None) -> None:
    """Tell a model the n_levels of its data: an attribute of Python, which copies keep."""
    model.__dict__["data_levels"] = n_levels


def _density_metric(flow: IResNetFlow) -> str:
    return "bits_per_dim" if flow.config.is_image or flow.config.n_levels is not None else "nats"


def _check_flow(flow: IResNetFlow, prefix: str, dataset: DataSet) -> None:
    _check_equal(f"{prefix}event_shape", flow.config.event_shape, dataset.event_shape, dataset)
    _check_equal(f"{prefix}n_levels", flow.config.n_levels, dataset.n_levels, dataset)


def _check_equal(field: str, ours: object, theirs: object, dataset: DataSet) -> None:
    if ours != theirs:
        raise ValueError(
            f"{field} of the model must be {theirs}, that of {dataset.name}, got {ours}; build the model for the data."
        )
