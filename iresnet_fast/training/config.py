"""How a model is trained, apart from the model and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import _checks
from ..models._config import Config, check_choice, register

OPTIMIZERS = ("adam", "adamw", "adamax", "sgd")


@register
@dataclass(frozen=True)
class TrainConfig(Config):
    """The recipe of a training run.

    Training ends at the first of max_steps, max_epochs and max_minutes that is reached; at least one must be given. Its
    progress is the largest of their fractions.

    Attributes:
        batch_size: samples of a step, over all processes together.
        optimizer: "adam", "adamw", "adamax" or "sgd" (with momentum 0.9).
        learning_rate: after the warm-up and before the decay; never exceeded.
        weight_decay: added to the gradient, times the weights; decoupled from it for "adamw".
        clip: largest norm of the whole gradient, which is scaled down to it; None: no limit.
        warmup_steps: the rate rises linearly over so many steps.
        decay_start: fraction of the budget from which the rate falls linearly to 0; 1.0: never.
        ema: decay of the exponential moving average of the weights, at step s at most (1 + s) / (10 + s); None: no
            average.
        max_steps: budget in steps.
        max_epochs: budget in passes over the training data; the last incomplete batch of each is left out.
        max_minutes: budget in minutes of wall-clock time, evaluations and checkpoints included, resumes added up.
        shift: training images are moved by up to so many pixels, at random, and filled up with 0.
        flip: training images are mirrored left to right, at random.
        initial_samples: training samples that ActNorms and a learned prior start from.
        eval_minutes: evaluate on test data every so many minutes.
        eval_steps: and every so many steps; both None: only at the end.
        eval_samples: test samples of an evaluation that is not the last; None: all.
        log_steps: steps from one row of the log to the next.
        checkpoint_minutes: write a checkpoint every so many minutes.
        checkpoint_steps: and every so many steps; None: not by steps.
        keep: number of checkpoints kept, the newest.
        density_weight: of the density of a HybridIResNet, see its `loss`.
        seed: of everything random in a run but the initial weights.

    Raises:
        ValueError: a field is out of range, or there is no budget.
        TypeError: a field has the wrong type.
    """

    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    clip: float | None = 1.0
    warmup_steps: int = 0
    decay_start: float = 0.6
    ema: float | None = 0.999
    max_steps: int | None = None
    max_epochs: int | None = None
    max_minutes: float | None = None
    shift: int = 0
    flip: bool = False
    initial_samples: int = 1024
    eval_minutes: float | None = None
    eval_steps: int | None = None
    eval_samples: int | None = 1000
    log_steps: int = 20
    checkpoint_minutes: float = 1.0
    checkpoint_steps: int | None = None
    keep: int = 3
    density_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        self._freeze()
        for name in ("batch_size", "initial_samples", "log_steps", "keep"):
            _checks.check_count(name, getattr(self, name), 1)
        for name in ("max_steps", "max_epochs", "eval_steps", "eval_samples", "checkpoint_steps"):
            if getattr(self, name) is not None:
                _checks.check_count(name, getattr(self, name), 1)
        for name in ("warmup_steps", "shift", "seed"):
            _checks.check_count(name, getattr(self, name), 0)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("learning_rate", "clip", "max_minutes", "eval_minutes", "checkpoint_minutes"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}; pass e.g. {_EXAMPLES[name]}.")
        for name in ("weight_decay", "density_weight"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}; pass e.g. 0.0.")
        if not 0.0 <= self.decay_start <= 1.0:
            raise ValueError(f"decay_start must be in [0, 1], got {self.decay_start}; pass e.g. 0.6.")
        if self.ema is not None and not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must be in [0, 1) or None, got {self.ema}; pass e.g. 0.999.")
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise ValueError(
                "max_steps, max_epochs or max_minutes must be given, got none of them; pass e.g. max_minutes=2."
            )


_EXAMPLES = {"learning_rate": 1e-3, "clip": 1.0, "max_minutes": 2.0, "eval_minutes": 1.0, "checkpoint_minutes": 1.0}
