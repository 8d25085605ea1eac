"""The flow in plain torch against the layers one after the other."""

import pytest
import torch

from iresnet_fast import nn, reference
from iresnet_fast._steps import Normalize, Rearrange, Residual
from iresnet_fast.estimators import Exact, PowerSeries, RussianRoulette
from iresnet_fast.nn.block import InvertibleResidualBlock

ESTIMATORS = {
    "none": None,
    "exact": Exact(),
    "series": PowerSeries(6, n_probes=2),
    "roulette": RussianRoulette(per_sample=True),
}


def chain(estimator):
    """Return layers of images, with numbers in their ActNorm, and the steps that stand for them at one input."""
    branch = nn.ResidualBranch.conv([8, 5, 8], [3, 1], 2, "lipswish")
    layers = torch.nn.ModuleList(
        [nn.Squeeze(), nn.Permutation.reverse(8), nn.ActNorm(8), InvertibleResidualBlock(branch, estimator)]
    ).double()
    layers.append(nn.Flatten((8, 2, 2)))
    layers[2](torch.randn(30, 8, 2, 2, dtype=torch.float64))
    places = torch.arange(32).view(1, 2, 4, 4).double()
    squeezed = layers[0](places)[0]
    permuted = torch.arange(32).view(1, 8, 2, 2).flip(1)
    kind = "none" if estimator is None else "exact" if isinstance(estimator, Exact) else "series"
    steps = (
        Rearrange((8, 2, 2)),
        Rearrange((8, 2, 2)),
        Normalize(),
        Residual(branch.activations, kind),
        Rearrange((32,)),
    )
    weights, biases, _, betas = branch.stages((2, 2))
    tensors = [squeezed.flatten().long(), permuted.flatten(), layers[2].bias, layers[2].log_scale]
    return layers, steps, [*tensors, *weights, *biases, *betas, None, None, torch.arange(32)]


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_flow_is_its_layers_one_after_the_other(kind):
    torch.manual_seed(0)
    estimator = ESTIMATORS[kind]
    layers, steps, tensors = chain(estimator)
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    z, total = x, 0.0
    for layer in layers:
        z, logdet = layer(z)
        total = total + logdet
    torch.manual_seed(1)
    draws = [] if kind in ("none", "exact") else [estimator.draw(torch.empty(3, 8, 2, 2, dtype=torch.float64), True)]
    found, logdet = reference.residual_flow(x, steps, tensors, draws)
    torch.testing.assert_close((found, logdet), (z, total))
    assert logdet.abs().min() > 0.1
    inputs = [x, *layers.parameters()]
    gradients = [torch.autograd.grad(a.cos().sum() + b.sum(), inputs) for a, b in ((found, logdet), (z, total))]
    torch.testing.assert_close(*gradients)


def test_a_flow_without_steps_and_an_empty_batch():
    x = torch.randn(3, 2)
    z, logdet = reference.residual_flow(x, (), ())
    assert torch.equal(z, x)
    assert torch.equal(logdet, torch.zeros(3))
    _, steps, tensors = chain(None)
    z, logdet = reference.residual_flow(torch.empty(0, 2, 4, 4, dtype=torch.float64), steps, tensors)
    assert z.shape == (0, 32)
    assert logdet.shape == (0,)


BRANCH = Residual(("elu",), "none")


@pytest.mark.parametrize(
    ("steps", "tensors", "draws", "error", "message"),
    [
        (("squeeze",), (), (), TypeError, r"steps\[0\] must be a Normalize, Rearrange or Residual, got 'squeeze'; bui"),
        ((Residual((), "both"),), (), (), ValueError, r"logdet of steps\[0\] must be one of 'none', 'exact', 'series'"),
        ((Normalize(),), (torch.zeros(2),), (), ValueError, "tensors must hold the 2 of the steps, got 1; pass None"),
        ((Normalize(),), (torch.zeros(3),) * 2, (), ValueError, r"x must have shape \[B, 3\] or"),
        ((BRANCH,), (torch.zeros(2, 2), *[None] * 3), ((1, 2),), ValueError, "each of 0 steps with a series, got 1"),
        ((BRANCH,), (torch.zeros(2, 3), *[None] * 3), (), ValueError, r"weights\[0\]"),
    ],
)
def test_errors(steps, tensors, draws, error, message):
    with pytest.raises(error, match=message):
        reference.residual_flow(torch.zeros(4, 2), steps, tensors, draws)
