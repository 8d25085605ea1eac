"""The bias of log-determinants estimated by a truncated series, without the noise of their probes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from iresnet_fast import ops
from iresnet_fast.models import IResNetFlow
from iresnet_fast.nn import InvertibleResidualBlock


def series_bias(model: IResNetFlow, x: Tensor, n_terms: Sequence[int]) -> Tensor:
    """Return by how much the expectation of the estimated log-determinants is above the exact ones, in nats.

    No noise of probes: the mean over all basis vectors in the place of a random probe is the trace itself.

    Args:
        model: a flow of residual branches, in eval mode.
        x: [B, *event_shape], data.
        n_terms: numbers of terms.

    Returns:
        [len(n_terms), B].
    """
    total = torch.zeros(len(n_terms), x.shape[0], dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        for block, u in block_inputs(model, x):
            weights, biases, activations, parameters = block.branch.stages(u.shape[2:])
            exact = ops.residual_logdet_exact(u, weights, biases, activations, parameters)[1]
            basis = torch.eye(u[0].numel(), dtype=u.dtype).view(-1, 1, *u.shape[1:]).expand(-1, *u.shape)
            for row, n in zip(total, n_terms, strict=True):
                row += len(basis) * series(block, u, basis, n) - exact
    return total


def series(block: Any, u: Tensor, probe: Tensor, n_terms: int) -> Tensor:
    """Return the estimate [B] of a block's log-determinant at its inputs u, the mean over the probes."""
    ones = torch.ones(n_terms, dtype=u.dtype)
    with torch.no_grad():
        weights, biases, activations, parameters = block.branch.stages(u.shape[2:])
        return ops.residual_logdet(u, weights, biases, activations, probe, ones, parameters=parameters)[1]


def block_inputs(model: IResNetFlow, x: Tensor) -> list[tuple[Any, Tensor]]:
    """Return the residual blocks of a model with the input each gets when the model sees x."""
    found: list[tuple[Any, Tensor]] = []
    blocks = [module for module in model.modules() if isinstance(module, InvertibleResidualBlock)]
    handles = [block.register_forward_pre_hook(lambda block, args: found.append((block, args[0]))) for block in blocks]
    with torch.no_grad():
        model.transform_to_noise(x)
    for handle in handles:
        handle.remove()
    return found


def bits(nats: Any, n_dims: int) -> Any:
    """Return nats of a sample, a number or a tensor, as bits/dim."""
    return nats / (math.log(2.0) * n_dims)
