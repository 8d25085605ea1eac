"""The learning rate over a run."""

from __future__ import annotations

from .config import TrainConfig


def learning_rate(config: TrainConfig, step: int, progress: float) -> float:
    """Return the rate of a step: linear warm-up, constant, linear decay to 0.

    Args:
        config: of the run.
        step: number of steps before it.
        progress: fraction of the budget used before it, 0 to 1.
    """
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    fall = min(1.0, (1.0 - progress) / (1.0 - config.decay_start)) if config.decay_start < 1.0 else 1.0
    return config.learning_rate * rise * max(fall, 0.0)


def progress(config: TrainConfig, step: int, steps_per_epoch: int, minutes: float) -> float:
    """Return the fraction of the budget that is used, the largest of steps, epochs and minutes; 1 or more: all."""
    fractions = (
        (step, config.max_steps),
        (step, None if config.max_epochs is None else config.max_epochs * steps_per_epoch),
        (minutes, config.max_minutes),
    )
    return max(done / most for done, most in fractions if most is not None)
