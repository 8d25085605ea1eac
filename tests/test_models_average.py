"""Averages of models by torch's AveragedModel, buffers included: norms are those of the averaged weights."""

import copy

import pytest
import torch
from models_examples import CLASSIFIERS, FLOWS, make_classifier, make_data, make_flow, make_hybrid
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from iresnet_fast import nn

pytestmark = pytest.mark.usefixtures("one_thread")
AVERAGES = {
    "default": {},
    "moving": {"avg_fn": get_ema_avg_fn(0.5)},
    "moving, all at once": {"multi_avg_fn": get_ema_multi_avg_fn(0.5)},
    "all at once": {"multi_avg_fn": get_swa_multi_avg_fn()},  # what the default is on a GPU
}


def flow(name):
    model = make_flow(name)
    return model, make_data(model)


def classifier(name):
    model, x = make_classifier(name)
    return model, (x,)


def hybrid():
    model, x, _ = make_hybrid()
    model(x)
    return model, (x,)


MODELS = {
    **{f"flow, {name}": lambda name=name: flow(name) for name in FLOWS},
    **{f"classifier, {name}": lambda name=name: classifier(name) for name in CLASSIFIERS},
    "hybrid": hybrid,
}


def outputs(model, inputs):
    found = model.eval()(*inputs)
    return found if isinstance(found, tuple) else (found,)


def moved(model, inputs):
    """Change all weights a little, as steps of an optimizer do, and let the norms follow."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 + 0.1 * torch.rand_like(parameter))
    model.train()(*inputs)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", MODELS)
def test_an_average_is_a_model_of_the_averaged_weights(name, average):
    model, inputs = MODELS[name]()
    averaged = AveragedModel(model, use_buffers=True, **AVERAGES[average])
    for _ in range(2):
        averaged.update_parameters(model)
    for found, expected in zip(outputs(averaged.module, inputs), outputs(model, inputs), strict=True):
        torch.testing.assert_close(found, expected)
    before = copy.deepcopy(model)
    moved(model, inputs)
    # After two updates by the same weights, the mean gives the third a third, the moving average a half.
    averaged.update_parameters(model)
    weight = 0.5 if "moving" in average else 1.0 / 3.0
    twin = copy.deepcopy(before)
    with torch.no_grad():
        for parameter, other in zip(twin.parameters(), model.parameters(), strict=True):
            parameter.copy_(torch.lerp(parameter, other, weight))
    # The twin has the vectors of another weight, the average the mean of those of two: both find the norms anew.
    for found, expected in zip(outputs(averaged.module, inputs), outputs(twin, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for layer, other in zip(averaged.module.modules(), twin.modules(), strict=True):
        if isinstance(layer, (nn.SpectralLinear, nn.SpectralConv2d)):
            torch.testing.assert_close(layer.sigma, other.sigma, rtol=1e-6, atol=0.0)
        if isinstance(layer, nn.ActNorm):
            assert layer.initialized


def test_an_average_begun_before_the_first_batch_is_initialised_with_the_model():
    layer = nn.ActNorm(3)
    averages = [AveragedModel(layer, use_buffers=True, **options) for options in AVERAGES.values()]
    for _ in range(3):
        for averaged in averages:
            averaged.update_parameters(layer)
        layer(torch.randn(20, 3) + 4.0)
    for averaged in averages:
        before = averaged.module.bias.detach().clone()
        averaged.train()(torch.randn(20, 3) - 7.0)
        assert averaged.module.initialized
        assert torch.equal(averaged.module.bias, before)
