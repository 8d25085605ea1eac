"""A branch in float64 whose products round their operands to bfloat16 where the CPU kernels round them.

Without the instructions nothing is rounded, here or in the kernels.
"""

import itertools
from typing import NamedTuple

import torch
from torch.nn import functional as F

from iresnet_fast import _library, activations


def rounded(x):
    return x.float().bfloat16().to(x.dtype)


class Shape(NamedTuple):
    """The sizes of a branch."""

    channels: tuple[int, ...]  # before each stage and after the last
    kernels: tuple[int, ...] = ()  # one per stage; empty: dense
    image: tuple[int, ...] = ()
    batch: int = 5

    @property
    def event(self):
        return self.channels[0], *self.image

    @property
    def weights(self):
        kernels = [(k, k) for k in self.kernels] or [()] * (len(self.channels) - 1)
        return [(o, i, *k) for (i, o), k in zip(itertools.pairwise(self.channels), kernels, strict=True)]


class Twin:
    """A branch in float64 whose products round their operands where the kernels round them."""

    def __init__(self, shape, weights, biases, names):
        self.shape, self.weights, self.biases = shape, [w.double() for w in weights], [b.double() for b in biases]
        self.activations = [activations.get(name) for name in names]

    def _operands(self, pays, *tensors):
        return [rounded(t) for t in tensors] if pays and _library.cpu_bf16() else tensors

    def _product_pays(self, rows, channels, weight):  # csrc/cpu/product_bf16.h
        taps = weight[0, 0].numel()
        return channels > 1 and rows * taps >= 16 and channels * taps >= 6

    def _contraction_pays(self, weight):  # csrc/cpu/contract_bf16.h
        rows, channels = weight.shape[:2]
        columns = 32 if self.shape.image else self.shape.batch  # of a tile; those of an image are always many
        return weight.numel() >= 12 * (rows + channels) and columns > 16

    def product(self, i, h, function=torch.Tensor.double):
        """A_i h, of the operands as `function` returns them."""
        w = self.weights[i]
        h, w = map(function, self._operands(self._product_pays(w.shape[0], w.shape[1], w), h, w))
        return F.conv2d(h, w, padding=w.shape[-1] // 2) if self.shape.image else h @ w.T

    def transposed(self, i, r, function=torch.Tensor.double):
        """A_i^T r."""
        w = self.weights[i]
        r, w = map(function, self._operands(self._product_pays(w.shape[1], w.shape[0], w), r, w))
        return F.conv_transpose2d(r, w, padding=w.shape[-1] // 2) if self.shape.image else r @ w

    def contraction(self, i, pairs, function=torch.Tensor.double):
        """The gradient of weight i: the sum over pairs a, b, samples and pixels of a_m b_c."""
        w, total = self.weights[i], 0.0
        for pair in pairs:
            a, b = map(function, self._operands(self._contraction_pays(w), *pair))
            total += (
                torch.nn.grad.conv2d_weight(b, w.shape, a, padding=w.shape[-1] // 2) if self.shape.image else a.T @ b
            )
        return total

    def bias(self, i):
        return self.biases[i].view(-1, *[1] * len(self.shape.image))

    def forward(self, x):
        """Return g(x), and h, D and E of each stage."""
        stages = []
        for i, activation in enumerate(self.activations):
            x = x.detach().requires_grad_()
            h = activation.value(x, None)
            (d,) = torch.autograd.grad(h.sum(), x, create_graph=True)
            e = torch.autograd.grad(d.sum(), x)[0] if d.requires_grad else torch.zeros_like(x)
            stages.append([t.detach() for t in (h, d, e)])
            x = self.product(i, h.detach()) + self.bias(i)
        return x.detach(), stages

    def jvp(self, stages, v):
        """Return J v and D_i t_i, t_i of each stage."""
        tangents = []
        for i, (_, d, _) in enumerate(stages):
            tangents.append((d * v, v))
            v = self.product(i, d * v)
        return v, tangents

    def vjp(self, stages, r):
        for i, (_, d, _) in reversed(list(enumerate(stages))):
            r = d * self.transposed(i, r)
        return r

    def step(self, x, probe, terms, grad_z, grad_logdet):
        """Return z, logdet, the gradients of <grad_z, z> + <grad_logdet, logdet> and the pairs of each contraction."""
        g, stages = self.forward(x)
        per_sample = grad_logdet.view(-1, *[1] * (x.dim() - 1))
        jv, tangents = self.jvp(stages, probe)
        w, y, logdet = probe, probe, 0.0
        for k in range(1, terms + 1):
            # A training step computes J v, so its last term is <w_{n-1}, J v>.
            dot = (w * jv).flatten(1).sum(1) if k == terms else None
            w = self.vjp(stages, w) if k < terms else w
            dot = (w * probe).flatten(1).sum(1) if dot is None else dot
            logdet = logdet - (-1) ** k * dot / k
            y = y + (-1) ** k * w if k < terms else y
        r, s, pairs, grad_biases = y * per_sample, grad_z, [], []
        for i, (h, d, e) in reversed(list(enumerate(stages))):
            pairs.insert(0, ((s, h), (r, tangents[i][0])))
            grad_biases.insert(0, s.flatten(2).sum((0, 2)) if s.dim() == 4 else s.sum(0))
            through = e * tangents[i][1] * self.transposed(i, r)
            r, s = d * self.transposed(i, r), d * self.transposed(i, s) + through
        grad_weights = [self.contraction(i, pair) for i, pair in enumerate(pairs)]
        return x + g, logdet, s + grad_z, grad_weights, grad_biases, pairs
