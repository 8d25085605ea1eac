"""Count what fused optimizers write, as torch counts other writes.

Spectral layers see by `Tensor._version` that their weights changed. The fused steps of torch's optimizers leave it as
it was (torch 2.13 on the CPU), and norms would drift beyond coeff unseen.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import _capture


def _count(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        written = [p for p in group["params"] if p.grad is not None]
        if group.get("fused"):
            increment_version([p for p in written if not p.is_inference()])
        for parameter in written:
            if _capture.of(parameter) is not None:
                parameter.written_by_a_graph = True


def written_by_a_graph(parameter: Tensor) -> bool:
    """Whether an optimizer's step on this tensor is part of a CUDA graph, whose replays nobody counts."""
    return getattr(parameter, "written_by_a_graph", False)


def watch_optimizers() -> None:
    """Count the writes of all fused optimizers from now on."""
    register_optimizer_step_post_hook(_count)
