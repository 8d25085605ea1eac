"""Let the spectral norms of a model be refreshed in one kernel call, without anybody having to ask."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..nn import update_spectral_norm


class GroupsNorms(nn.Module):
    """A model whose spectral layers form a group from its first call on; copies and pickles form their own."""

    _grouped = False

    def _group_norms(self) -> None:
        if not self._grouped and not torch.compiler.is_compiling():
            update_spectral_norm(self)
            self._grouped = True

    def __getstate__(self) -> dict[str, Any]:
        """Leave out that the layers form a group: those of a copy do not yet."""
        return {**self.__dict__, "_grouped": False}
