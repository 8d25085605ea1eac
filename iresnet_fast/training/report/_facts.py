"""What is known of a run, before it is laid out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...certify import Certificate
from ...data import DataSet, Table, TableSchema
from ..evaluate import Evaluation


@dataclass(frozen=True)
class Picture:
    """A picture inside the page.

    Attributes:
        source: a data URI.
        text: what it shows, for those who cannot see it.
        caption: below it.
    """

    source: str
    text: str
    caption: str


@dataclass(frozen=True)
class Exactness:
    """How exact the inverse is.

    Attributes:
        what: the error is of.
        n: number of test samples.
        most: largest error, measured.
        median: of the errors.
        certified: largest error of a block.
        evaluations: of branches for a sample, on average.
    """

    what: str
    n: int
    most: float
    median: float
    certified: float
    evaluations: float


@dataclass
class Facts:
    """Everything; what could not be had is None or empty.

    Attributes:
        model: in eval mode.
        metadata: of its file.
        folder: of the run, absolute.
        run: what to pass to the commands, absolute.
        dataset: of the run.
        schema: of its table.
        notes: sentences about the data.
        log: rows of log.csv.
        warnings: sentences on what is wrong.
        evaluation: on test data.
        n_test: how many test samples there are.
        certificate: of the blocks.
        exactness: of the inverse.
        calibration: in a sentence.
        baseline: how it compares with a Gaussian, in a sentence.
        samples: some rows of samples in the units of the file.
        pictures: by the name of their section.
        lacking: by the name of a section, why it is empty.
    """

    model: Any
    metadata: dict[str, Any]
    folder: Path
    run: Path
    dataset: DataSet | None
    schema: TableSchema | None = None
    notes: tuple[str, ...] = ()
    log: list[dict[str, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    evaluation: Evaluation | None = None
    n_test: int = 0
    certificate: Certificate | None = None
    exactness: Exactness | None = None
    calibration: str = ""
    baseline: str = ""
    samples: Table | None = None
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)

    @property
    def log_scale(self) -> float:
        """What is added to nats of the model for those of the columns as they are in the file."""
        return 0.0 if self.schema is None else self.schema.log_scale

    def add(self, section: str, picture: Picture) -> None:
        """Add a picture to a section."""
        self.pictures.setdefault(section, []).append(picture)
