"""Tiny models of every kind, for the tests of their common contract."""

import torch

from iresnet_fast.estimators import Exact, PowerSeries
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
from iresnet_fast.nn import ActNorm, InvertibleResidualBlock
from iresnet_fast.solvers import FixedPoint

TIGHT = FixedPoint(tol=1e-11)
IMAGE = {"event_shape": (1, 8, 4), "hidden": (6, 6), "squeeze_first": True, "solver": TIGHT}

FLOWS = {
    "dense": lambda: FlowConfig((3,), blocks=(2,), hidden=(8, 8), solver=TIGHT),
    "all dense options": lambda: FlowConfig(
        (3,),
        blocks=(2,),
        hidden=(8, 8),
        activation="lipswish",
        preactivation=True,
        final_actnorm=True,
        linear=True,
        fc_blocks=1,
        fc_hidden=(4,),
        preprocess="standardize",
        prior="standard",
        solver=TIGHT,
    ),
    "context": lambda: FlowConfig((3,), blocks=(2,), hidden=(8, 8), context_features=2, context_hidden=4, solver=TIGHT),
    "context everywhere": lambda: FlowConfig(
        (3,),
        blocks=(2,),
        hidden=(8, 8),
        final_actnorm=True,
        conditional_actnorm=True,
        prior="conditional",
        context_features=2,
        context_hidden=4,
        context_preprocess="standardize",
        solver=TIGHT,
    ),
    "densenet": lambda: IDenseNet.preset_config("toy", blocks=(2,), growth=3, depth=2, solver=TIGHT),
    "roulette": lambda: ResidualFlow.preset_config("toy", blocks=(2,), hidden=(8, 8), solver=TIGHT),
    "image": lambda: FlowConfig(**IMAGE, blocks=(1, 1), eval_estimator=Exact()),
    "image, factored out": lambda: FlowConfig(
        **IMAGE, blocks=(1, 1), factor_out=True, fc_blocks=1, fc_hidden=(4,), preprocess="center"
    ),
    "image, context": lambda: FlowConfig(
        **IMAGE, blocks=(2,), preactivation=True, context_features=2, train_estimator=PowerSeries(4)
    ),
    "image densenet": lambda: FlowConfig(
        **IMAGE, blocks=(1, 0), branch="dense", activation="clipswish", growth=2, depth=2, fc_blocks=1, fc_hidden=(4,)
    ),
    "induced": lambda: FlowConfig((3,), blocks=(2,), hidden=(8, 8), branch="induced", activation="tanh", solver=TIGHT),
    "image induced": lambda: FlowConfig(**IMAGE, blocks=(1,), branch="induced", norm="1", fc_blocks=1, fc_hidden=(4,)),
    "signal": lambda: FlowConfig((2, 8), (1, 1), (6, 6), (5, 1, 5), preprocess="standardize", solver=TIGHT),
    "signal, factored out, context": lambda: FlowConfig(
        (1, 8), (1, 1), (6, 6), squeeze_first=True, factor_out=True, context_features=2, solver=TIGHT
    ),
    "digits": lambda: IResNetFlow.preset_config("digits", blocks=(2,), hidden=(6, 6), solver=TIGHT),
    "padded": lambda: FlowConfig(
        (2,), blocks=(2,), hidden=(8, 8), activation="clipswish", noise_channels=1, solver=TIGHT
    ),
}
CLASSIFIERS = {
    "small": lambda: ClassifierConfig(
        (1, 6, 6), 3, (1, 2), (4, 6), border=1, squeeze_first=True, padding_channels=2, solver=TIGHT
    ),
    "digits": lambda: IResNetClassifier.preset_config("digits", blocks=(1, 1), hidden=(4, 4), solver=TIGHT),
}


def make_flow(name, dtype=torch.float64):
    """A flow that has seen a batch, in training mode."""
    torch.manual_seed(0)
    flow = IResNetFlow(FLOWS[name]()).to(dtype)
    grow(flow)
    x, context = make_data(flow, 16)
    if flow.standardizes:
        flow.fit_preprocessing(3.0 * x + 1.0, None if context is None else 3.0 * context + 1.0)
    flow.initialize(x, context)
    return flow


def make_data(flow, batch=5):
    """A batch of what a flow is made for, and a context or None."""
    config, dtype = flow.config, flow.prior.mean.dtype
    shape = (batch, *config.event_shape)
    if config.n_levels is not None:
        x = torch.randint(0, config.n_levels, shape)
    else:
        x = torch.randn(shape, dtype=dtype)
    return x, torch.randn(batch, config.context_features, dtype=dtype) if config.context_features else None


def make_classifier(name, dtype=torch.float64, **changes):
    """A classifier that has seen a batch, in training mode, and another batch."""
    torch.manual_seed(0)
    model = IResNetClassifier(CLASSIFIERS[name]().replace(**changes)).to(dtype)
    grow(model)
    model(torch.rand(16, *model.config.image_shape, dtype=dtype))
    return model, torch.rand(5, *model.config.image_shape, dtype=dtype)


def make_hybrid(name="digits", dtype=torch.float64, **changes):
    """A hybrid model, in training mode, and a batch with its labels."""
    torch.manual_seed(0)
    small = {"blocks": (1, 1), "hidden": (6, 6), "solver": TIGHT, "factor_out": True} | changes
    config = HybridConfig(IResNetFlow.preset_config(name, **small), n_classes=3, head_hidden=4)
    model = HybridIResNet(config).to(dtype)
    x = torch.randint(0, config.flow.n_levels, (6, *config.flow.event_shape))
    return model, x, torch.tensor([0, 1, 2, 2, 1, 0])


def grow(model, gain=2.0):
    """Make the weights large enough to be normalised."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight") and "branch" in name:
                parameter.mul_(gain)


def inverse_error(model, tol=TIGHT.tol):
    """A bound on the error of the inverse: every block adds its tol, which those before it stretch."""
    bound, stretch = 0.0, 1.0
    for module in model.modules():
        if isinstance(module, InvertibleResidualBlock):
            bound, stretch = bound + tol * stretch, stretch / (1.0 - module.lipschitz)
        elif isinstance(module, ActNorm):
            stretch *= max(1.0, float((-module.log_scale.detach()).exp().max()))
    return 100.0 * bound  # invertible 1 x 1 maps, the solvers' rounding


def unused(model, loss):
    """Names of the parameters without a gradient."""
    model.zero_grad()
    loss.backward()
    return [name for name, parameter in model.named_parameters() if parameter.grad is None]
