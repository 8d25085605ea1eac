"""Configurations: JSON and back, presets, and what they refuse."""

import json

import pytest
import torch
from models_examples import CLASSIFIERS, FLOWS, make_flow

from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.models import (
    ClassifierConfig,
    FlowConfig,
    HybridConfig,
    HybridIResNet,
    IDenseNet,
    IResNetClassifier,
    IResNetFlow,
    ResidualFlow,
)
from iresnet_fast.solvers import FixedPoint

MODELS = [IResNetFlow, ResidualFlow, IDenseNet, IResNetClassifier, HybridIResNet]
PRESETS = [(model, name) for model in MODELS for name in model.presets()]
# Millions of parameters that the papers report.
PUBLISHED = {
    (ResidualFlow, "cifar10"): 25.2,
    (ResidualFlow, "imagenet32"): 47.1,
    (IDenseNet, "cifar10"): 24.9,
    (IDenseNet, "imagenet32"): 47.0,
}


@pytest.mark.parametrize("config", [*FLOWS.values(), *CLASSIFIERS.values()])
def test_round_trip_through_json(config):
    config = config()
    again = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


def test_round_trip_of_every_part():
    flow = FlowConfig(
        [3, 8, 8],
        [1, 2],
        train_estimator=RussianRoulette(n_exact=3, distribution="poisson", per_sample=True),
        eval_estimator=PowerSeries(n_terms=30, tol=1e-3),
        solver=FixedPoint(1e-3, 50, refine=False),
    )
    config = HybridConfig(flow, 10)
    written = json.loads(json.dumps(config.to_dict()))
    options = {"accelerate": True, "refine": False, "on_failure": "warn"}
    assert written["flow"]["solver"] == {"type": "FixedPoint", "tol": 1e-3, "max_iterations": 50, **options}
    assert HybridConfig.from_dict(written) == config
    assert flow.event_shape == (3, 8, 8)
    assert FlowConfig.from_dict({"event_shape": [2]}) == FlowConfig((2,))
    assert FlowConfig((2,), train_estimator=Exact()).to_dict()["train_estimator"] == {"type": "Exact"}


