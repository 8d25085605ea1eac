"""The raw ops of csrc/library.cpp on emulated kernels: same arguments after the emulator, tensors in, tensors out.

    z, value, neumann, norms, terms = operands.residual_logdet(emulator, x, weights, ..., card="t4")

`variant` calls another function with the same operands, whose results are in the layout of one probe after the other.
`card` is a name of csrc/cuda/device/card.h; precision 0: full, 1: TF32, 2: bf16.
"""

import ctypes
from ctypes import Structure, c_int, c_int64, c_size_t, c_void_p, pointer

import torch

from .emulator import Buffer
from .structs import SCALARS, STAGES, Branch, NormLayer, Target, Trace, struct_of


def branch(
    emulator, x, weights, biases, betas, factors, activations, constants, residual=False, variant="branch", **target
):
    g = x.new_empty(len(x), len(weights[-1]), *x.shape[2:])
    if g.numel():
        plain = {"residual": residual}
        _call(
            emulator,
            variant,
            (x, weights, biases, betas, factors, activations, constants),
            target,
            {"x": x},
            {"g": g},
            plain,
        )
    return g


def branch_backward(
    emulator, x, weights, biases, betas, factors, activations, constants,
    grad, tangents, cotangents, weight, residual, input_gradient,
    kept=None, maps=(), stages=(), coefficients=None, **target,
):  # fmt: skip
    grad_x = torch.empty_like(x) if input_gradient else x.new_empty(0)
    grad_parameters = x.new_zeros(sum(t.numel() for t in (*weights, *biases, *betas, *factors, *maps)))
    if x.numel():
        pairs = 0 if tangents is None else len(tangents)
        given = {"x": x, "grad": grad, "tangents": tangents, "cotangents": cotangents, "weight": weight, "kept": kept}
        given |= {f"map {i}": t for i, t in enumerate(maps)}
        made = {"grad_x": grad_x if input_gradient else None, "grad_parameters": grad_parameters}
        plain = {"pairs": pairs, "residual": residual, "kept_size": 0 if kept is None else kept.numel()}
        if maps:
            given["coefficients"] = coefficients
            plain |= _traces(maps, stages, coefficients)
        _call(
            emulator,
            "branch_backward",
            (x, weights, biases, betas, factors, activations, constants),
            target,
            given,
            made,
            plain,
        )
    return grad_x, grad_parameters


def residual_logdet(
    emulator, x, weights, biases, betas, factors, activations, constants,
    probe, coefficients, tail, tolerance, relative, neumann,
    keep=False, variant="residual_logdet", maps=(), stages=(), **target,
):  # fmt: skip
    z, y = torch.empty_like(x), torch.empty_like(probe) if neumann else x.new_empty(0)
    value = x.new_zeros(len(x) if variant == "residual_logdet" else probe.shape[:2])
    norms, terms_used = x.new_zeros(probe.shape[:2]), torch.zeros(probe.shape[:2], dtype=torch.int64)
    kept = x.new_empty(0)
    if x.numel():
        plain = {"probes": len(probe), "terms": coefficients.shape[-1], "per_sample": coefficients.dim() == 2}
        plain |= {"tolerance": tolerance, "relative": relative}
        given = {"x": x, "probe": probe, "coefficients": coefficients, "tail": tail}
        given |= {f"map {i}": t for i, t in enumerate(maps)}
        made = {"z": z, "value": value, "neumann": y if neumann else None, "norms": norms, "terms_used": terms_used}
        if keep:
            made["kept"] = kept = _kept(
                emulator, (x, weights, biases, betas, factors, activations, constants), target, plain
            )
        if maps:
            plain |= _traces(maps, stages, coefficients)
        _call(
            emulator, variant, (x, weights, biases, betas, factors, activations, constants), target, given, made, plain
        )
    return (z, value, y, norms, terms_used, *((kept,) if keep else ()))


