"""Training: `fit` in one call, with everything it needs as parts of their own."""

from . import distributed, pictures
from .checkpoint import CheckpointError, load_model, read_metadata
from .config import TrainConfig
from .distributed import TrainingInterrupted
from .evaluate import Evaluation, evaluate
from .fit import Run, fit
from .recipes import recipe
from .tasks import task_of

__all__ = [
    "CheckpointError",
    "Evaluation",
    "Run",
    "TrainConfig",
    "TrainingInterrupted",
    "distributed",
    "evaluate",
    "fit",
    "load_model",
    "pictures",
    "read_metadata",
    "recipe",
    "task_of",
]
