"""The 60 shapes of bench_sweep.py, and problems of them."""

from __future__ import annotations

import numpy as np
import torch
from cases import Case, Problem, layers_of

TERMS = 5

# Widths of a dense branch: batches.
_DENSE: dict[tuple[int, ...], tuple[int, ...]] = {
    (2, 128, 128, 2): (1, 32, 1000, 4096),
    (16, 64, 64, 16): (8, 256, 4096),
    (64, 128, 128, 64): (1, 16, 128, 1024, 4096),
    (64, 512, 512, 64): (4, 64, 512),
    (256, 256, 256, 256): (1, 8, 64, 512, 2048),
    (512, 512, 512, 512): (1, 8, 32, 256),
    (1024, 1024, 1024, 1024): (1, 2, 4, 8, 32, 128),
}
# Channels, channels within, kernels, side of the image: batches.
_CONV: dict[tuple[int, int, tuple[int, int, int], int], tuple[int, ...]] = {
    (3, 16, (3, 1, 3), 64): (1, 8),
    (4, 32, (3, 3, 3), 28): (16,),
    (4, 32, (3, 1, 3), 14): (1, 16, 128),
    (12, 64, (3, 1, 3), 16): (4, 32),
    (12, 128, (3, 1, 3), 16): (1, 8, 32),
    (12, 128, (3, 3, 3), 16): (8,),
    (12, 512, (3, 1, 3), 16): (1, 4),
    (48, 128, (3, 1, 3), 8): (1, 16, 64),
    (48, 512, (3, 1, 3), 8): (1, 4, 16),
    (48, 512, (3, 3, 3), 8): (4,),
    (64, 64, (3, 3, 3), 8): (1, 32),
    (128, 128, (3, 3, 3), 8): (8,),
    (192, 512, (3, 1, 3), 4): (1, 16, 64),
    (192, 512, (3, 3, 3), 4): (16,),
    (256, 256, (3, 3, 3), 4): (4, 32),
}


def _events(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def _shapes() -> list[Case]:
    shapes = []
    for widths, batches in _DENSE.items():
        name = "-".join(map(str, widths))
        for batch in batches:
            shapes.append(Case(f"{name} x{batch}", lambda n, _, d=widths[0]: _events(n, d), widths, None, None, batch,
                               TERMS))  # fmt: skip
    for (channels, inner, kernels, side), batches in _CONV.items():
        widths = (channels, inner, inner, channels)
        name = f"{channels}x{side}x{side} {'-'.join(map(str, kernels))} of {inner}"
        for batch in batches:
            shapes.append(Case(f"{name} x{batch}", lambda n, _, e=(channels, side, side): _events(n, *e), widths,
                               kernels, (side, side), batch, TERMS))  # fmt: skip
    return shapes


SHAPES = {shape.name: shape for shape in _shapes()}
# Those on which the compiled baseline runs by default: a compilation takes ten seconds or more.
COMPILED = tuple(SHAPES)[::4]
QUICK = ("64-128-128-64 x128", "1024-1024-1024-1024 x4", "192x4x4 3-1-3 of 512 x1")


def problem_of(shape: Case) -> Problem:
    """Return the tensors of a shape, weights as torch initialises them: no time depends on their norms."""
    x = torch.from_numpy(shape.events(shape.batch, np.random.default_rng(0))).float()
    layers = layers_of(shape)
    generator = torch.Generator().manual_seed(0)
    return Problem(
        x=x,
        weights=[layer.weight.detach() for layer in layers],
        biases=[layer.bias.detach() for layer in layers if layer.bias is not None],
        activations=["identity"] + ["elu"] * (len(shape.widths) - 2),
        probe=torch.randint(0, 2, x.shape, generator=generator).float() * 2.0 - 1.0,
        coefficients=torch.ones(shape.terms),
        grad_z=torch.randn(x.shape, generator=generator),
        grad_logdet=torch.rand(len(x), generator=generator) + 0.5,
    )


def products_of(shape: Case) -> float:
    """Return the multiply-adds of one evaluation of the branch: the size of a shape."""
    area = 1 if shape.image is None else shape.image[0] * shape.image[1]
    kernels = shape.kernels or (1,) * (len(shape.widths) - 1)
    pairs = zip(shape.widths[:-1], shape.widths[1:], kernels, strict=True)
    return float(shape.batch * area * sum(i * o * k * k for i, o, k in pairs))
