"""What the configurations of all models share: JSON and back, changes, and the checks of their fields."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, cast

from .. import _checks
from .. import activations as registry
from .._checks import check_choice as check_choice
from ..estimators import Exact, PowerSeries, RussianRoulette
from ..nn.block import Estimator
from ..solvers import FixedPoint

Self = TypeVar("Self", bound="Config")
Part = TypeVar("Part")

PARTS: dict[str, type[Any]] = {part.__name__: part for part in (Exact, PowerSeries, RussianRoulette, FixedPoint)}


class Config:
    """Base of frozen dataclasses of numbers, names, tuples, estimators, solvers and other configurations.

    Lists become tuples, so that a configuration equals its copy through JSON.
    """

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary that json can write; tuples become lists."""
        return {name: _encode(getattr(self, name)) for name in _names(type(self))}

    @classmethod
    def from_dict(cls: type[Self], values: dict[str, Any]) -> Self:
        """Build the configuration that `to_dict` wrote; fields left out have their defaults.

        Raises:
            ValueError: a key is unknown, a field without a default is left out, or a value is out of range.
            TypeError: a value has the wrong type.
        """
        return _build(cls, values)

    def replace(self: Self, **changes: Any) -> Self:
        """Return a copy with other values of some fields; raises ValueError for an unknown name or a bad value."""
        return _build(type(self), {**{name: getattr(self, name) for name in _names(type(self))}, **changes})

    def _freeze(self) -> None:
        """Turn lists into tuples, and check the type of names, flags and floats."""
        for field in dataclasses.fields(cast(Any, self)):
            value = _frozen(getattr(self, field.name))
            object.__setattr__(self, field.name, value)
            if field.type == "str" and not isinstance(value, str):
                raise TypeError(f"{field.name} must be a name in quotes, got {value!r}; pass one.")
            if field.type == "bool" and not isinstance(value, bool):
                raise TypeError(f"{field.name} must be True or False, got {value!r}; pass one of them.")
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if str(field.type).startswith("float") and not number and not (value is None and "None" in str(field.type)):
                raise TypeError(f"{field.name} must be a number, got {value!r}; pass e.g. 0.5.")


def register(part: type[Part]) -> type[Part]:
    """Let a dataclass be a field of a configuration: a class decorator."""
    PARTS[part.__name__] = part
    return part


def check_counts(argument: str, values: Any, minimum: int, length: int | None = None) -> None:
    """Raise unless `values` is a tuple of so many integers of at least `minimum`."""
    if not isinstance(values, tuple) or (length is not None and len(values) != length) or len(values) == 0:
        expected = "one integer at least" if length is None else f"{length} integers"
        raise ValueError(f"{argument} must hold {expected}, got {values!r}; change it.")
    for value in values:
        _checks.check_count(f"every number of {argument}", value, minimum)


def check_activation(name: str, may_double: bool, where: str = "") -> None:
    """Raise ValueError unless the branches can take the activation; `where` says why one may not double channels."""
    if registry.get(name).expansion > 1 and not may_double:
        raise ValueError(f"activation must keep the number of channels{where}, got {name!r}; use 'lipswish'.")


def check_coeff(coeff: float, advice: str = "pass e.g. 0.9") -> None:
    """Raise ValueError unless coeff makes a contraction."""
    if not 0.0 < coeff < 1.0:
        raise ValueError(f"coeff must be in (0, 1), got {coeff}; {advice}.")


def check_parts(estimators: dict[str, Estimator | None], solver: FixedPoint) -> None:
    """Raise TypeError unless the estimators and the solver are such objects."""
    for argument, estimator in estimators.items():
        if estimator is not None and not isinstance(estimator, (PowerSeries, RussianRoulette, Exact)):
            raise TypeError(f"{argument} must be one of iresnet_fast.estimators or None, got {estimator!r}; pass one.")
    if not isinstance(solver, FixedPoint):
        raise TypeError(f"solver must be FixedPoint, got {solver!r}; pass one.")


def _names(cls: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _build(cls: type[Part], values: Any) -> Part:
    if not isinstance(values, dict):
        raise TypeError(f"a {cls.__name__} must be made from a dictionary, got {values!r}; pass what to_dict returned.")
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise ValueError(
            f"{cls.__name__} must have keys of {', '.join(fields) or 'no name'}, got {', '.join(map(repr, unknown))}; "
            f"remove or rename them."
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{cls.__name__} must have a value for {', '.join(missing)}, got none; add it.")
    return cls(**{name: _decode(value) for name, value in values.items()})


def _encode(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_encode(entry) for entry in value]
    if dataclasses.is_dataclass(value):
        return {"type": type(value).__name__, **{name: _encode(getattr(value, name)) for name in _names(type(value))}}
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(_decode(entry) for entry in value)
    if isinstance(value, dict):
        check_choice("type", value.get("type"), tuple(PARTS))
        return _build(PARTS[value["type"]], {name: entry for name, entry in value.items() if name != "type"})
    return value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value
