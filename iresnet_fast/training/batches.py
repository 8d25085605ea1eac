"""Which samples a step sees, and how: a function of the seed and the step, so that a run can be resumed anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data import DataSet
from . import distributed
from .config import TrainConfig

# Streams of random numbers besides those of the batches, which are (seed, number, rank).
_EPOCHS, _INITIAL, _TEST, _VALIDATION = 1, 2, 3, 4


class Batch(NamedTuple):
    """Samples of a data set.

    Attributes:
        x: [n, *event_shape].
        labels: [n]; None if there are none.
        context: [n, context_features]; None if there is none.
        weights: [n], how much each sample counts, 1 on average over the training samples; None: all the same.
    """

    x: Tensor
    labels: Tensor | None = None
    context: Tensor | None = None
    weights: Tensor | None = None

    def rows(self, rows: Tensor) -> Batch:
        """Return some of the samples, by their numbers."""
        return self._map(lambda part: part.index_select(0, rows))

    def part(self, part: slice) -> Batch:
        """Return samples that follow one another, as views."""
        return self._map(lambda tensor: tensor[part])

    def to(self, device: torch.device) -> Batch:
        """Return the samples on a device."""
        return self._map(lambda part: part.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        others = (None if part is None else change(part) for part in (self.labels, self.context, self.weights))
        return Batch(change(self.x), *others)


class Batches:
    """The training data of one process, in memory on its device, without those held out for validation.

    Batches are counted through from the start of the run: part p of step s is number s * accumulate + p. Every epoch
    has a new order; its last incomplete step is left out. Of each batch a process takes every world_size-th row.

    Args:
        dataset: the data.
        config: of the run.
        device: of the batches.

    Raises:
        ValueError: a step needs more than the training set, the processes cannot share a batch, the data cannot be
            augmented as asked for, or divided as asked for.

    Attributes:
        per_epoch: steps of an epoch.
        validation: the samples held out, on the CPU; None if there are none.
    """

    def __init__(self, dataset: DataSet, config: TrainConfig, device: torch.device) -> None:
        """Move the data to the device; arguments and errors are those of the class."""
        check_batches(dataset, config)
        rest, held_out = divided(len(dataset.train), config)
        whole = Batch(dataset.train, dataset.train_labels, dataset.train_context, dataset.train_weights)
        data = whole if rest is None else whole.rows(rest)
        self.validation = None if held_out is None else _normalized(whole.rows(held_out))
        self._whole, self._data = whole, _normalized(data).to(device)
        self.per_epoch = len(data.x) // (config.batch_size * config.accumulate)
        self._config, self._device = config, device
        self._epoch, self._order = -1, torch.empty(0)

    def __call__(self, number: int) -> Batch:
        """Return a batch, batch_size / world_size samples, augmented."""
        epoch, place = divmod(number, self.per_epoch * self._config.accumulate)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(_EPOCHS, epoch)
        size = self._config.batch_size
        rows = self._order[place * size : (place + 1) * size][distributed.rank() :: distributed.world_size()]
        batch = self._data.rows(rows)
        x = batch.x
        if self._config.shift:
            x = _shifted(x, self._config.shift, self._config.shift_padding)
        if self._config.flip:
            mirrored = torch.rand(x.shape[0], 1, 1, 1, device=x.device) < 0.5
            x = torch.where(mirrored, x.flip(-1), x)
        return batch._replace(x=x)

    def all(self) -> Batch:
        """Return all samples that steps draw from as they are in the data set, on the device."""
        return self._data

    def whole(self) -> Batch:
        """Return all training samples, those held out too, on the device."""
        return self._whole.to(self._device)

    def initial(self) -> Batch:
        """Return the samples that a model starts from, the same in all processes."""
        return self._data.rows(self._permutation(_INITIAL, 0)[: self._config.initial_samples])

    def _permutation(self, *stream: int) -> Tensor:
        return permutation(len(self._data.x), self._config.seed, *stream).to(self._device)


def divided(n: int, config: TrainConfig) -> tuple[Tensor | None, Tensor | None]:
    """Return which of n training samples steps draw from, and which are held out, in order; None, None: no validation.

    Raises:
        ValueError: there would be none on one of the sides.
    """
    if not config.validation:
        return None, None
    n_held_out = round(config.validation * n)
    if not 0 < n_held_out < n:
        raise ValueError(
            f"validation must leave a sample to train on and hold one out, got {config.validation} of {n} samples; "
            f"pass a number from {1 / n:.3g} to {1 - 1 / n:.3g}."
        )
    order = permutation(n, config.seed, _VALIDATION)
    return order[n_held_out:].sort().values, order[:n_held_out].sort().values


def check_batches(dataset: DataSet, config: TrainConfig) -> None:
    """Raise ValueError unless the data can be divided, shared and augmented as asked for: before anything is made."""
    rest, held_out = divided(len(dataset.train), config)
    n_samples, world = len(dataset.train) if rest is None else len(rest), distributed.world_size()
    of_step = config.batch_size * config.accumulate
    if of_step > n_samples:
        what = "batch_size" if config.accumulate == 1 else "batch_size * accumulate"
        which = "" if rest is None else " that are not held out"
        raise ValueError(
            f"{what} must be at most {n_samples}, the training samples of {dataset.name}{which}, got {of_step}; "
            f"lower it."
        )
    if dataset.train_weights is not None and rest is not None:
        for rows in (rest, held_out):
            if not bool(dataset.train_weights[rows].any()):
                raise ValueError(
                    f"train_weights of {dataset.name} must not all be zero on either side of validation, got that; "
                    f"pass another validation, or another seed."
                )
    if config.batch_size % world:
        raise ValueError(
            f"batch_size must be divisible by {world}, the number of processes, got {config.batch_size}; change it."
        )
    if (config.shift or config.flip) and not dataset.is_image:
        kind = "vectors" if len(dataset.event_shape) == 1 else "signals"
        raise ValueError(
            f"shift and flip must be off for {kind} like those of {dataset.name}, got shift = {config.shift} and "
            f"flip = {config.flip}; leave them out."
        )
    # A larger shift would mirror what is mirrored already.
    size = min(dataset.event_shape[1:], default=1)
    if config.shift_padding == "reflect" and config.shift >= size:
        raise ValueError(
            f"shift must be less than {size} for shift_padding 'reflect' and the images of {dataset.name}, got "
            f"{config.shift}; lower it."
        )


def seed_batch(seed: int, number: int) -> None:
    """Make everything random that is done with a batch a function of (seed, number, rank)."""
    _manual_seed(_state(seed, 0, number, distributed.rank()))


def seed_initial(seed: int) -> None:
    """Make everything random before the first step a function of the seed, the same in all processes."""
    _manual_seed(_state(seed, _INITIAL, 1))


def permutation(n: int, seed: int, *stream: int) -> Tensor:
    """Return a permutation of n samples that depends on nothing but the numbers given."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(_state(seed, *stream)))


