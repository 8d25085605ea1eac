"""The mode of a model for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

# A model has one mode, and evaluation sets torch's own seed meanwhile: threads that change it take turns.
_changing = threading.RLock()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode inside the block; then every module of it is in the mode it had."""
    with _restored(model):
        model.eval()
        yield


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Keep a model in training mode inside the block; then every module of it is in the mode it had."""
    with _restored(model):
        model.train()
        yield


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    with _changing:
        modes = [(module, module.training) for module in model.modules()]
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
