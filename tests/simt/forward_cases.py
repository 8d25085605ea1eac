"""Forward walks and inverses for the emulated resident kernels; the reference is the oracle."""

from typing import NamedTuple

import torch

from iresnet_fast.activations import get
from iresnet_fast.reference import residual_inverse as reference_inverse
from iresnet_fast.reference.branch import linearize

from .resident import FLOOR_EPS, ROUNDING, Choice, ForwardCase, Shape, branch_struct, call, pack_rows, pack_weight

ACTIVATIONS = ("identity", "relu", "elu", "softplus", "tanh", "sin", "lipswish")


class Network(NamedTuple):
    """A branch in float64 that dtype can hold."""

    shape: Shape
    activations: tuple[str, ...]
    weights: list
    biases: list
    betas: list
    x: torch.Tensor
    factors: list | None = None

    def cast(self, dtype):
        cast = lambda tensors: [None if t is None else t.to(dtype) for t in tensors]  # noqa: E731
        lists = {name: cast(getattr(self, name) or []) for name in ("weights", "biases", "betas", "factors")}
        return self._replace(**lists, x=self.x.to(dtype))

    @property
    def arguments(self):
        return self.weights, self.biases, self.activations, self.betas, self.factors or None


def random_network(shape, activations=None, dtype=torch.float32, seed=0, scale=0.7):
    """A contraction; the middle biases are there, the first is not."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    weights = []
    for w in shape.random_weights(generator):
        matrix = w.flatten(1) if w.dim() == 2 else w.abs().sum((2, 3))  # |convolution| <= |its taps summed|
        weights.append(scale * w / torch.linalg.matrix_norm(matrix, 2))
    count = len(weights)
    activations = activations or tuple(ACTIVATIONS[(3 + i + seed) % len(ACTIVATIONS)] for i in range(count))
    biases = [0.5 * draw(len(w)) if i or count == 1 else None for i, w in enumerate(weights)]
    betas = [draw(()) if get(a).has_parameter else None for a in activations]
    x = draw(shape.batch, *shape.event)
    return Network(shape, activations, weights, biases, betas, x).cast(dtype).cast(torch.float64)


def of_samples(network, dtype, seed=1):
    """Give every sample biases and factors of its own: by sample, and for images in turn by pixel."""
    generator, shape = torch.Generator().manual_seed(seed), network.shape

    def draw(i, channels):
        size = (shape.batch, channels, *(shape.image if i % 2 else ()))
        return torch.randn(size, generator=generator, dtype=torch.float64)

    biases = [draw(i, len(w)) for i, w in enumerate(network.weights)]
    factors = [draw(i + 1, w.shape[1]).tanh() for i, w in enumerate(network.weights)]
    return network._replace(biases=biases, factors=factors).cast(dtype).cast(torch.float64)


def _case(network, dtype, choice, precision):
    plain = network.cast(dtype)
    weights = [pack_weight(w.contiguous(), False, precision) for w in plain.weights]
    case = ForwardCase(choice or Choice())
    for i, w in enumerate(weights):
        case.weights[i] = w.data_ptr()
    entries = [get(a) for a in network.activations]
    ids, constants = [entry.kernel_id for entry in entries], [entry.constant for entry in entries]
    branch = branch_struct(network.shape, ids, plain.weights, plain.biases, plain.betas, plain.factors, constants)
    lists = {"packed": weights, "bias": plain.biases, "beta": plain.betas, "factor": plain.factors}
    given = {f"{name} {i}": t for name, tensors in lists.items() for i, t in enumerate(tensors)}
    return case, branch, plain, given


def run_forward(emulator, network, dtype, residual=True, derivatives=True, choice=None, card="h100", precision=0):
    """g, z (or None), rows of D (None for an identity), and the plan in words."""
    case, branch, plain, given = _case(network, dtype, choice, precision)
    shape = network.shape
    g = torch.empty(shape.batch, shape.channels[-1], *shape.image, dtype=dtype)
    z = torch.empty_like(plain.x) if residual else None
    rows = [
        torch.empty_like(pack_rows(torch.empty(shape.batch, C, *shape.image, dtype=dtype), precision))
        if derivatives and (a != "identity" or network.factors)
        else None
        for C, a in zip(shape.channels[:-1], network.activations, strict=True)
    ]
    for i, d in enumerate(rows):
        case.derivatives[i] = None if d is None else d.data_ptr()
    case.x, case.g, case.z = plain.x.data_ptr(), g.data_ptr(), z.data_ptr() if residual else None
    made = {"g": g, "z": z} | {f"derivative {i}": d for i, d in enumerate(rows)}
    text = call(emulator, "resident_forward", case, branch, dtype, given | {"x": plain.x}, made, card, precision)
    return (g, z, rows), text


def forward_oracle(network, dtype, precision=0):
    plain = network.cast(dtype)
    g, derivatives = linearize(plain.x, *plain.arguments)
    return (
        g,
        plain.x + g if g.shape == plain.x.shape else None,
        [None if d is None else pack_rows(d, precision) for d in derivatives],
    )


def run_inverse(
    emulator, network, dtype, residual_limit, max_iterations, choice=None, card="h100", precision=0, lipschitz=0.0
):
    """x, iterations, residual and the plan in words; network.x is z."""
    case, branch, plain, given = _case(network, dtype, choice, precision)
    batch = network.shape.batch
    x, iterations = torch.empty_like(plain.x), torch.empty(batch, dtype=torch.int64)
    residual = torch.empty(batch, dtype=dtype)
    case.inverse, case.residual_limit, case.max_iterations = 1, residual_limit, max_iterations
    case.lipschitz = lipschitz
    case.x, case.solution = plain.x.data_ptr(), x.data_ptr()
    case.iterations, case.residual = iterations.data_ptr(), residual.data_ptr()
    made = {"x": x, "iterations": iterations, "residual": residual}
    text = call(emulator, "resident_forward", case, branch, dtype, given | {"z": plain.x}, made, card, precision)
    return (x, iterations, residual), text


def inverse_oracle(network, dtype, lipschitz, tol, max_iterations, accelerate=False):
    plain = network.cast(dtype)
    arguments = plain.weights, plain.biases, plain.activations
    return reference_inverse(plain.x, *arguments, lipschitz=lipschitz, tol=tol, max_iterations=max_iterations,
                             parameters=plain.betas, accelerate=accelerate, factors=plain.factors or None)  # fmt: skip


def assert_close(got, same_dtype, exact, products, precision=0):
    """err <= 2 err(same dtype) + floor for tensors and lists of them; on tensor cores, a few roundings a product."""
    for a, same, oracle in zip(_flat(got), _flat(same_dtype), _flat(exact), strict=True):
        error, yardstick = ((t.double() - oracle).abs().max().item() for t in (a, same))
        size = max(1.0, oracle.abs().max().item())
        limit = 2 * yardstick + FLOOR_EPS[a.dtype] * torch.finfo(a.dtype).eps * size
        limit += 4 * products * ROUNDING[precision] * size
        assert error <= limit, f"{tuple(a.shape)}: error {error:.2e}, limit {limit:.2e}, reference {yardstick:.2e}"


def _flat(tensors):
    for t in tensors:
        if isinstance(t, torch.Tensor):
            yield t
        elif t is not None:
            yield from _flat(t)