def _traces(maps, stages, coefficients):
    """Return the fields of the exact traces, and what must live as long as they do."""
    pairs = zip(maps, stages[::2], stages[1::2], strict=True)
    array = (Trace * len(maps))(
        *(
            Trace(left, right, t.shape[-1] if right >= 0 and t.dim() == 4 else 1, t.data_ptr(), t.numel())
            for t, left, right in pairs
        )
    )
    return {
        "trace_count": len(maps),
        "trace": ctypes.addressof(array),
        "lives": array,
        "trace_coefficients": coefficients.data_ptr(),
        "trace_terms": coefficients.shape[-1],
        "trace_per_sample": coefficients.dim() == 2,
    }


def _kept(emulator, branch_arguments, target, plain):
    """Return room for what a training step keeps, at an address such as torch's allocator gives."""
    name, scalar = SCALARS[branch_arguments[0].dtype]
    struct, size = _branch(*branch_arguments), c_int64()
    operands = struct_of("residual_logdet", scalar)(**plain)
    emulator.call(f"residual_logdet_kept_{name}", pointer(struct), pointer(operands), _target(target), pointer(size))
    memory = branch_arguments[0].new_empty(size.value + 256)
    first = -memory.data_ptr() % 256 // memory.element_size()
    return memory[first : first + size.value]


def jacobian_powers(
    emulator,
    x,
    weights,
    biases,
    betas,
    factors,
    activations,
    constants,
    start,
    count,
    transpose,
    variant="jacobian_powers",
    **target,
):
    powers = x.new_empty(count, *x.shape)
    if powers.numel():
        given, plain = {"x": x, "start": start}, {"count": count, "transpose": transpose}
        arguments = x, weights, biases, betas, factors, activations, constants
        _call(emulator, variant, arguments, target, given, {"powers": powers}, plain)
    return powers


def jacobian(emulator, x, weights, biases, betas, factors, activations, constants, variant="jacobian", **target):
    size = x[0].numel() if len(x) else 0
    result = x.new_empty(len(x), size, size)
    if result.numel():
        _call(
            emulator,
            variant,
            (x, weights, biases, betas, factors, activations, constants),
            target,
            {"x": x},
            {"jacobian": result},
        )
    return result


def residual_inverse(
    emulator, z, weights, biases, betas, factors, activations, constants,
    residual_limit, max_iterations, captured_iterations,
    lipschitz=0.0, variant="residual_inverse", **target,
):  # fmt: skip
    x, residual = torch.empty_like(z), z.new_zeros(len(z))
    iterations = torch.zeros(len(z), dtype=torch.int64)
    if z.numel():
        plain = {"residual_limit": residual_limit, "max_iterations": max_iterations}
        plain |= {"captured_iterations": captured_iterations, "lipschitz": lipschitz}
        made = {"x": x, "iterations": iterations, "residual": residual}
        _call(
            emulator,
            variant,
            (z, weights, biases, betas, factors, activations, constants),
            target,
            {"z": z},
            made,
            plain,
        )
    return x, iterations, residual


def _sizes(x):
    return {"batch": len(x), "channels": x.shape[1], "pixels": x[0, 0].numel()}


def actnorm(emulator, x, bias, log_scale, **target):
    z, logdet = torch.empty_like(x), x.new_empty(len(x))
    given = {"x": x, "bias": bias, "log_scale": log_scale}
    _invoke(emulator, "actnorm", [], x.dtype, target, given, {"z": z, "logdet": logdet}, _sizes(x))
    return z, logdet


def actnorm_backward(emulator, z, log_scale, grad, weight, input_gradient, **target):
    grad_bias, grad_log_scale = torch.empty_like(log_scale), torch.empty_like(log_scale)
    grad_x = torch.empty_like(z) if input_gradient else None
    given = {"z": z, "log_scale": log_scale, "grad": grad, "weight": weight}
    made = {"grad_x": grad_x, "grad_bias": grad_bias, "grad_log_scale": grad_log_scale}
    _invoke(emulator, "actnorm_backward", [], z.dtype, target, given, made, _sizes(z))
    return grad_x, grad_bias, grad_log_scale


