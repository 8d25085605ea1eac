"""What a page offers to copy and run: Python and commands that use the run."""

from __future__ import annotations

import shlex
from typing import Any, NamedTuple

import torch

from ..tasks import flow_of
from ._facts import Facts


class Snippet(NamedTuple):
    """Something to copy and run."""

    text: str
    code: str


def python(facts: Facts) -> Snippet:
    lines = [
        "import torch",
        "from iresnet_fast import training",
        "",
        f"model = training.load_model({str(facts.run)!r})",
    ]
    flow = flow_of(facts.model)
    if flow is None:
        shape = (16, *facts.model.config.image_shape)
        lines += [
            f"x = torch.rand({shape})  # images as the data have them, scaled to [0, 1]",
            "classes = model(x).argmax(1)",
        ]
        return Snippet("Load it in Python, and classify.", "\n".join(lines))
    if facts.schema is not None:
        return _python_of_table(facts, flow.takes_context)
    of_flow = "model" if flow is facts.model else "model.flow"
    arguments = "16"
    if flow.takes_context:
        lines.append(f"context = torch.tensor({_a_context(facts)!r})")
        lines.append("x = " + of_flow + ".sample(16, context)")
        lines.append(f"log_prob = {of_flow}.log_prob(x, context.expand(16, -1))")
    else:
        lines.append(f"x = {of_flow}.sample({arguments})")
        lines.append(f"log_prob = {of_flow}.log_prob(x)  # in nats")
    return Snippet("Load it in Python, draw samples, and score them.", "\n".join(lines))


def _python_of_table(facts: Facts, takes_context: bool) -> Snippet:
    """Return how samples and scores come in the columns and units of the file, which the model may not have."""
    run = str(facts.run)
    lines = [
        "import torch",
        "from iresnet_fast import data, training",
        "",
        f"model, schema = training.load_model({run!r}), training.load_schema({run!r})",
        *([f"context = torch.tensor({_a_context(facts)!r})"] if takes_context else []),
        f"x = model.sample(16{', context' * takes_context})",
        f"table = schema.decode(x{', context.expand(16, -1)' * takes_context})  # in the columns and units of the file",
        "rows = schema.encode(table)  # or schema.encode(data.read_table(FILE))",
        f"log_prob = model.log_prob(rows.x{', rows.context' * takes_context}) - schema.log_scale  # in nats",
    ]
    return Snippet("Load it in Python, draw samples, and score rows.", "\n".join(lines))


def _a_context(facts: Facts) -> list[float]:
    """Return the context of a test sample, zeros if it is not at hand."""
    context = None if facts.dataset is None else facts.dataset.test_context
    if context is None:
        flow = flow_of(facts.model)
        return [0.0] * (0 if flow is None else flow.config.context_features)
    return [float(f"{value:.6g}") for value in context[0].tolist()]


def commands(facts: Facts) -> list[Snippet]:
    run, flow = shlex.quote(str(facts.run)), flow_of(facts.model)
    names = (facts.metadata["data"].get("source") or {}).get("names", [])
    data = f" --data {shlex.join(names)}" if facts.schema is not None and names else ""
    snippets = [
        Snippet("Measure it on its test data.", f"iresnet-fast evaluate {run}"),
        Snippet("Score rows, each by itself.", f"iresnet-fast score {run}{data} --out scores.csv"),
    ]
    if flow is not None:
        out = _sampled(flow.config.event_shape)
        given = f" {shlex.join(_given(facts))}" if flow.takes_context else ""
        snippets.append(Snippet("Draw samples.", f"iresnet-fast sample {run} --n 100{given} --out {out}"))
    return snippets


def _sampled(shape: tuple[int, ...]) -> str:
    """Return a file that samples of a shape can be written to."""
    if len(shape) == 1:
        return "samples.csv"
    return "samples.npy" if len(shape) == 3 and shape[0] not in (1, 3) else "samples.png"


def _given(facts: Facts) -> list[str]:
    """Return the options that name the context of a test sample."""
    context, schema = _a_context(facts), facts.schema
    if schema is None:
        return [f"--context={','.join(map(str, context))}"]
    width = sum(column.width for column in schema.columns)
    row = schema.decode(torch.zeros(1, width), torch.tensor([context]))
    return [f"--given={column.name}={_cell(row.column(column.name)[0])}" for column in schema.context]


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
