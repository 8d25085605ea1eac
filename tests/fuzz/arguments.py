"""Good arguments of an op, from a random number generator, and ways of spoiling one."""

import itertools
import math

import torch

from iresnet_fast import activations as registry

SIZES = (
    -(2**63),
    -(2**31),
    -7,
    -1,
    0,
    1,
    2,
    3,
    5,
    8,
    17,
    100_000,
    2**31 - 1,
    2**31,
    2**32,
    2**32 + 1,
    2**62,
    2**63 - 1,
)
COUNTS = (-(2**63), -(2**31), -1, 0, 1, 3, 17)  # of what an op does as often as it is told
FLOATS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 0.5, 1.0, 1e308)
HOSTILE_NUMBERS = (math.nan, math.inf, -math.inf, 1e38, -1e38, 0.0, 1e-40)
LARGEST = 1 << 16  # elements of a tensor, so that a call under the sanitizers takes no longer than a moment
LARGEST_LAYER = 1 << 12
ENTRIES = [*registry.REGISTRY.values(), registry.get("sin(3)")]
KERNELS = {entry.kernel_id: entry for entry in ENTRIES if entry.kernel_id is not None}


def tensor(r, *shape, dtype=torch.float32):
    """Return numbers of size 0.3; a shape too large is cut down."""
    shape = [max(0, min(int(n), LARGEST)) for n in shape]
    while math.prod(shape) > LARGEST:
        shape[max(range(len(shape)), key=shape.__getitem__)] //= 2
    generator = torch.Generator().manual_seed(r.randrange(2**31))
    return 0.3 * torch.randn(shape, generator=generator, dtype=dtype)


def branch(r):
    """Return x, and weights, biases, betas, factors, ids and constants of a branch, dense or convolutional."""
    dtype = r.choice([torch.float32, torch.float64])
    image = r.random() < 0.5
    widths = [r.choice([1, 2, 3, 8, 17])] + [r.choice([1, 4, 5, 16]) for _ in range(r.choice([0, 1, 2]))]
    widths.append(widths[0])
    batch = r.choice([1, 2, 7, 33])
    event = (r.choice([1, 3, 4, 8]), r.choice([1, 4, 5])) if image else ()
    x = tensor(r, batch, widths[0], *event, dtype=dtype)
    weights, biases, betas, factors, entries = [], [], [], [], []
    for fan_in, fan_out in itertools.pairwise(widths):
        kernel = (r.choice([1, 3, 5]),) * 2 if image else ()
        weights.append(tensor(r, fan_out, fan_in, *kernel, dtype=dtype) / (fan_in * math.prod(kernel)))
        shape = r.choice([(fan_out,)] * 4 + [(0,)] * 2 + [(batch, fan_out), (batch, fan_out, *event)])
        biases.append(tensor(r, *shape, dtype=dtype))
        shape = r.choice([(0,)] * 4 + [(batch, fan_in), (batch, fan_in, *event)])
        factors.append(tensor(r, *shape, dtype=dtype))
        entries.append(r.choice(list(KERNELS.values())))
        betas.append(tensor(r, *((1,) if entries[-1].has_parameter else (0,)), dtype=dtype))
    return x, (
        weights,
        biases,
        betas,
        factors,
        [entry.kernel_id for entry in entries],
        [entry.constant for entry in entries],
    )


