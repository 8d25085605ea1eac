"""Linear maps for the tests of the spectral norm: a matrix and convolutions of every kind, on odd sizes."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from iresnet_fast.geometry import ConvGeometry


class Layers(NamedTuple):
    """The arguments of the spectral norm ops."""

    weights: list[Tensor]
    us: list[Tensor]
    vs: list[Tensor]
    geometry: list[ConvGeometry | None]


# Shape of the weight and where it acts.
LAYERS = {
    "one number": ((1, 1), None),
    "matrix": ((5, 7), None),
    "tall matrix": ((33, 3), None),
    "wide matrix": ((2, 105), None),
    "1x1 as a matrix": ((6, 4, 1, 1), None),
    "same": ((3, 2, 3, 3), ConvGeometry((5, 7), padding=(1, 1))),
    "same, 8 wide": ((2, 3, 5, 5), ConvGeometry((3, 8), padding=(2, 2))),
    "same, 16 wide": ((2, 1, 3, 3), ConvGeometry((2, 16), padding=(1, 1))),
    "same, 17 wide": ((1, 2, 3, 3), ConvGeometry((3, 17), padding=(1, 1))),
    "one pixel": ((2, 3, 3, 3), ConvGeometry((1, 1), padding=(1, 1))),
    "no padding": ((3, 2, 3, 3), ConvGeometry((5, 6))),
    "1x1 as a convolution": ((3, 4, 1, 1), ConvGeometry((3, 5))),
    "even kernel": ((3, 2, 2, 4), ConvGeometry((5, 6), padding=(1, 0))),
    "oblong kernel": ((2, 2, 3, 1), ConvGeometry((5, 4), padding=(1, 0))),
    "much padding": ((2, 2, 3, 3), ConvGeometry((3, 4), padding=(4, 3))),
    "stride": ((3, 2, 3, 3), ConvGeometry((7, 9), stride=(2, 2), padding=(1, 1))),
    "strides": ((4, 2, 3, 5), ConvGeometry((6, 8), stride=(3, 2), padding=(1, 2))),
    "stride beyond the kernel": ((3, 2, 2, 1), ConvGeometry((7, 8), stride=(3, 4))),
    "dilation": ((2, 2, 3, 3), ConvGeometry((7, 5), padding=(2, 2), dilation=(2, 2))),
    "dilations": ((2, 3, 3, 2), ConvGeometry((7, 6), stride=(1, 2), padding=(1, 0), dilation=(2, 3))),
    "groups": ((4, 2, 3, 3), ConvGeometry((5, 4), padding=(1, 1), groups=2)),
    "depthwise": ((6, 1, 3, 3), ConvGeometry((4, 5), stride=(2, 1), padding=(1, 1), groups=3)),
    "everything": ((6, 2, 3, 2), ConvGeometry((9, 7), (2, 1), (1, 2), (2, 3), 3)),
}


def make_layers(names, dtype=torch.float64, device="cpu"):
    """Return the layers of these names; every dtype and device gets the same numbers, which float32 holds exactly."""
    layers = Layers([], [], [], [])
    for name in names:
        shape, place = LAYERS[name]
        generator = torch.Generator().manual_seed(len(name))
        image_u, image_v = ((), ()) if place is None else (place.output_size(shape[2:]), place.image_size)
        in_channels = shape[1] * (1 if place is None else place.groups)
        for tensors, size in (
            (layers.weights, shape),
            (layers.us, (shape[0], *image_u)),
            (layers.vs, (in_channels, *image_v)),
        ):
            tensor = torch.randn(size, generator=generator)
            tensor = tensor if tensors is layers.weights else tensor / tensor.norm()
            tensors.append(tensor.to(device, dtype))
        layers.geometry.append(place)
    return layers


def operator_matrix(weight: Tensor, place: ConvGeometry | None) -> Tensor:
    """Return the linear map of a layer as a matrix."""
    if place is None:
        return weight.flatten(1)
    size = weight.shape[1] * place.groups * math.prod(place.image_size)
    basis = torch.eye(size, dtype=weight.dtype).view(size, -1, *place.image_size)
    columns = F.conv2d(basis, weight, None, place.stride, place.padding, place.dilation, place.groups)
    return columns.flatten(1).t()
