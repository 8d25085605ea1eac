"""Calls by number: the same number is the same call."""

import random
import struct

import torch
import torch.nn.functional as F

from iresnet_fast import certify, nn, ops
from iresnet_fast.geometry import ConvGeometry

from .arguments import COUNTS, KERNELS, SIZES, branch, layers, spoil, spoilt, tensor

RAW = torch.ops.iresnet_fast


def call_of(seed, index):
    """Return the name of a call, a function that makes it, and whether it may raise, must, or must not."""
    r = random.Random(f"{seed} {index}")
    return r.choice(KINDS)(r)


def raw_norm(r):
    """A raw op on the layers of a model; what their geometries allow is known from torch's own convolution."""
    weights, us, vs, numbers = layers(r)
    must_raise = not all(
        possible(weight, u, v, numbers[10 * i : 10 * i + 10])
        for i, (weight, u, v) in enumerate(zip(weights, us, vs, strict=True))
    )
    sigmas, coeffs = (torch.full((len(weights),), value, dtype=weights[0].dtype) for value in (1.5, 0.9))
    companions = [min(u, v, key=torch.Tensor.numel) for u, v in zip(us, vs, strict=True)]
    seed = torch.tensor([r.randrange(100)])
    name, arguments = r.choice(
        [
            ("spectral_norm", [weights, us, vs, numbers, r.choice([0, 1, 3]), r.choice([-1.0, 1e-3])]),
            ("lanczos_norm", [weights, us, vs, companions, seed, numbers, r.choice([1, 3, 20]), 1e-3]),
            ("spectral_normalize", [weights, sigmas, coeffs]),
            ("spectral_normalize_backward", [weights, weights, us, vs, sigmas, coeffs, numbers, r.random() < 0.8]),
            ("fingerprint", [weights]),
        ]
    )
    if numbers not in arguments:
        must_raise = False
    if r.random() < 0.4:
        spoil(r, arguments, COUNTS)
        must_raise = False
    return name, lambda: getattr(RAW, name)(*arguments), "must raise" if must_raise else "may"


def possible(weight, u, v, numbers):
    """Whether there is such a convolution, or matrix, with outputs and inputs like u and v."""
    h, w, sh, sw, ph, pw, dh, dw, groups, channels = numbers
    if h == 0:
        return weight.dim() == 2 and tuple(weight.shape) == (u.numel(), v.numel()) and channels == v.numel()
    if min(h, w, sh, sw, dh, dw, groups) < 1 or min(ph, pw, channels) < 0 or channels * h * w != v.numel():
        return False
    if channels == 0:  # a layer without numbers, which torch has not
        return True
    try:
        image = torch.empty(1, channels, h, w, device="meta")
        output = F.conv2d(image, weight.to("meta", torch.float32), None, (sh, sw), (ph, pw), (dh, dw), groups)
    except (RuntimeError, TypeError, OverflowError):
        return False
    return output.numel() == u.numel()


def raw_branch(r):
    """A raw op on a branch."""
    x, stages = branch(r)
    probes, terms = r.choice([1, 2]), r.choice([1, 4])
    probe, grad = tensor(r, probes, *x.shape, dtype=x.dtype), tensor(r, *x.shape, dtype=x.dtype)
    coefficients = tensor(r, *r.choice([(terms,), (x.shape[0], terms)]), dtype=x.dtype)
    tail = r.choice([None, tensor(r, terms, dtype=x.dtype)])
    keep = probes == 1 and tail is None and r.random() < 0.5
    pairs = r.choice([[probe, probe, tensor(r, x.shape[0], dtype=x.dtype)], [None, None, None]])
    residual, wanted = r.random() < 0.5, r.random() < 0.5
    name, rest = r.choice(
        [
            ("branch", []),
            ("branch_backward", [grad, *pairs, [], [], None, residual, wanted, r.choice([None, grad])]),
            ("residual_logdet", [probe, coefficients, [], [], tail, 1e-3, residual, wanted, keep]),
            ("jacobian_powers", [grad, r.choice([0, 1, 3]), residual]),
            ("jacobian", []),
            ("residual_logdet_exact", [wanted]),
            (
                "residual_logdet_exact_backward",
                [grad, tensor(r, x.shape[0], dtype=x.dtype), wanted, r.choice([None, grad])],
            ),
            ("residual_inverse", [1e-6, r.choice([0, 5, 100]), 0.5, residual]),
        ]
    )
    if "exact" in name and x[:1].numel() > 64:
        name, rest = "jacobian", []  # elimination of many large matrices takes long
    arguments = [x, *stages, *rest, *([] if "exact" in name else [0])]
    spoils = r.choice([0, 1, 1, 2, 3])
    for _ in range(spoils):
        spoil(r, arguments, (*COUNTS, 2**62) if name == "jacobian_powers" else SIZES)
    return name, lambda: getattr(RAW, name)(*arguments), "may" if spoils else "must not raise"