def layers(r):
    """Return weights, us, vs and the ten numbers of each geometry, many of them with one or two that are spoilt.

    The vectors have the sizes that the kernels compute from those numbers, in 32 bits, so that only a check of the
    numbers themselves can refuse them.
    """
    dtype = r.choice([torch.float32, torch.float64])
    weights, us, vs, numbers = [], [], [], []
    for _ in range(r.choice([1, 1, 2, 3])):
        out, per_group, groups = r.choice([1, 2, 4]), r.choice([1, 2, 5]), r.choice([1, 1, 2])
        kernel = [r.choice([1, 2, 3]), r.choice([1, 2, 3])]
        out *= groups
        geometry = [r.choice([3, 4, 7]), r.choice([3, 5]), *(r.choice([1, 2]) for _ in range(2))]
        geometry += [r.choice([0, 1]), r.choice([0, 1]), 1, 1, groups, per_group * groups]
        if r.random() < 0.3:
            geometry = [0, 0, 1, 1, 0, 0, 1, 1, 1, per_group]
        for _ in range(r.choice([0, 0, 1, 1, 2])):
            geometry[r.randrange(10)] = r.choice(SIZES)
        h, w, sh, sw, ph, pw, dh, dw, g, channels = (wrap(n) for n in geometry)
        if h == 0:
            weights.append(tensor(r, out, channels, dtype=dtype))
            u_size, v_size = out, channels
        else:
            weights.append(tensor(r, out, int(channels / g) if g else 1, *kernel, dtype=dtype))
            sizes = [
                int((n + 2 * p - d * (k - 1) - 1) / s) + 1 if s else 1
                for n, p, d, k, s in zip((h, w), (ph, pw), (dh, dw), kernel, (sh, sw), strict=True)
            ]
            u_size, v_size = wrap(out * sizes[0] * sizes[1]), wrap(channels * h * w)
        us.append(tensor(r, min(u_size, LARGEST_LAYER), dtype=dtype))
        vs.append(tensor(r, min(v_size, LARGEST_LAYER), dtype=dtype))
        numbers += geometry
    return weights, us, vs, numbers


def wrap(number):
    """Return what is left of a number in 32 bits."""
    return (number + 2**31) % 2**32 - 2**31


def spoil(r, arguments, numbers=SIZES):
    """Spoil one argument of a list, in place; an integer becomes one of `numbers`."""
    place = r.randrange(len(arguments))
    is_number = isinstance(arguments[place], int) and not isinstance(arguments[place], bool)
    arguments[place] = r.choice(numbers) if is_number else spoilt(r, arguments[place])


def spoilt(r, value):
    """Return something of the same kind that does not fit, or may not."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return r.choice(SIZES)
    if isinstance(value, float):
        return r.choice(FLOATS)
    if isinstance(value, torch.Tensor):
        return spoilt_tensor(r, value)
    if isinstance(value, (list, tuple)):
        value = list(value)
        way = r.randrange(4)
        if way == 0 or not value:
            return []
        if way == 1:
            return value[:-1]
        if way == 2:
            return [*value, r.choice(value)]
        spoil(r, value)
        return value
    return None


def spoilt_tensor(r, value):
    """Return a tensor of another shape, dtype, layout or device, or with hostile numbers."""
    ways = (
        lambda: value.new_zeros(()),
        lambda: value.new_zeros(0),
        lambda: value.flatten(),
        lambda: value[None],
        lambda: value.transpose(0, -1) if value.dim() else value[None],
        lambda: value.new_zeros([n + r.choice([-1, 0, 1]) if n else n for n in value.shape]),
        lambda: value.new_zeros([*value.shape[:-1], 0]),
        lambda: value.new_zeros([*value.shape[:-2], 0, r.choice([2**31, 2**62 + 1, 5])]),
        lambda: value.new_zeros([r.choice([2**31, 2**62]), 0, *value.shape[1:]]),
        lambda: value.new_zeros(1).expand(r.choice([5, 2**31, 2**40]), *value.shape[1:]),
        lambda: value.to(r.choice([torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64])),
        lambda: value.double() if value.dtype == torch.float32 else value.float(),
        lambda: value.to_sparse(),
        lambda: value.to("meta"),
        lambda: value.repeat_interleave(2, -1)[..., ::2] if value.dim() else value,
        lambda: torch.full_like(value, r.choice(HOSTILE_NUMBERS)),
        lambda: value.where(torch.rand_like(value) < 0.9, r.choice(HOSTILE_NUMBERS)),
    )
    try:
        return r.choice(ways)()
    except (RuntimeError, IndexError, TypeError):  # that way is none for this tensor
        return value.new_zeros(0)
