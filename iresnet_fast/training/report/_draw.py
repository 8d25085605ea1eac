"""The pictures of a page."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...models import IResNetFlow
from .. import pictures
from ..pictures import _curves
from ..pictures._compare import compared
from ..samples import samples_at
from ..tasks import flow_of
from ._facts import Facts, Picture

_N_IMAGES, _N_SIGNALS, _N_POINTS, _N_ROWS = 64, 16, 1000, 5
_MIME = {".png": "image/png", ".svg": "image/svg+xml"}


def draw_curves(facts: Facts, scratch: Path) -> None:
    """Draw the log, and warn of one that is damaged."""
    try:
        facts.log, n_damaged = _curves.read_log(facts.folder / "log.csv")
    except OSError as error:
        facts.lacking["curves"] = f"The folder of the run has no log.csv that can be read ({error.strerror})."
        return
    if n_damaged:
        facts.warnings.append(f"log.csv is damaged: {n_damaged} of its lines are no rows and are left out here.")
    if not facts.log:
        facts.lacking["curves"] = "log.csv holds no row."
        return
    last = facts.log[-1]
    text = f"Loss over {last['minutes']:.2f} minutes of training, {last['step']:.0f} steps"
    if "loss" in last:
        text += f"; at the end {last['loss']:.4g}"
    caption = "Loss of training, and what was measured on data that training does not see."
    if facts.log_scale:
        caption += f" Nats are those of the scaled columns: {facts.log_scale:+.3f} for those of the file."
    facts.add("curves", _drawn(scratch / "curves.svg", lambda p: _curves.draw_curves(facts.log, p), text, caption))


def draw_samples(facts: Facts, scratch: Path) -> None:
    """Draw samples: images, signals, points, or columns beside those of the data."""
    flow, dataset = _flow(facts), facts.dataset
    context = None if dataset is None else dataset.test_context
    if flow.takes_context and context is None:
        facts.lacking["samples"] = "The data of the run are not at hand, and samples need a context from them."
        return
    shape = flow.config.event_shape
    if len(shape) == 1:
        _draw_rows(facts, scratch, flow, context)
        return
    at = " at the contexts of the first test data" if flow.takes_context else ""
    if len(shape) == 2:
        drawn = samples_at(flow, _N_SIGNALS, context).cpu()
        caption = f"{_N_SIGNALS} signals drawn from the model{at}."
        facts.add("samples", _drawn(scratch / "samples.svg", lambda p: pictures.signals(drawn, p), caption, caption))
        return
    if shape[0] not in (1, 3):
        facts.lacking["samples"] = f"Images of {shape[0]} channels have no picture."
        return
    drawn, levels = samples_at(flow, _N_IMAGES, context).cpu(), flow.config.n_levels
    caption = f"{_N_IMAGES} images drawn from the model{at}."
    picture = _drawn(scratch / "samples.png", lambda p: pictures.image_grid(drawn, p, levels), caption, caption)
    facts.add("samples", picture)


def draw_reconstructions(facts: Facts, scratch: Path, x: Tensor, found: Any) -> None:
    """Draw images beside what the inverse makes of them."""
    caption = f"{len(x)} test images, each beside what the inverse makes of its latent."
    facts.add(
        "reconstructions",
        _drawn(
            scratch / "reconstructions.png",
            lambda p: pictures.reconstructions(x, found.x, found.error, p),
            caption,
            caption,
        ),
    )


def draw_calibration(facts: Facts, scratch: Path) -> None:
    """Draw how far test data are, through the flow, from the prior."""
    flow, dataset = _flow(facts), facts.dataset
    if dataset is None:
        return
    found: list[pictures.Calibration] = []
    picture = _drawn(
        scratch / "calibration.svg",
        lambda p: found.append(pictures.calibration(flow, dataset.test, p, dataset.test_context)),
        "Distribution functions of the latents of test data minus that of the prior, and of the squared radius.",
        "Test data through the model, against the prior they would follow if the model were right: a line that leaves "
        "the grey band is no chance. Above zero on the left: more test data lie in the left tail than expected.",
    )
    facts.calibration = str(found[0])
    facts.add("calibration", picture)


def _draw_rows(facts: Facts, scratch: Path, flow: IResNetFlow, context: Tensor | None) -> None:
    dataset, is_plane = facts.dataset, flow.config.event_shape == (2,)
    if dataset is None:
        drawn = samples_at(flow, _N_POINTS).cpu()
        facts.samples = pictures.rows_of("samples", drawn[:_N_ROWS], None, facts.schema)
        if is_plane:
            caption = f"{_N_POINTS} points drawn from the model."
            picture = _drawn(scratch / "samples.png", lambda p: pictures.points(drawn, p), caption, caption)
            facts.add("samples", picture)
        return
    data, samples, what = compared(flow, dataset)
    facts.samples = samples.rows(np.arange(_N_ROWS))
    at = ", at the contexts of these rows" * flow.takes_context
    caption = (
        f"Rows of {what} in blue and samples of the model in orange{at}: a histogram of each column, and the points of "
        f"each two."
    )
    text = f"Histograms and scatter plots of data and samples, columns {', '.join(data.names[:8])}."
    facts.add("samples", _drawn(scratch / "pairs.png", lambda p: pictures.pairs(data, samples, p), text, caption))
    if is_plane:
        given = None if context is None else context[0]
        caption = "Test data, and the density that the model gives the plane."
        picture = _drawn(
            scratch / "density.png", lambda p: pictures.density(flow, dataset.test, p, given), caption, caption
        )
        facts.add("samples", picture)


def _flow(facts: Facts) -> IResNetFlow:
    flow = flow_of(facts.model)
    assert flow is not None  # these parts are of models with a density
    return flow


def _drawn(path: Path, draw: Callable[[Path], object], text: str, caption: str) -> Picture:
    """Draw a picture into a file, and return it as a part of the page."""
    draw(path)
    encoded = base64.b64encode(path.read_bytes()).decode()
    return Picture(f"data:{_MIME[path.suffix]};base64,{encoded}", text, caption)
