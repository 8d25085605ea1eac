"""Layers for the kernels of the spectral norm, larger than those of tests/layers.py: they leave shared memory."""

import torch
from layers import LAYERS, Layers, make_layers

from iresnet_fast.geometry import ConvGeometry

# What a T4 (64 KB) cannot hold: weights, then the vectors too. An H100 (227 KB) holds most of it in float32.
LARGE = {
    "below a lane": ((31, 33), None),
    "above a lane": ((33, 32), None),
    "ragged": ((130, 67), None),
    "full rows": ((70, 128), None),
    "streamed": ((256, 200), None),
    "streamed, ragged": ((173, 131), None),
    "streamed, narrow": ((700, 32), None),
    "wider than a warp's registers": ((6, 601), None),
    "wide and streamed": ((30, 1100), None),
    "long v": ((2, 17000), None),
    "long u": ((17001, 4), None),
    "packed weights": ((20, 12, 3, 3), ConvGeometry((4, 9), padding=(1, 1))),
    "streamed weights": ((64, 40, 3, 3), ConvGeometry((2, 3), padding=(1, 1))),
    "streamed weights of groups": ((96, 20, 3, 3), ConvGeometry((3, 4), stride=(2, 1), groups=3)),
    "many pixels": ((33, 1, 3, 3), ConvGeometry((22, 23), padding=(2, 2), dilation=(2, 2))),
    "strided pixels": ((3, 2, 3, 2), ConvGeometry((83, 101), stride=(2, 3), padding=(0, 1))),
    "a line": ((1, 1, 1, 3), ConvGeometry((1, 17000), padding=(0, 1))),
}


def named_layers(names, dtype):
    """Return the arguments of the spectral norm ops; every dtype gets the same numbers."""
    small = make_layers([name for name in names if name in LAYERS], dtype)
    large = Layers([], [], [], [])
    for name in names:
        if name in LARGE:
            shape, place = LARGE[name]
            generator = torch.Generator().manual_seed(len(name))
            u_shape = (shape[0], *(() if place is None else place.output_size(shape[2:])))
            v_shape = (shape[1] if place is None else shape[1] * place.groups, *(() if place is None else place[0]))
            vectors = [torch.randn(s, generator=generator) for s in (u_shape, v_shape)]
            for tensors, tensor in zip(
                large, (torch.randn(shape, generator=generator), *(t / t.norm() for t in vectors)), strict=False
            ):
                tensors.append(tensor.to(dtype))
            large.geometry.append(place)
    return Layers(*(a + b for a, b in zip(small, large, strict=True)))
