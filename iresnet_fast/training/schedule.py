"""The learning rate over a run."""

from __future__ import annotations

import math

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Return the rate of a step: linear warm-up, constant, then the decay of the config.

    Args:
        config: of the run.
        step: number of steps before it.
        progress: fraction of the budget used before it, 0 to 1.
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.learning_rate * rise * _fall(config, progress)


def _fall(config: TrainConfig, progress: float) -> float:
    """Return what the decay leaves of the rate, 1 to 0; the arguments are those of `learning_rate`."""
    if config.decay == "steps":
        return config.decay_factor ** sum(progress >= at for at in config.decay_at)
    if config.decay_start == 1.0:
        return 1.0
    left = min(max((1.0 - progress) / (1.0 - config.decay_start), 0.0), 1.0)
    if config.decay == "linear" or left == 0.0:  # where the last period of a cosine ends no other begins
        return left
    return 0.5 + 0.5 * math.cos(math.pi * (config.restarts * (1.0 - left) % 1.0))


def progress(config: TrainConfig, step: int, steps_per_epoch: int, minutes: float) -> float:
    """Return the fraction of the budget that is used, the largest of steps, epochs and minutes; 1 or more: all."""
    fractions = (
        (step, config.max_steps),
        (step, None if config.max_epochs is None else config.max_epochs * steps_per_epoch),
        (minutes, config.max_minutes),
    )
    return max(done / most for done, most in fractions if most is not None)