def rearrange(emulator, x, index, transpose, **target):
    z = torch.empty_like(x)
    plain = {"batch": len(x), "event_size": x.shape[1], "transpose": transpose}
    _invoke(emulator, "rearrange", [], x.dtype, target, {"x": x, "index": index}, {"z": z}, plain)
    return z


def sum_rows(emulator, values, **target):
    total = values.new_empty(values.shape[1])
    plain = {"rows": len(values), "columns": values.shape[1]}
    _invoke(emulator, "sum_rows", [], values.dtype, target, {"values": values}, {"sum": total}, plain)
    return total


def spectral_norm(emulator, weights, us, vs, geometry, max_iterations, tolerance, **target):
    sigma, iterations = weights[0].new_empty(len(weights)), torch.empty(len(weights), dtype=torch.int64)
    packed = weights[0].new_empty(sum(t.numel() for t in (*us, *vs)))
    pieces = _pieces(packed, [*us, *vs])
    plain = {"layers": len(weights), "max_iterations": max_iterations, "tolerance": tolerance}
    plain |= {"u": pieces[: len(us)], "v": pieces[len(us) :]}
    made = {"sigma": sigma, "iterations": iterations, "packed u and v": packed}
    _call_layers(emulator, "spectral_norm", (weights, us, vs, geometry), target, {}, made, plain)
    return sigma, iterations, packed


def lanczos_norm(emulator, weights, us, vs, companions, seed, geometry, max_iterations, tolerance, **target):
    norms, iterations = weights[0].new_empty(2, len(weights)), torch.empty(len(weights), dtype=torch.int64)
    packed = weights[0].new_empty(sum(t.numel() for t in (*us, *vs, *companions)))
    pieces, n = _pieces(packed, [*us, *vs, *companions]), len(weights)
    plain = {"layers": n, "max_iterations": max_iterations, "tolerance": tolerance}
    plain |= {"u": pieces[:n], "v": pieces[n : 2 * n], "companion": pieces[2 * n :]}
    plain["companion_hint"] = [t.data_ptr() for t in companions]
    given = {"seed": seed} | {f"companion hint {i}": t for i, t in enumerate(companions)}
    made = {"sigma": norms[0], "residual": norms[1], "iterations": iterations, "packed u, v and companions": packed}
    _call_layers(emulator, "lanczos_norm", (weights, us, vs, geometry), target, given, made, plain)
    return norms, iterations, packed


class Fingerprint(Structure):
    _fields_ = (("layers", c_int), *((name, c_void_p) for name in ("weight", "bytes", "result")))


def fingerprint(emulator, weights, card="h100"):
    result = torch.empty(len(weights), dtype=torch.int64)
    addresses = (c_void_p * len(weights))(*map(_address, weights))
    sizes = (c_int64 * len(weights))(*(t.numel() * t.element_size() for t in weights))
    struct = Fingerprint(len(weights), ctypes.addressof(addresses), ctypes.addressof(sizes), result.data_ptr())
    buffers = [Buffer(f"weight {i}", t, False) for i, t in enumerate(weights) if t.numel()]
    buffers.append(Buffer("result", result, True))
    emulator.call("fingerprint", pointer(struct), _target({"card": card}), buffers=buffers)
    return result


def spectral_normalize(emulator, weights, sigmas, coeffs, **target):
    packed = weights[0].new_empty(sum(t.numel() for t in weights))
    plain = {"layers": len(weights), "grad": None, "through_sigma": False, "result": _pieces(packed, weights)}
    given, made = {"sigma": sigmas, "coeff": coeffs}, {"packed weights": packed}
    _call_layers(emulator, "spectral_normalize", (weights, None, None, None), target, given, made, plain)
    return packed


def spectral_normalize_backward(emulator, grads, weights, us, vs, sigmas, coeffs, geometry, through_sigma, **target):
    packed = weights[0].new_empty(sum(t.numel() for t in weights))
    plain = {"layers": len(weights), "through_sigma": through_sigma, "result": _pieces(packed, weights)}
    plain["grad"] = [t.data_ptr() for t in grads]
    given = {"sigma": sigmas, "coeff": coeffs} | {f"grad {i}": t for i, t in enumerate(grads)}
    made = {"packed gradients": packed}
    _call_layers(emulator, "spectral_normalize_backward", (weights, us, vs, geometry), target, given, made, plain)
    return packed


