"""Every public way to hand a tensor to the package, for the tests of what is said about a wrong one."""

import functools
from typing import NamedTuple

import torch

from iresnet_fast import nn, ops, reference, training
from iresnet_fast._steps import Residual
from iresnet_fast.models import (
    ClassifierConfig,
    FlowConfig,
    HybridConfig,
    HybridIResNet,
    IResNetClassifier,
    IResNetFlow,
)
from iresnet_fast.solvers import FixedPoint

VECTOR, IMAGE = (2,), (3, 4, 6)
N = 4


class Entry(NamedTuple):
    """A function of one tensor, what it calls that, the shape of an event, and whether other dtypes are refused."""

    call: object
    name: str
    event: tuple
    dtypes: bool = True
    integers: bool = False  # are welcome
    devices: bool = True


@functools.cache
def models():
    """One small model of each kind, initialised."""
    torch.manual_seed(0)
    flow = IResNetFlow(FlowConfig(VECTOR, blocks=(1,), hidden=(8, 8)))
    images = IResNetFlow(FlowConfig(IMAGE, blocks=(1,), hidden=(4, 4)))
    conditional = IResNetFlow(FlowConfig(VECTOR, blocks=(1,), hidden=(8, 8), context_features=3))
    classifier = IResNetClassifier(ClassifierConfig(IMAGE, 5, (1,), (4,)))
    hybrid = HybridIResNet(HybridConfig(FlowConfig(VECTOR, blocks=(1,), hidden=(8, 8)), 3, 4))
    flow.initialize(torch.randn(50, *VECTOR))
    images.initialize(torch.randn(50, *IMAGE))
    conditional.initialize(torch.randn(50, *VECTOR), torch.randn(50, 3))
    classifier(torch.randn(8, *IMAGE))
    hybrid(torch.randn(8, *VECTOR))
    return [model.eval() for model in (flow, images, conditional, classifier, hybrid)]


def _actnorm(channels):
    layer = nn.ActNorm(channels)
    layer(torch.randn(8, channels))
    return layer


def _models():
    flow, images, conditional, classifier, hybrid = models()
    labels, context = torch.zeros(N, dtype=torch.int64), torch.randn(N, 3)
    for prefix, model, event in (("flow", flow, VECTOR), ("image flow", images, IMAGE)):
        latent = (torch.Size(event).numel(),)
        for name in ("log_prob", "bits_per_dim", "transform_to_noise", "reconstruct", "initialize"):
            yield f"{prefix}.{name}", Entry(getattr(model, name), "x", event, integers=True)
        yield prefix, Entry(model, "x", event, integers=True)
        for name in ("inverse", "solve", "pieces"):
            yield f"{prefix}.{name}", Entry(getattr(model, name), "z", latent)
        yield f"{prefix}'s prior", Entry(model.prior.log_prob, "z", latent)
    yield "conditional flow", Entry(lambda x: conditional.log_prob(x, context), "x", VECTOR, integers=True)
    for name in ("__call__", "features", "reconstruct"):
        yield f"classifier.{name}", Entry(getattr(classifier, name), "x", IMAGE)
    yield "classifier.invert", Entry(classifier.invert, "features", IMAGE)
    yield "hybrid", Entry(hybrid, "x", VECTOR, integers=True)
    yield "hybrid.loss", Entry(lambda x: hybrid.loss(x, labels), "x", VECTOR, integers=True)
    yield "evaluate", Entry(lambda x: training.evaluate(flow, x), "x", VECTOR, dtypes=False, devices=False)


