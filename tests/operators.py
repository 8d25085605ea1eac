"""Linear maps written out by torch's own convolution, and weights of every difficult kind, for the tests of bounds."""

import random

import torch
import torch.nn.functional as F

from iresnet_fast.geometry import ConvGeometry


def written_out(weight, geometry=None, padding_mode="zeros"):
    """The matrix of a linear map in float64."""
    weight = weight.double()
    if geometry is None:
        return weight.flatten(1)
    channels, padding = weight.shape[1] * geometry.groups, geometry.padding
    height, width = geometry.image_size
    basis = torch.eye(channels * height * width, dtype=torch.float64).view(-1, channels, height, width)
    if padding_mode == "circular":
        rows, columns = (torch.arange(-p, n + p) % n for n, p in zip((height, width), padding, strict=True))
        basis, padding = basis[:, :, rows][..., columns], (0, 0)
    return F.conv2d(basis, weight, None, geometry.stride, padding, geometry.dilation, geometry.groups).flatten(1).mT


def largest_singular_value(matrix):
    """That of LAPACK, by way of numbers near 1, since it squares them."""
    scale = matrix.abs().amax().clamp(min=1e-300)
    return float(torch.linalg.svdvals(matrix / scale)[0]) * float(scale)


def random_convolution(rng, largest=8):
    """A weight, its geometry and a padding mode, of any stride, dilation, padding, groups and image."""
    while True:
        groups = rng.choice((1, 1, 2, 3))
        shape = (groups * rng.randint(1, 4), rng.randint(1, 4), rng.choice((1, 2, 3, 5)), rng.choice((1, 2, 3, 5)))
        image = (rng.randint(1, largest), rng.randint(1, largest))
        padding = (min(rng.randint(0, 4), image[0]), min(rng.randint(0, 4), image[1]))
        stride, dilation = ((rng.randint(1, 3), rng.randint(1, 3)) for _ in range(2))
        geometry = ConvGeometry(image, stride, padding, dilation, groups)
        if min(geometry.output_size(shape[2:])) >= 1:
            return torch.randn(shape, dtype=torch.float64), geometry, rng.choice(("zeros", "circular"))


def matrix_with(singular_values, rows, columns):
    """A matrix [rows, columns] with these singular values, at most min(rows, columns) of them."""
    count = len(singular_values)
    left = torch.linalg.qr(torch.randn(rows, count, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, count, dtype=torch.float64))[0]
    return (left * torch.as_tensor(singular_values, dtype=torch.float64)) @ right.mT


def adversarial_matrix(rng):
    """A matrix of a kind that power iteration, rounding or the range of float64 is bad at."""
    rows, columns = rng.randint(1, 40), rng.randint(1, 40)
    count = min(rows, columns)
    kind = rng.choice(("gap", "rank one", "repeated", "blocks", "one entry", "sparse", "graded", "ones", "plain"))
    if kind == "gap":
        weight = matrix_with([1.0] + [1.0 - 10.0 ** -rng.randint(1, 8)] * (count - 1), rows, columns)
    elif kind == "rank one":
        weight = torch.randn(rows, 1, dtype=torch.float64) @ torch.randn(1, columns, dtype=torch.float64)
    elif kind == "repeated":
        weight = matrix_with([1.0] * count, rows, columns)
    elif kind == "graded":
        weight = matrix_with([10.0 ** (-20.0 * i / count) for i in range(count)], rows, columns)
    elif kind == "ones":
        weight = torch.full((rows, columns), rng.choice((1.0, -1.0, 0.1)), dtype=torch.float64)
    else:
        weight = torch.randn(rows, columns, dtype=torch.float64)
    if kind == "blocks":
        weight[: rows // 2, columns // 2 :] = 0.0
        weight[rows // 2 :, : columns // 2] = 0.0
    if kind == "one entry":
        weight = torch.zeros_like(weight)
        weight[rng.randrange(rows), rng.randrange(columns)] = 1.0
    if kind == "sparse":
        weight *= torch.rand_like(weight) < 0.1
    weight = weight * 10.0 ** rng.choice((-30, -3, 0, 0, 0, 3, 30))
    return weight.to(rng.choice((torch.float32, torch.float64)))


def seeded(seed):
    """A generator of Python's for shapes; torch's is seeded with it."""
    torch.manual_seed(seed)
    return random.Random(seed)