@pytest.mark.parametrize(
    ("model", "name"), PRESETS, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_presets_build(model, name):
    few = {"blocks": (2,) * 6} if name == "celebahq256" else {}  # the power iteration's vectors take long to draw
    with torch.device("meta"):
        built = model.preset(name, **few)
    config = built.config
    assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    n_parameters = sum(parameter.numel() for parameter in built.parameters())
    assert n_parameters > 0
    if (model, name) in PUBLISHED:
        assert n_parameters / 1e6 == pytest.approx(PUBLISHED[model, name], rel=0.02)


def test_presets_change():
    config = IResNetFlow.preset_config("digits", blocks=(1,))
    assert config == IResNetFlow.preset_config("digits").replace(blocks=[1])
    assert config.n_levels == 17
    assert "cifar10" in ResidualFlow.presets()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: FlowConfig.from_dict({"event_shape": [2], "depht": 3}),
            ValueError,
            "FlowConfig must have keys of .*'depht'",
        ),
        (lambda: FlowConfig.from_dict({}), ValueError, "must have a value for event_shape, got none; add it"),
        (lambda: FlowConfig.from_dict([2]), TypeError, "must be made from a dictionary"),
        (lambda: FlowConfig((2,)).replace(width=3), ValueError, "got 'width'; remove or rename"),
        (
            lambda: FlowConfig.from_dict({"event_shape": [2], "solver": {"type": "Newton"}}),
            ValueError,
            "type must be one of .*'FixedPoint'.*, got 'Newton'",
        ),
        (
            lambda: FlowConfig.from_dict({"event_shape": [2], "solver": {"type": "FixedPoint", "steps": 3}}),
            ValueError,
            "FixedPoint must have keys of tol, max_iterations, accelerate, refine, on_failure, got 'steps'",
        ),
        (lambda: IResNetFlow.preset("mnsit"), ValueError, "name must be one of toy, .*, got 'mnsit'; use one"),
        (lambda: FlowConfig((2,) * 4), ValueError, r"event_shape must be \(d,\), \(C, L\) or \(C, H, W\), got \(2, 2"),
        (lambda: FlowConfig((2.0,)), TypeError, "every number of event_shape must be an integer, got 2.0"),
        (lambda: FlowConfig((2,), blocks=()), ValueError, "blocks must hold one integer at least"),
        (lambda: FlowConfig((2,), blocks=(1, 1)), ValueError, "vectors must have one scale"),
        (lambda: FlowConfig((1, 6, 6), blocks=(1, 1, 1)), ValueError, "divisible by 4 for 2 squeezes"),
        (lambda: FlowConfig((1, 6, 6), kernel_sizes=(3, 3)), ValueError, "kernel_sizes must hold 3 integers"),
        (lambda: FlowConfig((1, 6, 6), kernel_sizes=(3, 2, 3)), ValueError, "kernel_sizes must be odd"),
        (lambda: FlowConfig((1, 6, 6), (1, 1), factor_out=True), ValueError, "factor_out must be False"),
        (lambda: FlowConfig((2,), branch="wide"), ValueError, "branch must be one of .*, 'induced', got 'wide'"),
        (lambda: FlowConfig((2,), norm="3"), ValueError, "norm must be one of '1', '2', 'inf', got '3'"),
        (lambda: FlowConfig((2,), power_tolerance=0.0), ValueError, "tol must be positive, got 0.0"),
        (lambda: FlowConfig((2,), coeff=1.0), ValueError, r"coeff must be in \(0, 1\), got 1.0"),
        (lambda: FlowConfig((2,), coeff="0.9"), TypeError, "coeff must be a number, got '0.9'"),
        (lambda: FlowConfig((2,), alpha=0.5), ValueError, r"alpha must be in \[0, 0.5\), got 0.5"),
        (lambda: FlowConfig((2,), actnorm="yes"), TypeError, "actnorm must be True or False, got 'yes'"),
        (lambda: ClassifierConfig((1, 8, 8), 10, coeff=True), TypeError, "coeff must be a number, got True"),
        (lambda: FlowConfig((2,), activation="no_such"), ValueError, "activation must be one of"),
        (
            lambda: FlowConfig((2,), activation="clipswish", context_features=1),
            ValueError,
            "activation must keep the number of channels with a context, got 'clipswish'",
        ),
        (lambda: FlowConfig((2,), branch="dense", context_features=1), ValueError, "context_features must be 0"),
        (
            lambda: FlowConfig((2,), blocks=(0,), context_features=1),
            ValueError,
            "context_features must be 0 for a flow wi",
        ),
        (
            lambda: FlowConfig((2,), hidden=(8,), context_features=1, context_mode="concat"),
            ValueError,
            "hidden must have two widths at least for context_mode 'concat', got",
        ),
        (lambda: FlowConfig((2,), train_estimator="exact"), TypeError, "train_estimator must be one of"),
        (lambda: FlowConfig((2,), solver=None), TypeError, "solver must be FixedPoint, got None"),
        (lambda: FlowConfig((2,), n_levels=1), ValueError, "n_levels must be at least 2, got 1"),
        (lambda: ClassifierConfig((1, 9, 8), 10, (1, 1), (4, 4)), ValueError, r"divisible by 2 .*got \(9, 8\)"),
        (lambda: ClassifierConfig((8, 8), 10), ValueError, "image_shape must hold 3 integers"),
        (lambda: ClassifierConfig((1, 8, 8), 10, (1, 1), (4,)), ValueError, "hidden must hold 2 integers"),
        (lambda: ClassifierConfig((1, 8, 8), 1), ValueError, "n_classes must be at least 2"),
        (lambda: ClassifierConfig((1, 8, 8), 10, coeff=1.5), ValueError, "or None for no bound"),
        (lambda: HybridConfig({"event_shape": (2,)}, 3), TypeError, "flow must be a FlowConfig"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda flow, x: flow.log_prob(x[:, :2]),
            ValueError,
            r"x must have shape \[B, 3\], got \(5, 2\)",
        ),
        (lambda flow, x: flow.log_prob(x, x), ValueError, "context must be None, since context_features is 0"),
        (lambda flow, x: flow.inverse(x[:, :2]), ValueError, r"z must have shape \[B, 3\], got \(5, 2\)"),
        (lambda flow, x: flow.sample(-1), ValueError, "n must be at least 0, got -1"),
        (lambda flow, x: flow.sample(1, temperature=-1.0), ValueError, "temperature must be finite and not negative"),
        (lambda flow, x: flow.interpolate(x[0], x[1], 1), ValueError, "steps must be at least 2"),
        (lambda flow, x: flow.interpolate(x[0], x, 2), ValueError, "b must have the shape of a"),
        (lambda flow, x: flow.fit_preprocessing(x), ValueError, "preprocess must be 'standardize'"),
        (lambda flow, x: flow.as_distribution(x[0]), ValueError, "context must be None, got shape"),
    ],
)
def test_errors_of_calls(call, error, message):
    flow = make_flow("dense").eval()
    with pytest.raises(error, match=message):
        call(flow, torch.randn(5, 3, dtype=torch.float64))


def test_errors_of_a_model_that_dequantises():
    flow = make_flow("digits").eval()
    x = torch.full((2, 1, 8, 8), 17)
    with pytest.raises(ValueError, match="n_levels must be 1 for a model that dequantises, got 17"):
        flow.bits_per_dim(x, n_levels=17)
    with pytest.raises(ValueError, match=r"x must have values in \[0, 16\], got values from 17 to 17"):
        flow.bits_per_dim(x)
    with pytest.raises(ValueError, match=r"x must have shape \[B, 1, 8, 8\], got \(2, 3, 8, 8\)"):
        flow.bits_per_dim(x.expand(2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs")
def test_errors_of_contexts():
    flow = make_flow("context").eval()
    x = torch.randn(5, 3, dtype=torch.float64)
    for call in (flow.log_prob, flow.inverse, flow.reconstruct, lambda x: flow.sample(5)):
        with pytest.raises(ValueError, match=r"context must have shape \(5, 2\), got None; pass one row"):
            call(x)
    with pytest.raises(ValueError, match=r"got shape \(4, 2\)"):
        flow.sample(5, torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"context must have shape \[..., 2\], got None"):
        flow.as_distribution()
