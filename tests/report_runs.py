"""Small runs of every kind that there is a report of."""

import torch
from training_examples import make_config, make_data, make_model

from iresnet_fast import training
from iresnet_fast.data import Column, DataSet, TableSchema
from iresnet_fast.models import FlowConfig, IResNetFlow

# A name that must not become a part of the page.
HOSTILE = "<script>document.title='bad'</script> & \"'weight'"


def make_table():
    """Three columns, one of them of categories, and a context."""
    generator = torch.Generator().manual_seed(5)
    number = torch.randn(260, 1, generator=generator)
    code = torch.randint(0, 3, (260, 1), generator=generator).float()
    x = torch.cat((number, 0.5 * number + torch.randn(260, 1, generator=generator), code), 1)
    context = torch.rand(260, 1, generator=generator)
    schema = TableSchema(
        (
            Column("height in cm", shift=170.0),
            Column(HOSTILE, scale=4.0),
            Column("city", "category", 1.0, categories=("Rome", "<b>Bern</b>", "Oslo")),
        ),
        (Column("dose"),),
    )
    return DataSet(
        "patients.csv",
        x[:220],
        x[220:],
        train_context=context[:220],
        test_context=context[220:],
        context_names=("dose",),
        table=schema,
    )


def make(kind):
    """A data set, and a model for it."""
    if kind == "table":
        config = FlowConfig((3,), blocks=(1,), hidden=(8, 8), context_features=1, prior="conditional")
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return make_table(), IResNetFlow(config)
    if kind == "signals":
        with torch.random.fork_rng():
            torch.manual_seed(3)
            x = torch.randn(60, 2, 16).cumsum(-1)
            config = FlowConfig((2, 16), blocks=(1,), hidden=(6, 6), kernel_sizes=(3, 1, 3))
            return DataSet("waves", x[:40], x[40:]), IResNetFlow(config)
    return make_data("plane" if kind == "plane" else "images"), make_model(kind)


KINDS = ("plane", "table", "signals", "flow", "classifier", "hybrid")


def train(kind, folder):
    """Train a few steps; returns the data set."""
    dataset, model = make(kind)
    training.fit(model, dataset, make_config(checkpoint_steps=6), folder, show_progress=False)
    return dataset
