"""The layers, branches and blocks of the nn tests: tiny, with weights large enough to be normalised."""

import math

import torch
import torch.nn.functional as F

from iresnet_fast import nn, ops
from iresnet_fast.estimators import PowerSeries
from iresnet_fast.nn.spectral import effective_weights
from iresnet_fast.solvers import FixedPoint

# sigma is iterated until it changes by 1e-5, from below: with the gaps of these small layers it is within 1e-3.
CLOSE = 1e-3

CONVOLUTIONS = {
    "3x3": ((3, 5, 3), {"padding": 1}),
    "1x1": ((4, 6, 1), {}),
    "strided": ((3, 4, 3), {"stride": 2, "padding": 1}),
    "grouped": ((4, 6, 3), {"padding": 1, "groups": 2}),
    "dilated": ((2, 3, 3), {"padding": 2, "dilation": 2}),
    "even": ((3, 4, 2), {}),
    "oblong": ((2, 3, (1, 3)), {"padding": "same"}),
    "strided 1x1": ((3, 4, 1), {"stride": 2}),
    "valid": ((2, 3, 3), {"padding": "valid"}),
}

KINDS = ["dense", "conv"]
SHAPES = {"dense": (6,), "conv": (4, 5, 3)}


def make_linear(**options):
    return nn.SpectralLinear(7, 5, **options)


def make_conv(name="3x3", image_size=(6, 5), **options):
    arguments, fixed = CONVOLUTIONS[name]
    return nn.SpectralConv2d(*arguments, **fixed, image_size=image_size, **options)


def matrix_of(layer, weight, image_size=(6, 5)):
    """The matrix of the linear map, rows outputs, without the bias."""
    if isinstance(layer, nn.SpectralLinear):
        return weight
    basis = torch.eye(layer.in_channels * math.prod(image_size), dtype=weight.dtype)
    images = basis.view(-1, layer.in_channels, *image_size)
    rows = F.conv2d(images, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
    return rows.flatten(1).t()


def true_norm(layer, weight, image_size=(6, 5)):
    return float(torch.linalg.matrix_norm(matrix_of(layer, weight.detach().double(), image_size), 2))


def input_of(layer, image_size=(6, 5)):
    if isinstance(layer, nn.SpectralLinear):
        return torch.randn(3, 7, dtype=layer.weight.dtype)
    return torch.randn(3, layer.in_channels, *image_size, dtype=layer.weight.dtype)


def grow(layer, factor=3.0):
    with torch.no_grad():
        layer.weight.mul_(factor)


def make_branch(kind, **options):
    if kind == "dense":
        return nn.ResidualBranch.dense([6, 16, 16, 6], **options)
    return nn.ResidualBranch.conv([4, 8, 8, 4], [3, 1, 3], (5, 3), **options)


def make_block(kind, estimator=PowerSeries(), solver=FixedPoint(), gain=3.0, **options):  # noqa: B008
    branch = make_branch(kind, **options)
    with torch.no_grad():  # so that the normalisation has something to do
        for layer in branch.layers:
            layer.weight.mul_(gain)
    return nn.InvertibleResidualBlock(branch, estimator, solver)


def make_input(kind, batch=4, dtype=torch.float32):
    return torch.randn(batch, *SHAPES[kind], dtype=dtype)


def train(block, kind, steps, loss=lambda z, logdet: z.square().mean() - logdet.mean(), lr=1e-2):
    optimizer = torch.optim.Adam(block.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(*block(make_input(kind))).backward()
        optimizer.step()


class Conditional(torch.nn.Module):
    """A branch no stage can express."""

    def __init__(self, lipschitz=None):
        super().__init__()
        self.first, self.second = nn.SpectralLinear(6, 9, coeff=0.8), nn.SpectralLinear(9, 6, coeff=0.8)
        if lipschitz is not None:
            self.lipschitz = lipschitz

    def forward(self, x, context=0.0):
        return self.second(torch.tanh(self.first(x) + context))


def effective_norm(layer, image_size=None):
    """The true spectral norm of the effective weight."""
    return true_norm(layer, effective_weights([layer])[0], image_size)


def count_calls(monkeypatch, name):
    """The number of layers of every call of an op from now on."""
    counted, original = [], getattr(ops, name)

    def counting(weights, *others):
        counted.append(len(weights))
        return original(weights, *others)

    monkeypatch.setattr(ops, name, counting)
    return counted
