"""What the tests of the Lanczos iteration share: adversarial linear maps, and how the op is called."""

import torch
from layers import make_layers
from torch import Tensor

from iresnet_fast import ops


def rotation(size: int, seed: int) -> Tensor:
    """Return a random orthogonal matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]


def with_singular_values(values: Tensor, rows: int, seed: int = 0) -> Tensor:
    """Return a random matrix [rows, len(values)], rows >= len(values), with these singular values."""
    size = len(values)
    return rotation(rows, seed)[:, :size] * values @ rotation(size, seed + 1).t()


def gap(relative: float, size: int = 60) -> Tensor:
    """Return a matrix whose two largest singular values are 1 and 1 - relative, the others below 0.9."""
    values = torch.linspace(0.9, 0.0, size, dtype=torch.float64)
    values[0], values[1] = 1.0, 1.0 - relative
    return with_singular_values(values, size)


def adversarial() -> dict[str, Tensor]:
    """Return matrices that are hard for an iteration, each of norm 1."""
    size = 40
    one = torch.ones(1, dtype=torch.float64)
    rest = torch.linspace(0.8, 0.0, size - 1, dtype=torch.float64)
    ranks = {
        "rank one": torch.cat((one, 0.0 * rest)),
        "twice the largest": torch.cat((one, one, rest[1:])),
        "orthogonal": torch.ones(size, dtype=torch.float64),
        "half the identity, half zero": torch.cat((torch.ones(20), torch.zeros(20))).double(),
    }
    cases = {name: with_singular_values(values, size + 3) for name, values in ranks.items()}
    blocks = torch.block_diag(0.5 * gap(0.1, 20), gap(0.1, 20))
    return cases | {f"gap of {g:g}": gap(g) for g in (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)} | {"two blocks": blocks}


def companions_of(layers):
    """A companion on the side of the shorter vector, as random as the other hints."""
    shorter = [v if v.numel() <= u.numel() else u for u, v in zip(layers.us, layers.vs, strict=True)]
    return [t.flip(0) + 0.5 * t for t in shorter]


def arguments(names, dtype=torch.float64):
    layers = make_layers(names, dtype)
    return [*layers[:3], companions_of(layers), layers.geometry]


def of_matrix(matrix, u=None, v=None, companion=None, **options):
    """The norm of one matrix, from zeros where nothing is given."""
    u = matrix.new_zeros(len(matrix)) if u is None else u
    v = matrix.new_zeros(matrix.shape[1]) if v is None else v
    companion = torch.zeros_like(v if v.numel() <= u.numel() else u) if companion is None else companion
    return ops.lanczos_norm([matrix], [u], [v], [companion], [None], **options)


def tensors(result):
    return [result.sigmas, result.residuals, *result.us, *result.vs, *result.companions, result.iterations]
