"""One small example of every transform, for the tests of their common contract."""

import torch

from iresnet_fast import nn
from iresnet_fast.estimators import Exact
from iresnet_fast.solvers import FixedPoint


def exact_block(branch, lipschitz=None):
    """A block whose numbers are right to rounding."""
    return nn.InvertibleResidualBlock(branch, Exact(), FixedPoint(5e-12), lipschitz)


def grown(branch, gain=3.0):
    """The branch with weights large enough to be normalised."""
    with torch.no_grad():
        for layer in branch.layers:
            layer.weight.mul_(gain)
    return branch


def _actnorm(channels):
    layer = nn.ActNorm(channels)
    with torch.no_grad():
        layer.bias.normal_()
        layer.log_scale.normal_()
        layer.initialized.fill_(True)
    return layer


def _scales():
    first = nn.Sequential(nn.Squeeze(), _actnorm(8), nn.InvertibleLinear(8))
    last = nn.Sequential(_actnorm(4), exact_block(grown(nn.DenseBranch.conv(4, 2, depth=1, image_size=(2, 1)))))
    return nn.MultiScale([first, last], (2, 4, 2))


def _linear(channels):
    layer = nn.InvertibleLinear(channels)
    with torch.no_grad():
        layer.packed.add_(torch.randn(channels, channels), alpha=0.3)
    return layer


def _whiten():
    return nn.Whiten(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([[2.0, 0.0, 0.0], [-1.0, 0.5, 0.0], [0.3, 0.2, 1.5]]))


# name: (make the transform, shape of an event of x)
CASES = {
    "actnorm dense": (lambda: _actnorm(5), (5,)),
    "actnorm conv": (lambda: _actnorm(3), (3, 4, 2)),
    "squeeze": (nn.Squeeze, (2, 4, 2)),
    "squeeze 3": (lambda: nn.Squeeze(3), (1, 3, 6)),
    "injective pad": (lambda: nn.InjectivePad(2), (3, 2, 2)),
    "flatten": (lambda: nn.Flatten((2, 3, 2)), (2, 3, 2)),
    "permutation": (lambda: nn.Permutation([2, 0, 1]), (3, 2, 2)),
    "linear dense": (lambda: _linear(5), (5,)),
    "linear conv": (lambda: _linear(3), (3, 4, 2)),
    "logit": (lambda: nn.Logit(0.05), (2, 3, 2)),
    "affine": (lambda: nn.Affine(torch.tensor([[[2.0]], [[-0.5]]]), 0.3), (2, 3, 2)),
    "whiten": (_whiten, (3,)),
    "dequantize": (lambda: nn.Dequantize(5), (2, 3, 2)),
    "dequantize steps": (lambda: nn.DequantizeSteps([1.0, 0.0, 0.25]), (3,)),
    "sequential": (lambda: nn.Sequential(_actnorm(2), nn.Squeeze(), _linear(8), nn.Flatten((8, 2, 1))), (2, 4, 2)),
    "multiscale": (_scales, (2, 4, 2)),
    "dense branch": (lambda: exact_block(grown(nn.DenseBranch.dense(5, 4, depth=2))), (5,)),
    "dense conv branch": (lambda: exact_block(grown(nn.DenseBranch.conv(2, 2, depth=1, image_size=(3, 1)))), (2, 3, 1)),
    "induced branch": (
        lambda: exact_block(grown(nn.InducedNormBranch.dense([4, 6, 4], activation="tanh")), 0.95),
        (4,),
    ),
}


def make(name):
    """The transform in float64 and eval mode."""
    return CASES[name][0]().double().eval()


def make_input(name, batch=3, dtype=torch.float64):
    event = CASES[name][1]
    if name == "dequantize":
        return torch.randint(0, 5, (batch, *event)).to(dtype)
    if name == "dequantize steps":
        return torch.randint(-9, 9, (batch, *event)).to(dtype) / 4.0 * torch.tensor([4.0, 1.0, 1.0], dtype=dtype)
    return torch.rand(batch, *event, dtype=dtype) if name == "logit" else torch.randn(batch, *event, dtype=dtype)
