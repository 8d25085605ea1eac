"""Let the spectral layers of a model be iterated and normalised in one kernel call, without anybody having to ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..nn._fsdp import Shardable
from ..nn._layer import SpectralLayer
from ..nn.spectral import normalized_together


class GroupsNorms(Shardable):
    """A model whose spectral layers form a group from its first call on; copies and pickles form their own."""

    _spectral_layers: tuple[SpectralLayer, ...] | None = None

    @contextmanager
    def _grouped_norms(self) -> Iterator[None]:
        """Run the model inside the block with all its layers normalised."""
        if torch.compiler.is_compiling():
            yield
            return
        if self._spectral_layers is None:
            self._spectral_layers = tuple(module for module in self.modules() if isinstance(module, SpectralLayer))
        with normalized_together(self._spectral_layers):
            yield

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the layers: a copy has layers of its own."""
        return {**self.__dict__, "_spectral_layers": None}
