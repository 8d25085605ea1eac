"""The page: what is known of a run as cards and tables, and a template that lays them out."""

from __future__ import annotations

import dataclasses
import math
from datetime import datetime, timezone
from importlib import resources
from typing import Any, NamedTuple

import torch

from ..._version import __version__
from ...certify.certificate import rounded_up
from ..config import TrainConfig
from ..tasks import flow_of
from ._columns import Grid, columns_grid, samples_grid
from ._facts import Facts
from ._snippets import commands, python

_UNITS = {"bits_per_dim": "bits/dim", "nats": "nats", "error_percent": "% error"}


class Card(NamedTuple):
    """A number that matters: what it is, the number, and a few words."""

    name: str
    value: str
    note: str = ""


class Setting(NamedTuple):
    """A field of a configuration."""

    name: str
    value: str
    default: str

    @property
    def differs(self) -> bool:
        """Whether it is not the default."""
        return self.value != self.default


def render(facts: Facts) -> str:
    """Return the page."""
    import jinja2  # torch needs it too

    files = resources.files(__package__)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(files.joinpath("page.html").read_text("utf-8"))
    model = facts.model
    return template.render(
        style=files.joinpath("style.css").read_text("utf-8"),
        facts=facts,
        title=f"{facts.metadata['model']} on {facts.metadata['data']['name']}",
        made=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        contents=_contents(facts),
        baseline=facts.baseline,
        cards=_cards(facts),
        certificates=_certificates(facts),
        bi_lipschitz=_bi_lipschitz(facts),
        columns=columns_grid(facts),
        samples=samples_grid(facts),
        data=_data(facts),
        timing=_timing(facts),
        settings={
            "Model": _settings(model.config),
            "Training": _training_settings(facts.metadata["train_config"]),
        },
        python=python(facts),
        commands=commands(facts),
        has_density=flow_of(model) is not None,
    )


def _contents(facts: Facts) -> list[tuple[str, str]]:
    """Return the anchors of the sections and their names."""
    of_density = [("samples", "Samples"), ("calibration", "Calibration")]
    return [
        ("quality", "How good it is"),
        ("curves", "Training"),
        *(of_density if flow_of(facts.model) is not None else []),
        ("reconstructions", "Reconstructions"),
        ("certificates", "Certificates"),
        ("data", "Data"),
        ("settings", "Settings"),
        ("use", "Use it"),
    ]


def _cards(facts: Facts) -> list[Card]:
    cards = []
    found = facts.evaluation
    if found is not None:
        of = f"{found.n} test sample{'s' * (found.n > 1)}"
        if found.n < facts.n_test:
            of = f"{found.n} of {facts.n_test} test samples"
        for name, value in found.metrics.items():
            error = found.standard_errors[name]  # NaN of a single sample
            known = f" \N{PLUS-MINUS SIGN} {error:.3f}" if math.isfinite(error) else ""
            cards.append(Card(f"Test, {_UNITS.get(name, name)}", f"{_of_file(facts, name, value):.3f}{known}", of))
    elif facts.log:
        for name, value in _last_tests(facts).items():
            logged = f"{_of_file(facts, name, value):.3f}"
            cards.append(Card(f"Test, {_UNITS.get(name, name)}", logged, "as logged in training"))
    if facts.certificate is not None:
        upper = facts.certificate.upper
        cards.append(Card("Largest Lipschitz constant", rounded_up(upper), "of a branch, proved; below 1: invertible"))
    if facts.exactness is not None:
        cards.append(Card("Error of the inverse", f"{facts.exactness.most:.1e}", "at most, measured on test samples"))
    n_parameters = sum(parameter.numel() for parameter in facts.model.parameters())
    cards.append(Card("Parameters", f"{n_parameters:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")))
    cards.append(Card("Training", f"{facts.metadata['minutes']:.2f} min", _steps(facts)))
    return cards


def _of_file(facts: Facts, name: str, value: float) -> float:
    """Return a metric of the columns as they are in the file."""
    return value + facts.log_scale if name == "nats" else value


