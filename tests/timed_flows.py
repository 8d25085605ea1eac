"""Small models of the kinds whose whole training steps are timed, and images for them."""

import torch

from iresnet_fast.estimators import PowerSeries
from iresnet_fast.models import IResNetFlow, ResidualFlow


def mnist_flow():
    """Two scales of one block, three terms."""
    i_resnet = {"activation": "elu", "preactivation": False, "coeff": 0.9, "train_estimator": PowerSeries(n_terms=3)}
    return _started(IResNetFlow, "mnist", event_shape=(1, 8, 8), blocks=(1, 1), hidden=(6, 6), **i_resnet)


def residual_flow():
    """Three scales of one or two blocks, all but the first preactivated, and two fully connected ones; a roulette."""
    end = {"fc_blocks": 2, "fc_hidden": (5, 5)}
    return _started(ResidualFlow, "cifar10", event_shape=(3, 8, 8), blocks=(1, 2, 1), hidden=(6, 6), **end)


FLOWS = {"mnist": mnist_flow, "residual flow": residual_flow}


def images(flow, count=16):
    """Whole numbers [count, C, H, W], the same at every call."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, *flow.config.event_shape), dtype=torch.uint8, generator=generator)


def _started(kind, preset, **small):
    torch.manual_seed(0)
    flow = kind.preset(preset, **small)
    flow.initialize(images(flow))
    return flow.train()
