"""Every recipe in small, after some training: there and back, densities that integrate to one, samples that fit."""

import pytest
import torch

from iresnet_fast.estimators import Exact
from iresnet_fast.models import (
    FlowConfig,
    HybridIResNet,
    IDenseNet,
    IResNetClassifier,
    IResNetFlow,
    ResidualFlow,
)
from iresnet_fast.nn import ActNorm, InvertibleResidualBlock
from iresnet_fast.solvers import FixedPoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:iresnet_fast. Block runs"),
]
TIGHT = FixedPoint(1e-9)
SMALL = {"blocks": (3,), "hidden": (16, 16), "growth": 4}
FLOWS = [(model, name) for model in (IResNetFlow, ResidualFlow, IDenseNet) for name in model.presets()]
IDS = [f"{model.__name__}-{name}" for model, name in FLOWS]

# No preset has these.
OTHERS = {
    "context": FlowConfig((2,), **SMALL, context_features=1, context_hidden=8),
    "induced 1": FlowConfig((2,), **SMALL, branch="induced", norm="1", activation="tanh"),
    "induced 2": FlowConfig((2,), **SMALL, branch="induced", norm="2", activation="tanh"),
    "induced inf": FlowConfig((2,), **SMALL, branch="induced", norm="inf", activation="tanh"),
}
PLANE = {
    "IResNetFlow": IResNetFlow.preset_config("toy", **SMALL),
    "ResidualFlow": ResidualFlow.preset_config("toy", **SMALL),
    "IDenseNet": IDenseNet.preset_config("toy", **SMALL),
    **{name: OTHERS[name] for name in ("context", "induced inf")},
}


def tiny(config):
    """The recipe with everything that makes it large cut down, and everything else as it is."""
    if not config.has_grid:
        return config.replace(blocks=(2,), hidden=(8,) * len(config.hidden), growth=3)
    scales = min(len(config.blocks), 2)
    return config.replace(
        event_shape=(config.event_shape[0], *((8, 8) if config.is_image else (16,))),
        blocks=(1,) * scales,
        hidden=(4,) * len(config.hidden),
        growth=2,
        fc_blocks=min(config.fc_blocks, 1),
        fc_hidden=(4,),
    )


def batch_of(config, n):
    """Whole numbers, or two clusters, and a context or None."""
    if config.n_levels is not None:
        return torch.randint(0, config.n_levels, (n, *config.event_shape)), None
    sides = torch.where(torch.rand(n, *(1 for _ in config.event_shape)) < 0.5, 1.5, -1.5).double()
    x = sides + 0.35 * torch.randn(n, *config.event_shape, dtype=torch.float64)
    return x, torch.rand(n, config.context_features, dtype=torch.float64) if config.context_features else None


def trained(model, config, steps, n=64):
    """The model in float64 after some steps, in evaluation mode."""
    torch.manual_seed(0)
    model = model.double()
    x, context = batch_of(config, n)
    if config.preprocess == "standardize":
        model.fit_preprocessing(x)
    model.initialize(x, context)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(steps):
        x, context = batch_of(config, n)
        optimizer.zero_grad()
        (-model.log_prob(x, context).mean()).backward()
        optimizer.step()
    return model.eval()


def stated_error(model):
    """What the blocks certify for all of them together: each adds its tol, and the inverses before it stretch that.

    And how far a distance may grow on the way forward. In float64 rounding is nothing against the tolerances here.
    """
    bound, backward, forward = 0.0, 1.0, 1.0
    for module in model.modules():
        if isinstance(module, InvertibleResidualBlock):
            bound += module.solver.tol * backward
            backward, forward = backward / (1.0 - module.lipschitz), forward * (1.0 + module.lipschitz)
        elif isinstance(module, ActNorm):
            scale = module.log_scale.detach().exp()
            backward, forward = backward * max(1.0, float(1.0 / scale.min())), forward * max(1.0, float(scale.max()))
    return bound, forward


