"""Measuring what a page says of a run: each part by itself, so that one that fails does not take others with it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..._version import __version__
from ...certify import certify
from ...data import DataSet, TableSchema
from ...models import IResNetClassifier
from .. import baseline
from ..batches import permutation, test_batch
from ..checkpoint import MODEL_FILE
from ..evaluate import evaluate
from ..metadata import naming
from ..progress import working
from ..resume import fingerprint
from ..table_of_run import schema_of
from ..tasks import flow_of, task_of
from ._draw import draw_calibration, draw_curves, draw_reconstructions, draw_samples
from ._facts import Exactness, Facts

_MOST_EVALUATED = 1000  # test samples
_N_RECONSTRUCTIONS = 32

Part = Callable[[Facts, Path], None]


def measure(
    model: Any,
    metadata: dict[str, Any],
    folder: Path,
    run: Path,
    dataset: DataSet | None,
    notes: tuple[str, ...],
    show_progress: bool,
) -> Facts:
    """Return everything; arguments as of `write_report`."""
    with naming(run):
        facts = Facts(model, metadata, folder, run, dataset, _schema(metadata, dataset), notes)
    flow = flow_of(model)
    if dataset is not None:
        with _failing_alone(facts, "quality"):
            _evaluate(facts, dataset, show_progress)  # it has a bar of its own
    parts: list[tuple[str, Part]] = [
        ("curves", draw_curves),
        ("certificates", _certify),
        ("reconstructions", _reconstruct),
    ]
    if flow is not None:
        parts += [("samples", draw_samples), ("calibration", draw_calibration)]
    with working(show_progress) as tell, torch.random.fork_rng([]), tempfile.TemporaryDirectory() as scratch:
        for number, (section, part) in enumerate(parts):
            tell(number / len(parts), section)
            with _failing_alone(facts, section):
                part(facts, Path(scratch))
    _warn(facts)
    return facts


def _schema(metadata: dict[str, Any], dataset: DataSet | None) -> TableSchema | None:
    return schema_of(metadata) if dataset is None else dataset.table


@contextmanager
def _failing_alone(facts: Facts, section: str) -> Iterator[None]:
    """Turn an error into the sentence of a section."""
    try:
        yield
    except (ValueError, ArithmeticError, RuntimeError, OSError) as error:
        facts.lacking[section] = f"This could not be made: {' '.join(str(error).split()).rstrip('.')}."


def _evaluate(facts: Facts, dataset: DataSet, show_progress: bool) -> None:
    rows = permutation(len(dataset.test), 0)[:_MOST_EVALUATED]
    facts.n_test = len(dataset.test)
    test = test_batch(dataset).rows(rows)
    found = evaluate(facts.model, test.x, test.labels, context=test.context, show_progress=show_progress)
    facts.evaluation = found
    seen = dataclasses.replace(dataset, test=test.x, test_labels=test.labels, test_context=test.context)
    gaussian = baseline.compare(facts.model, seen, found)
    if gaussian is not None:
        sentence = f"{_sentence(str(gaussian))}."
        if gaussian.difference + gaussian.standard_error > 0.0:
            facts.baseline = sentence
        else:
            facts.warnings.append(sentence)
    kept = facts.metadata["data"].get("fingerprint")
    if kept is not None and kept != fingerprint(dataset):
        facts.warnings.append("The data are not those of the training: their fingerprint is another.")


def _certify(facts: Facts, scratch: Path) -> None:
    facts.certificate = certify(facts.model, n_steps=0)


def _reconstruct(facts: Facts, scratch: Path) -> None:
    if facts.dataset is None:
        return
    model, task = facts.model, task_of(facts.model)
    batch = test_batch(facts.dataset).part(slice(_N_RECONSTRUCTIONS)).to(next(model.parameters()).device)
    inputs = task.inputs(batch.x)
    if isinstance(model, IResNetClassifier):
        found: Any = model.reconstruct(inputs)
        what = "a pixel"
    else:
        flow: Any = flow_of(model)
        found = flow.reconstruct(inputs, task.context(batch.context))
        what = "a sample, in the units of the preprocessed data"
    facts.exactness = Exactness(
        what,
        len(inputs),
        float(found.error.max()),
        float(found.error.median()),
        float(found.block_error.max()),
        float(found.iterations.double().mean()),
    )
    if facts.dataset.is_image and inputs.shape[1] in (1, 3):
        draw_reconstructions(facts, scratch, inputs, found)


def _sentence(text: str) -> str:
    """Return what is said behind a name and a colon."""
    said = text.partition(": ")[2].replace("+-", "\N{PLUS-MINUS SIGN}")
    return said[:1].upper() + said[1:]


def _warn(facts: Facts) -> None:
    """Add what a reader should know before the numbers."""
    found, metadata = facts.warnings, facts.metadata
    if not (facts.folder / MODEL_FILE).exists():
        found.append(
            f"The run is not finished: this is its model after {metadata['step']} steps. Go on with the command that "
            f"began it and --resume."
        )
    unsettled = facts.log[-1].get("unsettled_norms", 0.0) if facts.log else 0.0
    if unsettled:
        found.append(
            f"{unsettled:.0f} spectral norms had not converged in steps of training; the bounds below hold all the "
            f"same, since they are of the weights as they are."
        )
    if facts.certificate is not None and facts.certificate.upper >= 1.0:
        found.append(
            "A branch has no Lipschitz constant below 1 that could be proved: nothing guarantees that the model can be "
            "inverted."
        )
    if metadata["version"] != __version__:
        found.append(f"The run was written by version {metadata['version']}, this page by {__version__}.")
