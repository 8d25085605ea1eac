"""What every data set is: tensors of events, split into a training and a test part, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import _checks
from .._inputs import check_tensor, described

if TYPE_CHECKING:
    from .schema import TableSchema
    from .source import Source


class DataError(ValueError):
    """Data that cannot be used: the sentence says which, what was expected, what was got and what to do.

    Args:
        sentence: says it.
        argument: of `load` that is wrong, by which the sentence begins: others call it by another name. "": the data
            themselves are.
    """

    def __init__(self, sentence: str, argument: str = "") -> None:
        """Keep what it is about."""
        super().__init__(sentence)
        self.argument = argument


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """Events to train on and to test on: images [N, C, H, W], signals [N, C, L] or vectors [N, d].

    Args:
        name: what it is called in logs and errors.
        train: [N, *event_shape], uint8 or float32, finite.
        test: the same of other events, [M, *event_shape] of the same dtype.
        train_labels: classes [N], int64 in 0 .. n_classes - 1; None: there are none.
        test_labels: likewise [M].
        n_levels: number of values if the data are the whole numbers 0 .. n_levels - 1, 256 for bytes; None: the data
            are continuous, hence float32.
        n_classes: number of classes; None: there are no labels.
        train_context: what the density of each event depends on, [N, context_features], float32, finite; None: nothing.
        test_context: likewise [M, context_features].
        context_names: of the columns of the context, for logs and checkpoints; empty: they have none.
        train_weights: how much each event of `train` counts in the loss, [N], float32, finite, not negative and not all
            zero; only their ratios matter. None: all the same.
        table: what the columns were made of, for data that came from a table; None for others.
        source: how `load` gets the data again; None for data of somebody's own.
        class_names: what the classes 0 .. n_classes - 1 are called; empty: they have no names.

    Raises:
        DataError: the parts contradict each other, or a value is out of range.
        ValueError: n_levels is below 2, or n_classes below 1.
        TypeError: a name is no text, one of the parts no tensor, or one of the numbers no integer.
    """

    name: str
    train: Tensor
    test: Tensor
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    n_levels: int | None = None
    n_classes: int | None = None
    train_context: Tensor | None = None
    test_context: Tensor | None = None
    context_names: tuple[str, ...] = ()
    train_weights: Tensor | None = None
    table: TableSchema | None = None
    source: Source | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check everything: whoever holds a data set can rely on it."""
        if not isinstance(self.name, str):
            raise TypeError(
                f"name must be a text, got {described(self.name)}; pass e.g. 'points', then train and test."
            )
        if self.n_levels is not None:
            _checks.check_count("n_levels", self.n_levels, 2)
        if self.n_classes is not None:
            _checks.check_count("n_classes", self.n_classes, 1)
        for part in ("train", "test"):
            self._check_events(part)
        if self.train.shape[1:] != self.test.shape[1:] or self.train.dtype != self.test.dtype:
            raise DataError(
                f"test of {self.name} must hold events of the shape and dtype of train, {self.event_shape} and "
                f"{self.train.dtype}, got {tuple(self.test.shape[1:])} and {self.test.dtype}; convert one of them."
            )
        for part in ("train", "test"):
            self._check_labels(part)
            self._check_context(part)
        self._check_weights()
        if isinstance(self.context_names, str) or not all(isinstance(name, str) for name in self.context_names):
            raise TypeError(f"context_names must be texts, got {self.context_names!r}; pass e.g. ('age', 'height').")
        object.__setattr__(self, "context_names", tuple(self.context_names))
        if len(self.context_names) not in (0, self.context_features):
            raise DataError(
                f"context_names of {self.name} must be as many as the context has columns, {self.context_features}, "
                f"got {len(self.context_names)}; name all of them, or none."
            )
        if len(self.class_names) not in (0, self.n_classes or 0):
            raise DataError(
                f"class_names of {self.name} must be as many as n_classes, {self.n_classes}, got "
                f"{len(self.class_names)}; name all of them, or none."
            )

    def __repr__(self) -> str:
        """Describe the set by its shapes, not its numbers."""
        context = f", context={self.context_names or self.context_features}" if self.context_features else ""
        return f"DataSet({self.name!r}, train={tuple(self.train.shape)}, test={tuple(self.test.shape)}{context})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image, (channels, length) of a signal, (d,) of a vector."""
        return tuple(self.train.shape[1:])

    @property
    def is_image(self) -> bool:
        """Whether events are images."""
        return len(self.event_shape) == 3

    @property
    def context_features(self) -> int:
        """Width of the context, 0 if there is none."""
        return 0 if self.train_context is None else self.train_context[:1].shape[-1]

    def _check_events(self, part: str) -> None:
        x: Tensor = getattr(self, part)
        what = f"{part} of {self.name}"
        if not isinstance(x, Tensor):
            raise TypeError(f"{what} must be a tensor, got {type(x).__name__}; convert it with torch.as_tensor.")
        check_tensor(x, what)
        if x.is_meta:
            raise DataError(f"{what} must hold numbers, got a tensor on the device meta; pass one with numbers.")
        if x.dtype not in (torch.uint8, torch.float32):
            raise DataError(f"{what} must be of dtype uint8 or float32, got {x.dtype}; convert it with .to().")
        if x.dim() not in (2, 3, 4) or x.numel() == 0:
            raise DataError(
                f"{what} must have shape [N, d], [N, C, L] or [N, C, H, W] without a zero, got {tuple(x.shape)}; "
                f"reshape it."
            )
        # An array of bools for every pixel would cost four times the memory of the reduction where all is well.
        low, high = (float(bound) for bound in x.aminmax())
        if not (low > -float("inf") and high < float("inf")):
            n_bad = int((~x.isfinite()).sum())
            raise DataError(f"{what} must be finite, got {n_bad} values that are NaN or infinite; remove them.")
        if self.n_levels is None:
            if x.dtype == torch.uint8:
                raise DataError(
                    f"n_levels of {self.name} must be given for whole numbers, got None; pass 256 for bytes, or "
                    f"convert {part} with .float()."
                )
            return
        if low < 0 or high >= self.n_levels:
            raise DataError(
                f"{what} must hold whole numbers from 0 to {self.n_levels - 1}, got {low:g} to {high:g}; "
                f"rescale the data or change n_levels."
            )
        if x.is_floating_point() and bool((x != x.floor()).any()):
            raise DataError(
                f"{what} must hold whole numbers since n_levels is {self.n_levels}, got fractions; multiply images in "
                f"[0, 1] by {self.n_levels - 1} and round, or pass None for continuous data."
            )

    def _check_labels(self, part: str) -> None:
        labels: Tensor | None = getattr(self, f"{part}_labels")
        what, n = f"{part}_labels of {self.name}", len(getattr(self, part))
        if (labels is None) != (self.n_classes is None):
            raise DataError(
                f"{what} must be given if and only if n_classes is, got {'none' if labels is None else 'some'} for "
                f"n_classes {self.n_classes}; pass both or neither."
            )
        if labels is None or self.n_classes is None:
            return
        if not isinstance(labels, Tensor):
            raise TypeError(f"{what} must be a tensor, got {type(labels).__name__}; convert it with torch.as_tensor.")
        if labels.dtype != torch.int64 or labels.shape != (n,):
            raise DataError(
                f"{what} must be int64 of shape ({n},), one for each event, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}; convert it."
            )
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= self.n_classes:
            raise DataError(f"{what} must be in 0 .. {self.n_classes - 1}, got {low} to {high}; renumber the classes.")

    def _check_context(self, part: str) -> None:
        context: Tensor | None = getattr(self, f"{part}_context")
        what, n = f"{part}_context of {self.name}", len(getattr(self, part))
        if (context is None) != (self.train_context is None):
            raise DataError(
                f"{what} must be given if and only if train_context is, got {'none' if context is None else 'one'}; "
                f"pass both or neither."
            )
        if context is None:
            return
        check_tensor(context, what)
        fits = context.dim() == 2 and len(context) == n and context.shape[1] > 0 and context.dtype == torch.float32
        if not fits or context.is_meta or context.shape[1] != self.context_features:
            width = "context_features" if part == "train" else self.context_features
            raise DataError(
                f"{what} must be float32 of shape ({n}, {width}), a row of numbers for each event, got {context.dtype} "
                f"of shape {tuple(context.shape)}; convert it."
            )
        n_bad = int((~context.isfinite()).sum())
        if n_bad:
            raise DataError(f"{what} must be finite, got {n_bad} values that are NaN or infinite; remove them.")

    def _check_weights(self) -> None:
        weights = self.train_weights
        if weights is None:
            return
        what, n = f"train_weights of {self.name}", len(self.train)
        check_tensor(weights, what)
        if weights.shape != (n,) or weights.dtype != torch.float32 or weights.is_meta:
            raise DataError(
                f"{what} must be float32 of shape ({n},), one for each event, got {weights.dtype} of shape "
                f"{tuple(weights.shape)}; convert it."
            )
        low, high = (float(bound) for bound in weights.aminmax())
        if not (low >= 0.0 and 0.0 < high < float("inf")):
            raise DataError(
                f"{what} must be finite, not negative and not all zero, got {low:g} to {high:g}; correct them."
            )
