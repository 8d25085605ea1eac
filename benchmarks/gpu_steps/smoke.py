"""Every raw op, on every way of running it, in every precision: its error, and whether a second call gives its bits.

The oracle is the same op on the CPU kernels in float64, whose tests compare them with the plain-torch twins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from step import Run, first_line
from torch import Tensor

from iresnet_fast.ops.spectral_norm import flat_geometry

IDENTITY, ELU = 0, 2
PRECISIONS = {"float32": 0, "tf32": 1, "bf16": 2, "float64": 0}
# Widths, kernel sizes, image, batch. Wide images fit no block: they run layer by layer. Every op takes the fastest
# precision that is at least as exact as asked for, and small branches are fastest in full precision: only the large
# ones run on tensor cores.
BRANCHES: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, int] | None, int]] = {
    "resident dense": ((2, 128, 128, 2), (1, 1, 1), None, 37),
    "resident image": ((4, 32, 32, 4), (3, 1, 3), (14, 14), 3),
    "layered": ((12, 520, 12), (3, 3), (8, 8), 2),
    "resident dense, large": ((2, 128, 128, 2), (1, 1, 1), None, 4000),
    "resident image, large": ((12, 64, 64, 12), (3, 1, 3), (7, 7), 64),
    "layered, large": ((12, 512, 512, 12), (3, 1, 3), (16, 16), 16),
}
# Of the large ones: a whole Jacobian would take too long on the CPU, which computes what is compared with.
LARGE_OPS = ("branch", "branch_backward", "residual_logdet", "training step")

Branch = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[int]]


def main() -> None:
    """Run every op."""
    run = Run("smoke")
    run.need_kernels()
    torch.utils.deterministic.fill_uninitialized_memory = True  # results start as NaN: what is not written is seen
    torch.use_deterministic_algorithms(True, warn_only=True)
    for way, sizes in BRANCHES.items():
        if run.dry and way != "resident dense":
            continue  # a CPU has one way
        ops = branch_ops(branch(*sizes))
        if way.endswith("large"):
            ops = {op: ops[op] for op in LARGE_OPS}
        exact = {op: call(torch.Tensor.double, 0) for op, call in ops.items()}
        for precision, number in PRECISIONS.items():
            for op, call in ops.items():
                place = placement(run, precision)
                record(run, op, way, precision, exact[op], lambda call=call, p=place, n=number: call(p, n))
    for op, layer_call in layer_ops().items():
        exact_layers = layer_call(torch.Tensor.double)
        for precision in ("float32", "float64"):
            place = placement(run, precision)
            record(run, op, "one launch", precision, exact_layers, lambda call=layer_call, p=place: call(p))


def placement(run: Run, precision: str) -> Callable[[Tensor], Tensor]:
    """Return where tensors go, and as what numbers."""
    return lambda t: t.to(run.device, torch.float64 if precision == "float64" else torch.float32)


def record(run: Run, op: str, way: str, precision: str, exact: list[Tensor], call: Callable[[], list[Tensor]]) -> None:
    """Call an op twice, and record what it differs by from the exact result and from itself."""
    try:
        first, second = call(), call()
        error = max(relative(a, b) for a, b in zip(first, exact, strict=True))
        same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        run.record("errors", op=op, way=way, precision=precision, error=error, same_bits=same)
    except Exception as failure:  # whatever it is, the other ops are of interest
        run.record("errors", op=op, way=way, precision=precision, failed=first_line(failure))


def relative(got: Tensor, exact: Tensor) -> float:
    """Return the largest error over the largest entry; NaN counts as infinite."""
    error = (got.double().cpu() - exact).abs().max() / exact.abs().max().clamp_min(1e-30)
    return float(error.nan_to_num(float("inf")))


def branch(widths: tuple[int, ...], kernels: tuple[int, ...], image: tuple[int, int] | None, batch: int) -> Branch:
    """Return a contraction and its events, in float32 on the CPU."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights = []
    for inputs, outputs, kernel in zip(widths[:-1], widths[1:], kernels, strict=True):
        taps = (kernel, kernel) if image else ()
        weights.append(normal(outputs, inputs, *taps) / (2.0 * (max(inputs, outputs) * kernel**2) ** 0.5))
    none = [torch.empty(0)] * len(weights)
    x = normal(batch, widths[0], *(image or ()))
    return x, weights, [normal(len(w)) for w in weights], none, [IDENTITY] + [ELU] * (len(weights) - 1)