def _call(emulator, op, branch_arguments, target, given, made, plain=None):
    _, weights, biases, betas, factors, _, _ = branch_arguments
    lists = {"weight": weights, "bias": biases, "beta": betas, "factor": factors}
    given = given | {f"{name} {i}": t for name, tensors in lists.items() for i, t in enumerate(tensors)}
    struct = _branch(*branch_arguments)
    _invoke(emulator, op, [pointer(struct)], branch_arguments[0].dtype, target, given, made, plain or {})


def _branch(x, weights, biases, betas, factors, activations, constants):
    kind = STAGES[x.dtype]
    stages = [
        kind(
            activation,
            w.shape[1],
            w.shape[0],
            w.shape[2] if w.dim() == 4 else 1,
            *map(_address, (w, bias, beta, factor)),
            constant,
            _spread(bias),
            _spread(factor),
        )
        for w, bias, beta, factor, activation, constant in zip(
            weights, biases, betas, factors, activations, constants, strict=True
        )
    ]
    height, width = x.shape[2:] if x.dim() == 4 else (0, 0)
    array = (kind * len(stages))(*stages)
    result = Branch(len(stages), ctypes.addressof(array), height, width, len(x))
    result.array = array  # which lives as long
    return result


def _spread(tensor):
    """Return how a bias or factor is spread over the batch, as params.h counts it."""
    return 0 if tensor is None else {1: 0, 2: 1, 4: 2}[tensor.dim()]


def _call_layers(emulator, op, layer_arguments, target, given, made, plain):
    weights, us, vs, geometry = layer_arguments
    given = given | {f"weight {i}": t for i, t in enumerate(weights)}
    layers = []
    for i, w in enumerate(weights):
        if geometry is None:  # only the weight and its size matter
            layers.append(NormLayer(len(w), w.numel() // max(len(w), 1), weight=_address(w)))
            continue
        given |= {f"u {i}": us[i], f"v {i}": vs[i]}
        numbers = geometry[10 * i : 10 * i + 10]
        kernel = w.shape[2:] if numbers[0] else (1, 1)
        layers.append(
            NormLayer(len(w), numbers[9], *numbers[:2], *kernel, *numbers[2:9], *map(_address, (w, us[i], vs[i])))
        )
    plain = plain | {"layer": ctypes.addressof(array := (NormLayer * len(layers))(*layers))}
    _invoke(emulator, op, [], weights[0].dtype, target, given, made, plain)
    del array


def _invoke(emulator, op, leading, dtype, target, given, made, plain):
    name, scalar = SCALARS[dtype]
    buffers = [Buffer(n, t, n in made) for n, t in (given | made).items() if t is not None and t.numel()]
    assert all(b.tensor.dtype in (dtype, torch.int64) for b in buffers)
    values = {n: _address(t) for n, t in (given | made).items()} | plain
    arrays = {n: (c_void_p * len(v))(*v) for n, v in values.items() if isinstance(v, list)}
    values |= {n: ctypes.addressof(array) for n, array in arrays.items()}
    struct = struct_of(op.removeprefix("layered_"), scalar)
    operands = struct(**{n: value for n, value in values.items() if hasattr(struct, n)})
    size = c_size_t(ctypes.sizeof(operands))
    emulator.call(f"{op}_{name}", *leading, pointer(operands), size, _target(target), buffers=buffers)


def _target(target):
    return Target(target.get("card", "h100").encode(), target.get("precision", 0))


def _address(tensor):
    return None if tensor is None or tensor.numel() == 0 else tensor.data_ptr()


def _pieces(packed, tensors):
    """Return the address of each of `tensors` packed one after the other."""
    offsets = [0]
    for tensor in tensors:
        offsets.append(offsets[-1] + tensor.numel() * packed.element_size())
    return [packed.data_ptr() + offset for offset in offsets[:-1]]
