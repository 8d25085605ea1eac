"""Named configurations of a model class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Generic, TypeVar

from torch import nn

from .._inputs import described
from ._config import Config

C = TypeVar("C", bound=Config)
M = TypeVar("M", bound="Presets[Any]")


def check_config(config: object, kind: type[Config]) -> None:
    """Raise TypeError unless a model is built from a configuration of its kind."""
    if not isinstance(config, kind):
        advice = "use preset(name) of the model" if isinstance(config, str) else "build one"
        raise TypeError(f"config must be a {kind.__name__}, got {described(config)}; {advice}.")


class Presets(nn.Module, Generic[C]):  # a base that is no module would keep fully_shard from changing the class
    """A model built from one configuration, with some that have a name."""

    _table: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, config: C) -> None:
        """Build the model."""
        raise NotImplementedError

    @classmethod
    def presets(cls) -> tuple[str, ...]:
        """Return the names of the presets."""
        return tuple(cls._table)

    @classmethod
    def preset_config(cls, name: str, **changes: Any) -> C:
        """Return the configuration of a preset, some fields changed.

        Raises:
            ValueError: the name or a field is unknown, or a value is out of range.
            TypeError: a value has the wrong type.
        """
        if not isinstance(name, str) or name not in cls._table:
            raise ValueError(f"name must be one of {', '.join(cls._table)}, got {name!r}; use one of these names.")
        config: C = cls._table[name].replace(**changes)
        return config

    @classmethod
    def preset(cls: type[M], name: str, **changes: Any) -> M:
        """Build the model of a preset; arguments and errors as in `preset_config`."""
        return cls(cls.preset_config(name, **changes))