def branch_ops(given: Branch) -> dict[str, Callable[[Any, int], list[Tensor]]]:
    """Return the ops on a branch: called with where tensors go and the precision, they return what they compute."""
    raw, (x, weights, biases, none, activations) = torch.ops.iresnet_fast, given
    generator = torch.Generator().manual_seed(1)
    probe, grad, cotangent = (torch.randn(1, *x.shape, generator=generator) for _ in range(3))
    few = slice(0, 2)

    def placed(place: Any, events: Tensor = x) -> list[Any]:
        lists = ([place(t) for t in tensors] for tensors in (weights, biases, none, none))
        return [place(events), *lists, activations, [0.0] * len(activations)]

    def logdet(place: Any, precision: int) -> list[Tensor]:
        series = (place(torch.ones(5)), [], [], None, 0.0, False, True, False, precision)
        return list(raw.residual_logdet(*placed(place), place(probe), *series)[:3])

    def backward(place: Any, precision: int) -> list[Tensor]:
        pairs = [place(t) for t in (grad[0], probe, cotangent, x.flatten(1)[:, 0].contiguous())]
        return list(raw.branch_backward(*placed(place), *pairs, [], [], None, True, True, None, precision))

    def step(place: Any, precision: int) -> list[Tensor]:
        series = (place(torch.ones(5)), [], [], None, 0.0, False, True, True, precision)
        z, value, y, _, _, kept = raw.residual_logdet(*placed(place), place(probe), *series)
        pairs = [place(grad[0]), place(probe), y, place(x.flatten(1)[:, 0].contiguous())]
        backward = raw.branch_backward(*placed(place), *pairs, [], [], None, True, True, kept, precision)
        return [z, value, y, *backward]

    return {
        "branch": lambda place, p: [raw.branch(*placed(place), p)],
        "branch_backward": backward,
        "residual_logdet": logdet,
        "training step": step,
        "jacobian_powers": lambda place, p: [raw.jacobian_powers(*placed(place), place(probe[0]), 3, True, p)],
        "jacobian": lambda place, p: [raw.jacobian(*placed(place, x[few]), p)],
        # A tolerance of zero: iterations go on until rounding stops them, and only rounding is left to differ.
        "residual_inverse": lambda place, p: [raw.residual_inverse(*placed(place), 0.0, 60, 0.5, True, p)[0]],
    }


def layer_ops() -> dict[str, Callable[[Any], list[Tensor]]]:
    """Return the ops on all layers of a model."""
    raw, generator = torch.ops.iresnet_fast, torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    weights, us, vs = [normal(48, 40), normal(300, 64)], [normal(48), normal(300)], [normal(40), normal(64)]
    grads, sigmas, coeffs = [normal(48, 40), normal(300, 64)], torch.tensor([3.0, 0.5]), torch.tensor([0.9, 0.9])
    geometry = flat_geometry(weights, [None, None])

    def every(place: Any, tensors: list[Tensor]) -> list[Tensor]:
        return [place(t) for t in tensors]

    def backward(place: Any) -> list[Tensor]:
        layers = [every(place, tensors) for tensors in (grads, weights, us, vs)]
        return [raw.spectral_normalize_backward(*layers, place(sigmas), place(coeffs), geometry, True)]

    def norm(place: Any) -> list[Tensor]:
        layers = [every(place, tensors) for tensors in (weights, us, vs)]
        sigma, _, packed = raw.spectral_norm(*layers, geometry, 5, -1.0)
        return [sigma, packed]

    def lanczos(place: Any) -> list[Tensor]:
        layers = [every(place, tensors) for tensors in (weights, us, vs, vs)]
        # Steps enough that the norm is what all precisions agree on.
        norms, *_ = raw.lanczos_norm(*layers, place(torch.tensor([5])).long(), geometry, 40, 0.0)
        return [norms[0]]

    return {
        "spectral_norm": norm,
        "lanczos_norm": lanczos,
        "spectral_normalize": lambda place: [
            raw.spectral_normalize(every(place, weights), place(sigmas), place(coeffs))
        ],
        "spectral_normalize_backward": backward,
    }


if __name__ == "__main__":
    main()