def _blocks():
    context = torch.randn(N, 3)
    for name, branch, event in (
        ("dense", nn.ResidualBranch.dense([2, 8, 2]), VECTOR),
        ("conv", nn.ResidualBranch.conv([3, 4, 3], [3, 3]), IMAGE),
        ("densenet", nn.DenseBranch.dense(2, 4), VECTOR),
        ("conv densenet", nn.DenseBranch.conv(3, 4), IMAGE),
        ("induced", nn.InducedNormBranch.dense([2, 4, 2], norm=2.0), VECTOR),
        ("conv induced", nn.InducedNormBranch.conv([3, 4, 3], [3, 3], norm=2.0), IMAGE),
    ):
        block = nn.InvertibleResidualBlock(branch).eval()
        yield f"{name} branch", Entry(branch, "x", event)
        yield f"{name} block", Entry(block, "x", event)
        for method in ("inverse", "solve", "certified_inverse"):
            yield f"{name} block.{method}", Entry(getattr(block, method), "z", event)
        yield f"sequence of a {name} block", Entry(nn.Sequential(block), "x", event)
    block = nn.InvertibleResidualBlock(nn.ConditionalBranch.dense([2, 4, 2], 3)).eval()
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
    other = nn.InvertibleResidualBlock(layers, lipschitz=0.99, solver=FixedPoint(tol=1e3)).eval()
    yield "block of a torch module", Entry(other, "x", VECTOR)
    yield "block of a torch module.inverse", Entry(other.inverse, "z", VECTOR)
    yield "conditional block", Entry(lambda x: block(x, context), "x", VECTOR)
    yield "conditional block.inverse", Entry(lambda z: block.inverse(z, context), "z", VECTOR)


def _layers():
    scales = nn.MultiScale([nn.Sequential(nn.Squeeze(), _actnorm(12)), _actnorm(6)], IMAGE)
    for name, layer, event, latent, dtypes in (
        ("ActNorm", _actnorm(3), IMAGE, IMAGE, True),
        ("InvertibleLinear", nn.InvertibleLinear(3), IMAGE, IMAGE, True),
        ("MultiScale", scales, IMAGE, (72,), True),
        ("Permutation", nn.Permutation([1, 0, 2]), IMAGE, IMAGE, False),
        ("Flatten", nn.Flatten(IMAGE), IMAGE, (72,), False),
        ("Affine", nn.Affine(torch.ones(2), torch.zeros(2)), VECTOR, VECTOR, False),
        ("Whiten", nn.Whiten(torch.zeros(2), torch.eye(2)), VECTOR, VECTOR, False),
    ):
        devices = name != "Flatten"
        yield name, Entry(layer, "x", event, dtypes, devices=devices)
        yield f"{name}.inverse", Entry(layer.inverse, "z", latent, dtypes, devices=devices)
    for name, layer, event in (
        ("SpectralLinear", nn.SpectralLinear(2, 3), VECTOR),
        ("InducedNormLinear", nn.InducedNormLinear(2, 3), VECTOR),
        ("SpectralConv2d", nn.SpectralConv2d(3, 4, 3), IMAGE),
        ("InducedNormConv2d", nn.InducedNormConv2d(3, 4, 3), IMAGE),
    ):
        yield name, Entry(layer, "input", event)


def _ops():
    weights, biases, names = [0.1 * torch.randn(8, 2), 0.1 * torch.randn(2, 8)], [None, None], ["identity", "elu"]
    stages, ones = (weights, biases, names), torch.ones(N, 2)
    for name, module in (("ops", ops), ("reference", reference)):
        yield f"{name}.branch", Entry(lambda x, m=module: m.branch(x, *stages), "x", VECTOR)
        yield (
            f"{name}.residual_logdet",
            Entry(lambda x, m=module: m.residual_logdet(x, *stages, ones, [1.0]), "x", VECTOR),
        )
        yield (
            f"{name}.residual_logdet_exact",
            Entry(lambda x, m=module: m.residual_logdet_exact(x, *stages), "x", VECTOR),
        )
        flow = ((Residual(("identity", "elu"), "none"),), [*weights, *biases, *[None] * 4])
        yield f"{name}.residual_flow", Entry(lambda x, m=module, flow=flow: m.residual_flow(x, *flow), "x", VECTOR)
        yield f"{name}.residual_inverse", Entry(lambda z, m=module: m.residual_inverse(z, *stages, 0.5), "z", VECTOR)


ENTRIES = {name: entry for part in (_models, _blocks, _layers, _ops) for name, entry in part()}