@torch.no_grad()
def check_round_trips(flow):
    """As exact as the solver of the recipe states, and as exact as a tight one states."""
    x, context = batch_of(flow.config, 4)
    z = flow.prior.sample(4)
    blocks = [module for module in flow.modules() if isinstance(module, InvertibleResidualBlock)]
    for solver in (blocks[0].solver, TIGHT):
        for block in blocks:
            block.solver = solver
        bound, growth = stated_error(flow.body)
        result = flow.reconstruct(x, context)
        assert bool((result.block_error <= solver.tol).all())
        assert bool((result.iterations > len(blocks)).all())  # the blocks are not the identity
        assert bool((result.error <= bound).all())
        again, _ = flow.body(flow.body.inverse(z, context)[0], context)
        assert float((again - z).norm(dim=1).max()) <= bound * growth
    # The data themselves: whole numbers are the same ones, and no preprocessing stretches an error by more than 10.
    torch.testing.assert_close(result.x.to(x.dtype), x, atol=10.0 * bound, rtol=0.0)


@pytest.mark.parametrize(("model", "name"), FLOWS, ids=IDS)
def test_every_recipe_leads_there_and_back(model, name):
    config = tiny(model.preset_config(name))
    flow = trained(model(config), config, 3, 16)
    check_round_trips(flow)


def test_the_flow_of_every_hybrid_leads_there_and_back():
    for name in HybridIResNet.presets():
        config = HybridIResNet.preset_config(name)
        model = HybridIResNet(config.replace(flow=tiny(config.flow), head_hidden=4))
        trained(model.flow, model.flow.config, 3, 16)
        check_round_trips(model.flow)


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_branches_lead_there_and_back(name):
    check_round_trips(trained(IResNetFlow(OTHERS[name]), OTHERS[name], 3))


@pytest.mark.parametrize("name", IResNetClassifier.presets())
def test_features_of_every_classifier_lead_back(name):
    """Features of an image give the image, and its features are the ones again."""
    config = IResNetClassifier.preset_config(name)
    few = (1,) * len(config.blocks)
    side = 16 - 2 * config.border
    config = config.replace(
        image_shape=(config.image_shape[0], side, side), blocks=few, hidden=(4,) * len(few), padding_channels=2
    )
    torch.manual_seed(0)
    model = IResNetClassifier(config).double()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(3):
        x = torch.rand(16, *config.image_shape, dtype=torch.float64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), torch.arange(16) % config.n_classes).backward()
        optimizer.step()
    bound, growth = stated_error(model.eval().body)
    with torch.no_grad():
        result = model.reconstruct(x)
        assert bool((result.block_error <= config.solver.tol).all())
        assert bool((result.error <= bound).all())
        again = model.features(model.invert(result.features))
    assert float((again - result.features).flatten(1).norm(dim=1).max()) <= bound * growth


@pytest.mark.parametrize("name", list(PLANE))
def test_density_of_a_trained_model(name):
    """It integrates to one over the plane, its samples have the density it states, and are distributed by it."""
    config = PLANE[name]
    flow = trained(IResNetFlow(config), config, 70)
    assert isinstance(flow.body[1].estimator, Exact)
    edge = torch.linspace(-6.0, 6.0, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(edge, edge)
    at = torch.full((config.context_features,), 0.3, dtype=torch.float64) if config.context_features else None
    with torch.no_grad():
        log_prob = flow.log_prob(grid, None if at is None else at.expand(len(grid), -1))
        x, stated = flow.sample_and_log_prob(1000, at)
        expected = flow.log_prob(x, None if at is None else at.expand(len(x), -1))
    cell = float(edge[1] - edge[0]) ** 2
    assert float(log_prob.exp().sum()) * cell == pytest.approx(1.0, abs=0.01)
    # x is off by the solver's 1e-5 at most for each block, some ten times that in all, and the slope of log p is tens.
    torch.testing.assert_close(stated, expected, atol=1e-2, rtol=0.0)
    # Minus the entropy, from the samples and from the grid: four standard errors, and the 1 % of the grid.
    entropy = float((log_prob.exp() * log_prob).sum()) * cell
    assert abs(float(stated.mean()) - entropy) < 4.0 * float(stated.std()) / 1000**0.5 + 0.01 * abs(entropy)
    # No normal distribution: the blocks change volumes differently at different places.
    assert float(flow(x, None if at is None else at.expand(len(x), -1))[1].detach().std()) > 0.1
