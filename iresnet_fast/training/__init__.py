"""Training: `fit` in one call, with everything it needs as parts of their own."""

from . import distributed, pictures
from .checkpoint import CheckpointError, load_model, read_metadata
from .config import TrainConfig
from .distributed import TrainingInterrupted
from .evaluate import Evaluation, evaluate
from .fit import Run, fit
from .impute import Imputed, impute
from .recipes import recipe
from .scores import RowScores, row_scores
from .table_of_run import load_schema
from .tasks import task_of
from .typicality import p_values, reference_scores, training_scores

__all__ = [
    "CheckpointError",
    "Evaluation",
    "Imputed",
    "RowScores",
    "Run",
    "TrainConfig",
    "TrainingInterrupted",
    "distributed",
    "evaluate",
    "fit",
    "impute",
    "load_model",
    "load_schema",
    "p_values",
    "pictures",
    "read_metadata",
    "recipe",
    "reference_scores",
    "row_scores",
    "task_of",
    "training_scores",
]
