"""How a model is trained, apart from the model and the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .. import _checks
from ..models._config import Config, check_choice, register

OPTIMIZERS = ("adam", "adamw", "adamax", "rmsprop", "sgd")
_WITH_BETAS = ("adam", "adamw", "adamax")
DECAYS = ("linear", "steps", "cosine")
SHIFT_PADDINGS = ("zeros", "reflect")
CLASS_WEIGHTS = ("equal", "balanced")


@register
@dataclass(frozen=True)
class TrainConfig(Config):
    """The recipe of a training run.

    Training ends at the first of max_steps, max_epochs and max_minutes that is reached; at least one must be given. Its
    progress is the largest of their fractions.

    Attributes:
        batch_size: samples of a backward pass, over all processes together.
        optimizer: "adam", "adamw", "adamax", "rmsprop" or "sgd" (with momentum 0.9).
        learning_rate: after the warm-up and before the decay; never exceeded.
        betas: of "adam", "adamw" and "adamax", the decay of their two moving averages; None: those of torch.
        weight_decay: added to the gradient, times the weights; decoupled from it for "adamw".
        clip: largest norm of the whole gradient, which is scaled down to it; None: no limit.
        accumulate: the gradients of so many batches are averaged for a step, which sees batch_size * accumulate
            samples.
        warmup_steps: the rate rises linearly over so many steps.
        decay: how the rate falls: "linear" or along a "cosine" from decay_start to 0 at the end, or in "steps".
        decay_start: fraction of the budget from which "linear" and "cosine" fall; 1.0: never.
        decay_at: fractions of the budget at which "steps" multiplies the rate.
        decay_factor: what "steps" multiplies it by.
        restarts: equal periods of "cosine", each of which begins at the whole rate.
        ema: decay of the exponential moving average of the weights, at step s at most (1 + s) / (10 + s); None: no
            average.
        max_steps: budget in steps.
        max_epochs: budget in passes over the training data; the last incomplete step of each is left out.
        max_minutes: budget in minutes of wall-clock time, evaluations and checkpoints included, resumes added up.
        shift: training images are moved by up to so many pixels, at random.
        shift_padding: what fills them up: "zeros", or "reflect", the image mirrored at its outermost pixels.
        flip: training images are mirrored left to right, at random.
        initial_samples: training samples that ActNorms and a learned prior start from.
        eval_minutes: evaluate on test data every so many minutes.
        eval_steps: and every so many steps; both None: only at the end.
        eval_samples: test samples of an evaluation that is not the last; None: all.
        log_steps: steps from one row of the log to the next.
        checkpoint_minutes: write a checkpoint every so many minutes.
        checkpoint_steps: and every so many steps; None: not by steps.
        keep: number of checkpoints kept, the newest.
        validation: fraction of the training samples that is held out, drawn by the seed: the model that is best on them
            is the one that is kept, and evaluations before the last look at all of them instead of test data: every
            eval_minutes and eval_steps where one of them is given, else every few epochs, and before the first step.
            Neither steps nor the start of ActNorms see them; the statistics of a preprocessing are those of all
            training samples. 0.0: none.
        patience: training ends after so many evaluations on them without a better one; None: it does not.
        class_weights: how much each class counts in a cross-entropy: "equal", "balanced" (N / (n_classes * n_k) for the
            n_k of N training samples of class k), or a number for each class, of which only the ratios matter.
        density_weight: of the density of a HybridIResNet, see its `loss`.
        seed: of everything random in a run but the initial weights.

    Raises:
        ValueError: a field is out of range, or there is no budget.
        TypeError: a field has the wrong type.
    """

    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    betas: tuple[float, float] | None = None
    weight_decay: float = 0.0
    clip: float | None = 1.0
    accumulate: int = 1
    warmup_steps: int = 0
    decay: str = "linear"
    decay_start: float = 0.6
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.8)
    decay_factor: float = 0.2
    restarts: int = 1
    ema: float | None = 0.999
    max_steps: int | None = None
    max_epochs: int | None = None
    max_minutes: float | None = None
    shift: int = 0
    shift_padding: str = "zeros"
    flip: bool = False
    initial_samples: int = 1024
    eval_minutes: float | None = None
    eval_steps: int | None = None
    eval_samples: int | None = 1000
    log_steps: int = 20
    checkpoint_minutes: float = 1.0
    checkpoint_steps: int | None = None
    keep: int = 3
    validation: float = 0.0
    patience: int | None = None
    class_weights: str | tuple[float, ...] = "equal"
    density_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        self._freeze()
        for name in ("batch_size", "accumulate", "restarts", "initial_samples", "log_steps", "keep"):
            _checks.check_count(name, getattr(self, name), 1)
        for name in ("max_steps", "max_epochs", "eval_steps", "eval_samples", "checkpoint_steps", "patience"):
            if getattr(self, name) is not None:
                _checks.check_count(name, getattr(self, name), 1)
        for name in ("warmup_steps", "shift", "seed"):
            _checks.check_count(name, getattr(self, name), 0)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("decay", self.decay, DECAYS)
        check_choice("shift_padding", self.shift_padding, SHIFT_PADDINGS)
        if self.betas is not None and self.optimizer not in _WITH_BETAS:
            raise ValueError(
                f"betas must be None for {self.optimizer!r}, an optimizer without, got {self.betas}; leave them out."
            )
        if self.betas is not None and not (_are_fractions(self.betas) and len(self.betas) == 2):
            raise ValueError(f"betas must be two numbers in [0, 1) or None, got {self.betas!r}; pass e.g. (0.9, 0.99).")
        if not (_are_fractions(self.decay_at) and 0 < len(self.decay_at) == len(set(self.decay_at))):
            raise ValueError(
                f"decay_at must hold different numbers in [0, 1), one at least, got {self.decay_at!r}; pass e.g. "
                f"(0.3, 0.6, 0.8)."
            )
        if not 0.0 < self.decay_factor < 1.0:
            raise ValueError(f"decay_factor must be in (0, 1), got {self.decay_factor}; pass e.g. 0.2.")
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
        if not 0.0 <= self.validation < 1.0:
            raise ValueError(f"validation must be in [0, 1), got {self.validation}; pass e.g. 0.1.")
        if self.patience is not None and not self.validation:
            raise ValueError(
                f"patience must be None without a validation part, got {self.patience}; pass e.g. validation=0.1 "
                f"(--validation 0.1)."
            )
        self._check_class_weights()
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise ValueError(
                "max_steps, max_epochs or max_minutes must be given, got none of them; pass e.g. max_minutes=2."
            )

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if isinstance(weights, str):
            check_choice("class_weights", weights, CLASS_WEIGHTS)
            return
        numbers = isinstance(weights, tuple) and all(
            isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0.0 <= weight < math.inf
            for weight in weights
        )
        if not (numbers and any(weights)):
            raise ValueError(
                f"class_weights must be {' or '.join(map(repr, CLASS_WEIGHTS))}, or numbers that are not negative and "
                f"not all zero, got {weights!r}; pass e.g. (1.0, 2.5), one for each class."
            )


def _are_fractions(values: object) -> bool:
    """Return whether it is a tuple of numbers in [0, 1)."""
    return isinstance(values, tuple) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 <= value < 1.0 for value in values
    )


_EXAMPLES = {"learning_rate": 1e-3, "clip": 1.0, "max_minutes": 2.0, "eval_minutes": 1.0, "checkpoint_minutes": 1.0}
