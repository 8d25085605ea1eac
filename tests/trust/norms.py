"""Norms of effective weights against the singular values of the explicit operators, in evaluation and in training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from iresnet_fast import nn
from iresnet_fast.geometry import ConvGeometry
from iresnet_fast.nn.spectral import effective_weights

from .tally import Tally

EVALUATION, TRAINING = 1e-4, 1e-3  # relative excess over coeff that the layers may have

Layer = nn.SpectralLinear | nn.SpectralConv2d

_CONVOLUTIONS = (
    ((3, 3, 3), {"padding": 1}),
    ((3, 8, 3), {"padding": 1}),
    ((4, 4, 3), {"padding": 1, "groups": 2}),
    ((4, 6, 3), {"stride": 2, "padding": 1}),
    ((2, 3, 3), {"dilation": 2, "padding": 2}),
    ((3, 2, 5), {"padding": 2}),
    ((2, 4, 2), {}),
)


def _random(layer: Layer) -> None:
    """Leave what the layer begins with."""


def _grown(layer: Layer) -> None:
    layer.weight.mul_(10.0 ** float(torch.empty(()).uniform_(-1.0, 2.0)))


def _gap(layer: Layer) -> None:
    """Two singular values near each other, relatively by 1e-1 to 1e-6, far above the rest."""
    if layer.weight.dim() == 2:
        u, s, v = torch.linalg.svd(layer.weight.double(), full_matrices=False)
        s = s / s[0]
        s[1:2] = 1.0 - 10.0 ** -float(torch.randint(1, 7, ()))
        layer.weight.copy_(3.0 * (u * s) @ v)


def _rank_one(layer: Layer) -> None:
    out, *rest = layer.weight.shape
    layer.weight.copy_((torch.randn(out, 1) * torch.randn(1, math.prod(rest))).view_as(layer.weight))


def _repeated(layer: Layer) -> None:
    """All singular values the same, for a matrix."""
    u, _, v = torch.linalg.svd(layer.weight.flatten(1).double(), full_matrices=False)
    layer.weight.copy_((2.0 * u @ v).view_as(layer.weight))


def _blocks(layer: Layer) -> None:
    """Two halves that never mix, the second larger than the first."""
    out, size = layer.weight.shape[:2]
    mask = torch.zeros_like(layer.weight)
    mask[: out // 2, : size // 2] = 1.0
    mask[out // 2 :, size // 2 :] = 5.0
    layer.weight.mul_(mask)


def _tiny(layer: Layer) -> None:
    layer.weight.mul_(1e-25)


def _huge(layer: Layer) -> None:
    layer.weight.mul_(1e15)


def _constant(layer: Layer) -> None:
    """Blurs: the singular values of a convolution with zero padding crowd below the first."""
    layer.weight.fill_(1.0)


CHANGES = (_random, _grown, _gap, _rank_one, _repeated, _blocks, _tiny, _huge, _constant)


def _no_hints(layer: Layer) -> None:
    """Leave the vectors."""


def _zero(layer: Layer) -> None:
    layer.u.zero_()
    layer.v.zero_()


def _not_finite(layer: Layer) -> None:
    layer.u.fill_(math.nan)
    layer.v.fill_(math.inf)


def _wrong(layer: Layer) -> None:
    """Vectors of the last singular value of a matrix."""
    if layer.weight.dim() == 2:
        u, _, v = torch.linalg.svd(layer.weight.double(), full_matrices=False)
        layer.u.copy_(u[:, -1])
        layer.v.copy_(v[-1])


HINTS = (_no_hints, _zero, _not_finite, _wrong)


def layers(count: int) -> Iterator[Layer]:
    """Yield layers of all kinds, new or loaded with vectors that mislead."""
    kinds = itertools.cycle(itertools.product((0, 1), CHANGES, HINTS, (torch.float32, torch.float64)))
    widths = torch.tensor([2, 3, 8, 17, 40, 64, 130, 200])
    for is_convolution, change, hint, dtype in itertools.islice(kinds, count):
        coeff = float(torch.tensor([0.5, 0.9, 0.97])[torch.randint(3, ())])
        if is_convolution:
            arguments, options = _CONVOLUTIONS[int(torch.randint(len(_CONVOLUTIONS), ()))]
            size = (int(torch.randint(4, 9, ())), int(torch.randint(4, 9, ())))
            layer: Layer = nn.SpectralConv2d(*arguments, **options, image_size=size, coeff=coeff, dtype=dtype)
        else:
            shape = widths[torch.randint(len(widths), (2,))].tolist()
            layer = nn.SpectralLinear(*shape, coeff=coeff, dtype=dtype)
        with torch.no_grad():
            change(layer)
            hint(layer)
        if hint is not _no_hints:
            layer.load_state_dict({**layer.state_dict(), "sigma": torch.ones((), dtype=dtype)})
        yield layer


def norm_of(weight: Tensor, place: ConvGeometry | None) -> float:
    """Return the largest singular value of the explicit operator."""
    if place is None:
        return float(torch.linalg.matrix_norm(weight.double().flatten(1), 2))
    size = weight.shape[1] * place.groups * math.prod(place.image_size)
    basis = torch.eye(size, dtype=torch.float64).view(size, -1, *place.image_size)
    rows = F.conv2d(basis, weight.double(), None, place.stride, place.padding, place.dilation, place.groups)
    return float(torch.linalg.matrix_norm(rows.flatten(1), 2))


def excess(layer: Layer, allowed: float) -> float:
    """Return the norm of the effective weight over what it may be."""
    (weight,) = effective_weights([layer])
    return norm_of(weight.detach(), layer.geometry) / (layer.coeff * (1.0 + allowed))


def evaluation(share: float = 1.0) -> Tally:
    """10,000 layers, and each again after its weight was written behind autograd's back."""
    torch.manual_seed(0)
    tally = Tally(f"effective norm <= coeff (1 + {EVALUATION:g}) in evaluation, fresh and adversarial layers")
    for layer in layers(round(5000 * share)):
        tally.add([excess(layer.eval(), EVALUATION)])
        layer.weight.data.mul_(3.0)
        tally.add([excess(layer, EVALUATION)])
    return tally