def raw_flow(r):
    """The raw op of a flow, with its backward pass: a block between what may stand between blocks."""
    x, (*tensors_of_stages, ids, constants) = branch(r)
    channels, d, n = x.shape[1], x[0].numel(), len(ids)
    program, tensors, draws = [], [], []
    kinds = ["normalize", "rearrange", "none", "series", *(["exact"] if d <= 64 else [])]  # whose cost is that of d^3
    for kind in r.choices(kinds, k=r.choice([0, 1, 2, 4])):
        if kind == "normalize":
            program += [0]
            tensors += [tensor(r, channels, dtype=x.dtype), tensor(r, channels, dtype=x.dtype)]
        elif kind == "rearrange":
            program += [1, x.dim() - 1, *x.shape[1:]]
            tensors.append(torch.tensor(r.sample(range(d), d)))
        else:
            program += [2, ["none", "series", "exact"].index(kind), 0, n, *ids]
            program += struct.unpack(f"{n}q", struct.pack(f"{n}d", *constants))
            program += [0]  # no exact terms
            tensors += [t for tensors_of_kind in tensors_of_stages for t in tensors_of_kind]
            if kind == "series":
                draws += [tensor(r, *r.choice([(), (1,), (2,)]), *x.shape, dtype=x.dtype)]
                draws += [tensor(r, *r.choice([(3,), (x.shape[0], 3)]), dtype=x.dtype)]
    arguments = [x, tensors, draws, program]
    grads = [r.choice([None, x]), r.choice([None, tensor(r, x.shape[0], dtype=x.dtype)])]
    keep, spoils, behind = r.random() < 0.5, r.choice([0, 1, 1, 2, 3]), r.random() < 0.3
    for _ in range(0 if behind else spoils):
        spoil(r, arguments, SIZES)

    def call():
        z, logdet, saved, kept = RAW.residual_flow(*arguments, True, keep)
        backward = [arguments[0], z, *arguments[1:], saved, kept, *grads, True]
        for _ in range(spoils if behind else 0):
            spoil(r, backward, SIZES)
        return z, logdet, *RAW.residual_flow_backward(*backward)

    return "residual_flow", call, "may" if spoils else "must not raise"


def public_branch(r):
    """A public op on a branch, with a backward pass."""
    x, (weights, *lists, ids, _) = branch(r)
    biases, parameters, factors = ([t if t.numel() else None for t in tensors] for tensors in lists)
    arguments = [x.requires_grad_(), weights, biases, [KERNELS[i].name for i in ids]]
    name, rest = r.choice(
        [
            ("branch", []),
            ("residual_logdet", [tensor(r, *x.shape, dtype=x.dtype), [1.0, 1.0, 1.0]]),
            ("residual_logdet_exact", []),
            ("residual_inverse", [0.5, 1e-4, r.choice([0, 10, 100])]),
        ]
    )
    if name == "residual_logdet_exact" and x[0].numel() > 64:
        name = "branch"  # an LU factorisation of torch with MKL may hang on two threads from about 140 rows on
    arguments += rest
    spoils = r.choice([0, 1, 1, 2])
    for _ in range(spoils):
        spoil(r, arguments)

    def call():
        outputs = getattr(ops, name)(*arguments, parameters=parameters, factors=factors)
        first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        if first.requires_grad:
            first.sum().backward()
        return outputs

    return f"ops.{name}", call, "may" if spoils else "must not raise"


def public_norm(r):
    """A public op on layers, a bound of a norm, or a layer."""
    weights, us, vs, numbers = layers(r)
    places = [numbers[10 * i : 10 * i + 9] for i in range(len(weights))]
    shape_of = [(u, v) for u, v in zip(us, vs, strict=True)]
    name = r.choice(["spectral_norm", "lanczos_norm", "spectral_normalize", "norm_bounds", "SpectralConv2d"])
    spoils, steps = r.choice([0, 0, 1, 2]), r.choice([1, 3])
    sigmas = torch.ones(len(weights), dtype=weights[0].dtype)

    def call():
        geometry = [None if h == 0 else ConvGeometry((h, w), *pairs(rest)) for h, w, *rest in places]
        shaped = [
            [
                vector.view(-1, *size) if place else vector
                for vector, size in zip(both, sizes_of(weight, place), strict=True)
            ]
            for both, weight, place in zip(shape_of, weights, geometry, strict=True)
        ]
        first, second = [u for u, _ in shaped], [v for _, v in shaped]
        arguments = {
            "spectral_norm": [weights, first, second, geometry, steps],
            "lanczos_norm": [weights, first, second, [min(p, key=torch.Tensor.numel) for p in shaped], geometry, steps],
            "spectral_normalize": [[w.requires_grad_() for w in weights], sigmas, first, second, geometry, 0.9],
            "norm_bounds": [weights[0], geometry[0]],
            "SpectralConv2d": [*weights[0].shape[1::-1], 3, *places[0][2:9:2]],
        }[name]
        for _ in range(spoils):
            spoil(r, arguments, COUNTS)
        if name == "SpectralConv2d":
            return nn.SpectralConv2d(*arguments)(torch.ones(2, max(1, weights[0].shape[1]), 5, 4))
        if name == "norm_bounds":
            return certify.norm_bounds(*arguments)
        outputs = getattr(ops, name)(*arguments)
        if name == "spectral_normalize":
            sum(w.sum() for w in outputs).backward()
        return outputs

    return f"public {name}", call, "may"


def pairs(rest):
    """Return stride, padding, dilation and groups."""
    sh, sw, ph, pw, dh, dw, groups = rest
    return (sh, sw), (ph, pw), (dh, dw), groups


def sizes_of(weight, place):
    """Return the image sizes of u and v."""
    return (place.output_size(weight.shape[2:]), place.image_size) if place else ((), ())


def geometry(r):
    """A geometry of anything."""
    numbers = [(4, 5), (1, 2), (0, 1), (1, 1), 2]
    for _ in range(2):
        i = r.randrange(5)
        numbers[i] = spoilt(r, numbers[i])
    return "ConvGeometry", lambda: ConvGeometry(*numbers), "may"


KINDS = (
    raw_norm,
    raw_norm,
    raw_norm,
    raw_branch,
    raw_branch,
    raw_branch,
    raw_flow,
    raw_flow,
    public_branch,
    public_norm,
    geometry,
)
