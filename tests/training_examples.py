"""Tiny models and data of every task, for the tests of training."""

import torch

from iresnet_fast.data import DataSet
from iresnet_fast.models import FlowConfig, HybridConfig, HybridIResNet, IResNetClassifier, IResNetFlow
from iresnet_fast.training import TrainConfig


def make_data(kind="plane"):
    """A data set for such a model: points of a curve, or images of four stripes in three classes."""
    generator = torch.Generator().manual_seed(7)
    if kind == "plane":
        t = torch.rand(70, generator=generator) * 6.0
        x = torch.stack((t.cos() * t / 3.0, t.sin()), 1) + 0.1 * torch.randn(70, 2, generator=generator)
        return DataSet("curve", x[:50], x[50:])
    labels = torch.arange(48) % 3
    noise = torch.randint(0, 5, (48, 1, 8, 8), generator=generator)
    x = (4 * labels[:, None, None, None] + noise).to(torch.uint8)
    return DataSet("stripes", x[:36], x[36:], labels[:36], labels[36:], 17, 3)


def make_model(kind="plane"):
    """A new model, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "plane":
            return IResNetFlow(FlowConfig((2,), blocks=(2,), hidden=(16, 16)))
        if kind == "lipswish":
            return IResNetFlow(FlowConfig((2,), blocks=(2,), hidden=(16, 16), activation="lipswish"))
        if kind == "flow":
            return IResNetFlow.preset("digits", blocks=(1,), hidden=(6, 6))
        if kind == "classifier":
            return IResNetClassifier.preset("digits", n_classes=3, blocks=(1, 1), hidden=(4, 4))
        flow = IResNetFlow.preset_config("digits", blocks=(1, 1), hidden=(6, 6), factor_out=True)
        return HybridIResNet(HybridConfig(flow, n_classes=3, head_hidden=4))


def make_config(**changes):
    """A recipe of 12 steps, 4 or 3 to an epoch, whose rate warms up and decays; the average is on."""
    values = {"batch_size": 12, "learning_rate": 1e-2, "warmup_steps": 3, "max_steps": 12, "log_steps": 2}
    return TrainConfig(**{**values, **changes})


def same_bits(ours, theirs):
    """Whether two state_dicts have the same keys and bits."""
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def measured(history):
    """Rows of the log without what the clock says."""
    clock = ("minutes", "samples_per_second")
    return [{name: value for name, value in row.items() if name not in clock} for row in history]
