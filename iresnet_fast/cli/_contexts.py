"""The context of samples from the command line: columns by name, or the bare numbers of all of them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data import Column, DataError, Table, TableSchema
from ..models import IResNetFlow

_FAR = 6.0  # standard deviations of the training rows from their mean


def given_contexts(given: list[str], schema: TableSchema) -> Tensor:
    """Return the contexts [m, c] of --given, with m values of each column, or one that stands for all m.

    Args:
        given: "column=value" or "column=value,value", for every column of the context.
        schema: of the run, with a context.

    Raises:
        ValueError: a column is missing, unknown or given twice, or a value is not one of its kind.
    """
    columns = {column.name: column for column in schema.context}
    values: dict[str, list[str]] = {}
    for text in given:
        name = next((name for name in columns if text.startswith(f"{name}=")), text.partition("=")[0])
        if "=" not in text:
            raise ValueError(f"--given must be COLUMN=VALUE, got {text!r}; pass e.g. {_example(schema)}.")
        if name not in columns or name in values:
            got = f"{name!r} twice" if name in values else f"{name!r}"
            raise ValueError(
                f"--given must name columns of the context, {', '.join(columns)}, got {got}; pass e.g. "
                f"{_example(schema)}."
            )
        value = text.removeprefix(f"{name}=")
        values[name] = [value] if value in columns[name].categories else value.split(",")
    missing = [name for name in columns if name not in values]
    if missing:
        raise ValueError(
            f"--given must name all columns of the context, got none for {', '.join(missing)}; pass e.g. "
            f"{_example(schema)}."
        )
    most = max(map(len, values.values()))
    for name, texts in values.items():
        if len(texts) not in (1, most):
            raise ValueError(
                f"--given must have one value for each column, or as many as the longest, {most}, got {len(texts)} for "
                f"{name!r}; add or remove some."
            )
    cells = [_cells(columns[name], values[name] * (most // len(values[name]))) for name in columns]
    return _encoded(schema, Table("--given", tuple(columns), tuple(cells)))


def bare_contexts(numbers: tuple[float, ...], schema: TableSchema) -> Tensor:
    """Return the context [1, c] of --context, in the units of the data; raises ValueError if it does not fit."""
    names = ", ".join(column.name for column in schema.context)
    if any(column.kind == "category" for column in schema.context):
        raise ValueError(
            f"--context must be left out for categories, as in {names}, got {len(numbers)} numbers; pass e.g. "
            f"{_example(schema)}."
        )
    if len(numbers) != len(schema.context):
        raise ValueError(
            f"--context must be {len(schema.context)} numbers, of {names}, for this model, got {len(numbers)}; pass "
            f"e.g. --context={','.join(['0.5'] * len(schema.context))}, or {_example(schema)}."
        )
    if not np.isfinite(numbers).all():
        raise ValueError(f"--context must be finite numbers, got {', '.join(map(str, numbers))}; correct it.")
    cells = tuple(np.array([number]) for number in numbers)
    return _encoded(schema, Table("--context", tuple(column.name for column in schema.context), cells))


def no_contexts(schema: TableSchema) -> ValueError:
    """Return what to say if a model needs a context and there is none."""
    names = ", ".join(column.name for column in schema.context)
    return ValueError(f"--given must be the context of this model, {names}, got none; pass e.g. {_example(schema)}.")


def say_if_far(flow: IResNetFlow, contexts: Tensor, schema: TableSchema) -> None:
    """Warn of contexts [m, c] far outside of those the flow was trained at, where it knows nothing."""
    if flow.context_preprocessing is None:
        return
    distance = flow.context_preprocessing(contexts.to(flow.prior.mean))[0].abs().amax(0)
    far = [f"{name} ({float(d):.0f})" for name, d in zip(schema.context_entries, distance, strict=True) if d > _FAR]
    if far:
        warnings.warn(
            f"iresnet_fast: {', '.join(far)} of the context: so many standard deviations from the mean of the training "
            f"rows, where the model has seen nothing; do not trust such samples.",
            RuntimeWarning,
            stacklevel=2,
        )


def _encoded(schema: TableSchema, table: Table) -> Tensor:
    contexts = schema.encode_context(table)
    if not bool(torch.isfinite(contexts).all()):
        raise ValueError(f"{table.where} must be numbers that fit in float32, got larger ones; correct it.")
    return contexts


def _cells(column: Column, texts: list[str]) -> NDArray[Any]:
    if column.kind == "category":
        if set(column.categories) <= {"False", "True"}:  # which files write in other ways
            texts = [text.capitalize() for text in texts]
        for text in texts:
            if text not in column.categories:
                listed = ", ".join(map(repr, column.categories[:10])) + ", ..." * (len(column.categories) > 10)
                raise DataError(f"--given {column.name}= must be one of {listed}, got {text!r}; correct it.")
        return np.array(texts, object)
    try:
        numbers = [float(text) for text in texts]
        if not np.isfinite(numbers).all():
            raise ValueError
    except ValueError:
        raise DataError(
            f"--given {column.name}= must be a finite number, or several separated by commas, got {','.join(texts)!r}; "
            f"correct it."
        ) from None
    return np.array(numbers)


def _example(schema: TableSchema) -> str:
    parts = []
    for column in schema.context:
        near = column.shift if column.mean is None else column.mean
        value = column.categories[0] if column.categories else f"{near:.4g}"
        text = f"{column.name}={value}"
        parts.append(f"--given {text!r}" if any(mark in text for mark in " ;&()'\"") else f"--given {text}")
    return " ".join(parts)
