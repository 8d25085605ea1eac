"""One model for p(x) and p(y | x)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .. import _checks
from .._inputs import check_data, check_labels, check_shape, described
from ..nn import Call
from ..nn._fsdp import Shardable
from ..nn._transform import check_range
from ._config import Config, register
from ._head import PiecesHead
from ._presets import Presets, check_config
from .flow import IResNetFlow
from .flow_config import FlowConfig
from .flow_presets import FLOWS, RESIDUAL_FLOWS


@register
@dataclass(frozen=True)
class HybridConfig(Config):
    """What a HybridIResNet is built from.

    Attributes:
        flow: of the density.
        n_classes: number of classes.
        head_hidden: channels of the head, for each piece of the latent.

    Raises:
        ValueError: a field is out of range.
        TypeError: a field has the wrong type.
    """

    flow: FlowConfig
    n_classes: int
    head_hidden: int = 256

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.flow, FlowConfig):
            raise TypeError(f"flow must be a FlowConfig, got {described(self.flow)}; pass one.")
        _checks.check_count("n_classes", self.n_classes, 2)
        _checks.check_count("head_hidden", self.head_hidden, 1)


class HybridIResNet(Presets[HybridConfig], Shardable):
    """Density and classifier on the same latent (Residual Flows, arXiv 1906.02735).

    The head sees the pieces of the latent, with factor_out one from every scale, each what that scale let go and the
    last what the last scale returned.

    Args:
        config: everything; `HybridIResNet.preset(name, **changes)` builds one that has a name.

    Attributes:
        flow: the IResNetFlow, with log_prob, sample and all else.
    """

    _table = {  # noqa: RUF012  # never written
        "digits": HybridConfig(FLOWS["digits"], 10, 64),
        "mnist": HybridConfig(FLOWS["mnist"].replace(factor_out=True), 10, 64),
        "cifar10": HybridConfig(RESIDUAL_FLOWS["cifar10"].replace(factor_out=True), 10),
    }

    def __init__(self, config: HybridConfig) -> None:
        """Build the model; the argument is that of the class."""
        nn.Module.__init__(self)
        check_config(config, HybridConfig)
        self.config = config
        self.flow = IResNetFlow(config.flow)
        self.head = PiecesHead(self.flow.latent_shapes, config.head_hidden, config.n_classes)

    def forward(self, x: Tensor, context: Tensor | None = None, call: Call | None = None) -> tuple[Tensor, Tensor]:
        """Return the logits [B, n_classes] and the log-density [B] of x, in nats.

        Args:
            x: [B, *event_shape].
            context: [B, context_features]; None if the flow takes none.
            call: as for the flow.

        Raises:
            ValueError: x or the context does not fit.
        """
        z, logdet = self.flow(x, context, call)
        return self.head(self.flow.pieces(z)), self.flow.latent_log_prob(z, context) + logdet

    def loss(self, x: Tensor, labels: Tensor, weight: float = 1.0, context: Tensor | None = None) -> Tensor:
        """Return the mean over the batch of weight * -log p(x) - log p(y | x), in bits [].

        Args:
            x: [B, *event_shape].
            labels: [B], integers.
            weight: of the density; 1 is the joint likelihood, 1 / n_dims bits/dim beside the cross-entropy, 0 the
                classifier alone, for which no log-determinant need be computed: leave it to IResNetClassifier.
            context: as in `forward`.
        """
        check_data(x, self.flow.config.event_shape, self.flow.prior.mean)
        check_labels(labels, len(x), self.config.n_classes)
        logits, log_prob = self(x, context)
        return hybrid_loss(logits, log_prob, labels, weight)


def hybrid_loss(logits: Tensor, log_prob: Tensor, labels: Tensor, weight: float = 1.0) -> Tensor:
    """Return the mean of weight * -log_prob + cross-entropy, in bits []; labels [B], the rest as HybridIResNet returns.

    Raises:
        ValueError: weight is negative or a batch size differs.
    """
    _checks.check_number("weight", weight, "1.0")
    if not weight >= 0.0:
        raise ValueError(f"weight must not be negative, got {weight}; pass e.g. 1.0.")
    check_shape(log_prob, (), "log_prob")
    if logits.dim() != 2 or logits.shape[:1] != log_prob.shape:
        raise ValueError(
            f"logits must have shape [{len(log_prob)}, n_classes], a row for each entry of log_prob, got "
            f"{tuple(logits.shape)}; pass what the model returned."
        )
    check_labels(labels, len(log_prob), logits.shape[1])
    check_range(labels, 0, logits.shape[1] - 1, "number the classes from 0", "labels")
    return (F.cross_entropy(logits, labels.long()) - weight * log_prob.mean()) / math.log(2.0)