def test_batch(dataset: DataSet) -> Batch:
    """Return all test samples."""
    return Batch(dataset.test, dataset.test_labels, dataset.test_context)


def test_subset(dataset: DataSet, config: TrainConfig) -> Tensor:
    """Return the rows of the test samples that evaluations during training look at, the same in all runs."""
    return permutation(len(dataset.test), 0, _TEST)[: config.eval_samples]


def _normalized(batch: Batch) -> Batch:
    """Return samples whose weights are 1 on average, so that a mean over batches of any size has no bias."""
    if batch.weights is None:
        return batch
    weights = batch.weights.double()
    return batch._replace(weights=(weights / weights.mean()).to(batch.weights.dtype))


def _manual_seed(seed: int) -> None:
    # What torch.manual_seed does to the CPU and CUDA, without half a millisecond of asking for other devices.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def _state(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _shifted(x: Tensor, most: int, padding: str) -> Tensor:
    """Return images [B, C, H, W], each moved by up to `most` pixels in either direction and filled up."""
    n, _, height, width = x.shape
    offsets = torch.randint(0, 2 * most + 1, (2, n, 1), device=x.device)
    rows = offsets[0] + torch.arange(height, device=x.device)
    columns = offsets[1] + torch.arange(width, device=x.device)
    padded = F.pad(x, (most, most, most, most)) if padding == "zeros" else _mirrored(x, most)
    padded = padded.movedim(1, -1)  # indexed dimensions next to each other
    samples = torch.arange(n, device=x.device)[:, None, None]
    return padded[samples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def _mirrored(x: Tensor, most: int) -> Tensor:
    """Return images [B, C, H, W] with a margin of `most` pixels that mirrors them: F.pad does so with floats only."""
    for dim in (2, 3):
        last = x.shape[dim] - 1
        places = torch.arange(-most, last + most + 1, device=x.device).abs()
        x = x.index_select(dim, last - (last - places).abs())
    return x