def first_step(share: float = 1.0) -> Tally:
    """10,000 layers when training first sees them, and after a step that moved all weights."""
    torch.manual_seed(1)
    tally = Tally(f"effective norm <= coeff (1 + {TRAINING:g}) in training, fresh and adversarial layers")
    for layer in layers(round(5000 * share)):
        tally.add([excess(layer.train(), TRAINING)])
        layer.weight.data.add_(0.3 * layer.weight.data.std() * torch.randn_like(layer.weight))
        tally.add([excess(layer, TRAINING)])
    return tally


def _dense() -> tuple[nn.ResidualBranch, tuple[int, ...]]:
    return nn.ResidualBranch.dense([64, 128, 128, 64]), (64,)


def _convolutional() -> tuple[nn.ResidualBranch, tuple[int, ...]]:
    return nn.ResidualBranch.conv([3, 3, 3, 3], [3, 3, 3], 8), (3, 8, 8)


def _mixed() -> tuple[nn.ResidualBranch, tuple[int, ...]]:
    return nn.ResidualBranch.conv([3, 8, 8, 3], [3, 1, 3], 8), (3, 8, 8)


_RUNS = ((_dense, 1e-3), (_dense, 1e-2), (_convolutional, 1e-2), (_convolutional, 5e-2), (_mixed, 2e-2))


def _run(make: Callable[[], tuple[nn.ResidualBranch, tuple[int, ...]]], rate: float, allowed: float) -> Iterator[float]:
    """Train a branch on linear maps that change, and yield how far its layers exceed at every step and at the end."""
    branch, shape = make()
    optimizer = torch.optim.Adam(branch.parameters(), rate)
    size = math.prod(shape)
    for step in range(120):
        if step % 40 == 0:
            target = 3.0 * torch.randn(size, size) / math.sqrt(size)
        x = torch.randn(32, *shape)
        loss = F.mse_loss(branch(x).flatten(1), torch.tanh(x.flatten(1) @ target))
        for layer in branch.layers:
            yield excess(layer, allowed)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def hot_training(share: float = 1.0) -> Tally:
    """Learning rates and targets under which power iteration that follows the weights loses the norm."""
    torch.manual_seed(2)
    tally = Tally(f"effective norm <= coeff (1 + {TRAINING:g}) at every step of hot trainings")
    for make, rate in itertools.islice(itertools.cycle(_RUNS), max(1, round(40 * share))):
        tally.add(list(_run(make, rate, TRAINING)))
    return tally


SUBJECTS = (evaluation, first_step, hot_training)
