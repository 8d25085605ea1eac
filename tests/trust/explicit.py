"""Small branches whose linear maps and Jacobians are known as matrices: what their bounds are compared with."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from iresnet_fast import activations as registry
from iresnet_fast.reference.branch import evaluate

# |phi''| <= 1 for all of these; relu is left out where rounding could move an input over its kink.
SMOOTH = ("elu", "softplus", "tanh", "sin", "lipswish")
KERNELS = ("relu", *SMOOTH)


class Branch(NamedTuple):
    """A branch, float64, with numbers that float32 holds exactly."""

    event: tuple[int, ...]
    weights: list[Tensor]
    biases: list[Tensor]
    activations: list[str]
    lipschitz: float  # the product of the norms of its linear maps; its activations have slope at most 1
    matrices: list[Tensor]  # of its linear maps

    def stages(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[str]]:
        """Return what the ops take."""
        return [w.to(dtype) for w in self.weights], [b.to(dtype) for b in self.biases], self.activations

    def rounding(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return a bound on |J computed in dtype - J| / L, per sample.

        A product of length m is off by at most m eps |A| |h|, absolute values of the entries, so by m eps a |h| with a
        the norm of |A|; bias and activation add at most eps |b| and 4 eps each. These errors reach phi' with |phi''| at
        most 1, and each phi' and each product with A adds its own to the Jacobian.
        """
        eps = torch.finfo(dtype).eps
        hidden, off, total = x, torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
        for weight, bias, name, matrix in zip(*self.stages(torch.float64), self.matrices, strict=True):
            spread = matrix.shape[1] * float(torch.linalg.matrix_norm(matrix.abs(), 2))
            norm = float(torch.linalg.matrix_norm(matrix, 2))
            h = registry.get(name).value(hidden)
            size = h.flatten(1).norm(dim=1)
            # Relative to L: phi' <= 1 is off by `off`, and A by its product's error over its norm.
            total += off + eps * (4.0 + spread / norm)
            image = math.prod(self.event[1:]) if weight.dim() == 4 else 1
            off = norm * (off + 4.0 * eps * size) + eps * (spread * size + 2.0 * math.sqrt(image) * float(bias.norm()))
            hidden = evaluate(hidden, [weight], [bias], [name])
        return total


def random_branch(generator: torch.Generator, event: tuple[int, ...], lipschitz: float, smooth: bool) -> Branch:
    """Return a branch of one to three maps of known norm: full, of rank one, or with equal singular values."""

    def pick(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    hidden = [pick(8) + 1 if len(event) == 1 else pick(3) + 1 for _ in range(pick(3))]
    names = SMOOTH if smooth else KERNELS
    widths = [event[0], *hidden, event[0]]
    weights, matrices = [], []
    for rows, columns in zip(widths[1:], widths[:-1], strict=True):
        if len(event) == 1:
            weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
            kind = pick(4)
            if kind == 0:
                weight = weight[:, :1] @ weight[:1]
            if kind == 1:
                u, _, vh = torch.linalg.svd(weight, full_matrices=False)
                weight = u @ vh
        else:
            weight = torch.randn(rows, columns, *[2 * pick(2) + 1] * 2, generator=generator, dtype=torch.float64)
        matrix = _matrix(weight, (columns, *event[1:]))
        scale = lipschitz ** (1.0 / (len(widths) - 1)) / float(torch.linalg.matrix_norm(matrix, 2))
        weight = (scale * weight).float().double()
        weights.append(weight)
        matrices.append(_matrix(weight, (columns, *event[1:])))
    biases = [torch.randn(rows, generator=generator).double() for rows in widths[1:]]
    activations = ["identity" if i == 0 and pick(2) else names[pick(len(names))] for i in range(len(weights))]
    product = math.prod(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in matrices)
    return Branch(event, weights, biases, activations, product, matrices)


def worst_branch(event: tuple[int, ...], lipschitz: float) -> Branch:
    """Return the branch g(x) = -L x, for which every bound on what a series leaves out is attained."""
    lipschitz = float(torch.tensor(lipschitz, dtype=torch.float32))
    weight = -lipschitz * torch.eye(event[0], dtype=torch.float64)
    weight = weight if len(event) == 1 else weight[:, :, None, None]
    bias = torch.zeros(event[0], dtype=torch.float64)
    return Branch(event, [weight], [bias], ["identity"], lipschitz, [_matrix(weight, event)])


def symmetric_branch(generator: torch.Generator, event: tuple[int, ...], lipschitz: float) -> Branch:
    """Return a branch x -> A^T lipswish(A x + b) + c: its log-determinants are far from 0."""
    shape = (2 * event[0], event[0], *[3] * (len(event) - 1 and 2))
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    weight = (weight * lipschitz**0.5 / torch.linalg.matrix_norm(_matrix(weight, event), 2)).float().double()
    transposed = weight.transpose(0, 1).flip(tuple(range(2, weight.dim()))).contiguous()
    biases = [torch.randn(n, generator=generator).double() for n in (2 * event[0], event[0])]
    matrices = [_matrix(weight, event), _matrix(transposed, (2 * event[0], *event[1:]))]
    product = math.prod(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in matrices)
    return Branch(event, [weight, transposed], biases, ["identity", "lipswish"], product, matrices)


def jacobian(branch: Branch, x: Tensor, create_graph: bool = False) -> Tensor:
    """Return dg/dx [B, d, d] of float64 samples, by automatic differentiation of the plain branch."""
    return _jacobian(lambda a: evaluate(a, branch.weights, branch.biases, branch.activations), x, create_graph)


def _matrix(weight: Tensor, event: tuple[int, ...]) -> Tensor:
    if weight.dim() == 2:
        return weight
    return _jacobian(lambda a: evaluate(a, [weight], [None], ["identity"]), weight.new_zeros(1, *event))[0]


def _jacobian(function, x: Tensor, create_graph: bool = False) -> Tensor:
    """Return the Jacobians of a function that acts on each sample by itself: one sample for each of its outputs."""
    with torch.enable_grad():
        out = function(x[:1].detach())[0].numel()
        copies = x.repeat_interleave(out, 0)
        if not copies.requires_grad:
            copies.requires_grad_()
        z = function(copies)
        seeds = torch.eye(out, dtype=x.dtype).repeat(len(x), 1).view(z.shape)
        rows = torch.autograd.grad(z, copies, seeds, create_graph=create_graph)[0]
    return rows.reshape(len(x), out, -1)