def _steps(facts: Facts) -> str:
    """Return the steps of the model, and those of the run if it went on after its best ones."""
    step, last = facts.metadata["step"], int(facts.log[-1]["step"]) if facts.log else 0
    return f"{step} steps, the best of {last}" if last > step else f"{step} steps"


def _last_tests(facts: Facts) -> dict[str, float]:
    found = {}
    for row in facts.log:
        found.update({name.removeprefix("test_"): value for name, value in row.items() if name.startswith("test_")})
    return found


def _certificates(facts: Facts) -> Grid | None:
    if facts.certificate is None:
        return None
    rows = []
    for row in facts.certificate.branches:
        declared = "unknown" if row.declared is None else f"{row.declared:.5f}"
        norms = " ".join(rounded_up(layer.upper) for layer in row.layers)
        rows.append([row.name or "the model", rounded_up(row.contraction), declared, row.branch.method, norms])
    names = ["Block", "At most", "From coeff", "Method", "Norms of the layers, at most"]
    return Grid(names, rows)


def _bi_lipschitz(facts: Facts) -> str:
    if facts.certificate is None:
        return ""
    below, above = facts.certificate.bi_lipschitz
    # Three digits are off by less than these factors.
    return f"{below * (1.0 - 5e-3):.3g} |x - y| \u2264 |f(x) - f(y)| \u2264 {above * (1.0 + 5e-3):.3g} |x - y|"


def _data(facts: Facts) -> list[Card]:
    data = facts.metadata["data"]
    rows = [
        Card("Name", data["name"]),
        Card("Shape of an event", " \N{MULTIPLICATION SIGN} ".join(map(str, data.get("event_shape", [])))),
    ]
    if "n_train" in data:
        rows.append(Card("Training events", str(data["n_train"])))
    if facts.dataset is not None:
        rows.append(Card("Test events", str(len(facts.dataset.test))))
    if data.get("n_levels"):
        rows.append(Card("Values", f"whole numbers from 0 to {data['n_levels'] - 1}, made continuous by noise"))
    if data.get("n_classes"):
        rows.append(Card("Classes", str(data["n_classes"])))
    if data.get("context"):
        rows.append(Card("Context", ", ".join(data["context"])))
    names = (data.get("source") or {}).get("names", [])
    if names and names != [data["name"]]:
        rows.append(Card("Read from", ", ".join(names)))
    return rows


def _timing(facts: Facts) -> list[Card]:
    data = facts.metadata
    rows = [Card("Minutes of training", f"{data['minutes']:.2f}"), Card("Steps", _steps(facts))]
    speeds = sorted(row["samples_per_second"] for row in facts.log if "samples_per_second" in row)
    if speeds:
        rows.append(Card("Samples per second", f"{speeds[len(speeds) // 2]:.0f} (median)"))
    if facts.log and "epoch" in facts.log[-1]:
        rows.append(Card("Passes over the data", f"{facts.log[-1]['epoch']:.1f}"))
    rows.append(Card("Trained by", f"iresnet_fast {data['version']}, backend {data['backend']}"))
    rows.append(Card("This page by", f"iresnet_fast {__version__}, torch {torch.__version__}"))
    return rows


def _settings(config: Any, prefix: str = "") -> list[Setting]:
    """Return the fields of a configuration, and those of configurations in it."""
    rows = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if hasattr(value, "to_dict"):
            rows += _settings(value, f"{prefix}{field.name}.")
            continue
        has_default = field.default is not dataclasses.MISSING
        rows.append(Setting(prefix + field.name, _shown(value), _shown(field.default) if has_default else "given"))
    return rows


def _training_settings(values: dict[str, Any]) -> list[Setting]:
    """Return the settings of a run; those of another version are shown as they are."""
    try:
        return _settings(TrainConfig.from_dict(values))
    except (ValueError, TypeError):
        return [Setting(name, str(value), "unknown") for name, value in values.items()]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        if not value:
            return "none"
        return ", ".join(map(_shown, value)) if len(value) <= 20 else f"{len(value)} values"
    return f"{value:g}" if isinstance(value, float) else str(value)
