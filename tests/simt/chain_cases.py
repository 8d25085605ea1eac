"""Power chains for the emulated kernels, on either way: random frozen derivatives, a plain torch walk as the oracle."""

from typing import NamedTuple

import torch

from iresnet_fast.reference.branch import linear, linear_transpose

from .resident import (
    FLOOR_EPS,
    ROUNDING,
    ChainCase,
    Choice,
    branch_struct,
    call,
    pack_operands,
    pack_rows,
    pack_weight,
)

IDENTITY, TANH = 0, 4


class Series(NamedTuple):
    value: torch.Tensor  # [m, B]
    neumann: torch.Tensor  # [m, B, *event]
    norms: torch.Tensor  # [m, B]
    terms: torch.Tensor  # [m, B]
    powers: torch.Tensor  # [n, m, B, *event]


class Problem:
    """A chain in float64; `identity` lists the stages whose derivatives are one."""

    def __init__(
        self, shape, probes=1, terms=2, seed=0, identity=(), per_sample=False, unit_probes=False, first_unit=0
    ):
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
        self.shape, self.probes, self.terms, self.first_unit = shape, probes, terms, first_unit
        self.weights = shape.random_weights(generator)
        self.derivatives = [
            None if i in identity else 1.0 - draw(shape.batch, C, *shape.image).abs().clamp(max=1.5)
            for i, C in enumerate(shape.channels[:-1])
        ]
        event = shape.event
        self.unit_probes = unit_probes
        if unit_probes:
            size = draw(event).numel()
            units = torch.eye(size, dtype=torch.float64)[first_unit : first_unit + probes]
            self.probe = units.view(probes, 1, *event).expand(probes, shape.batch, *event).clone()
        else:
            self.probe = draw(probes, shape.batch, *event)
        self.coefficients = 1.0 + 0.3 * draw(*((shape.batch, terms) if per_sample else (terms,)))

    def rounded(self, dtype):
        """The same problem with operands that dtype can hold, in float64."""
        for name in ("weights", "derivatives"):
            setattr(self, name, [None if t is None else t.to(dtype).double() for t in getattr(self, name)])
        self.probe, self.coefficients = self.probe.to(dtype).double(), self.coefficients.to(dtype).double()
        return self

    def step(self, w, transpose, dtype):
        stages = range(len(self.weights))
        for i in reversed(stages) if transpose else stages:
            d, weight = self.derivatives[i], self.weights[i].to(dtype)
            d = None if d is None else d.to(dtype)
            if transpose:
                w = linear_transpose(w, weight)
                w = w if d is None else w * d
            else:
                w = linear(w if d is None else w * d, weight)
        return w

    def solve(self, dtype, transpose=True, tail=None, tolerance=0.0, relative=False):
        """The oracle (float64) or the same walk in dtype."""
        v, q = self.probe.to(dtype), self.coefficients.to(dtype)
        q = q if q.dim() == 2 else q.expand(self.shape.batch, self.terms)
        dims = tuple(range(2, v.dim()))
        length = (v * v).sum(dims).sqrt()
        limit = tolerance * length if relative else tolerance / length
        value, norms = torch.zeros_like(length), length.clone()
        used = torch.zeros(length.shape, dtype=torch.int64)
        active = torch.full(length.shape, self.terms > 0)
        expand = lambda t: t.view(*t.shape, *(1,) * len(dims))  # noqa: E731
        y = expand(q[:, 0].expand_as(length)) * v if self.terms else torch.zeros_like(v)
        w, powers = v, []
        for k in range(1, self.terms + 1):
            w = torch.stack([self.step(u, transpose, dtype) for u in w])
            powers.append(w)
            sign = 1.0 if k % 2 else -1.0
            value = torch.where(active, value + sign * q[:, k - 1] / k * (w * v).sum(dims), value)
            norm = (w * w).sum(dims).sqrt()
            norms, used = torch.where(active, norm, norms), torch.where(active, k, used)
            if k == self.terms:
                break
            if tail is not None:
                active = active & ~(norm * tail[k - 1] <= limit)
            y = torch.where(expand(active), y - sign * expand(q[:, k].expand_as(length)) * w, y)
        return Series(value, y, norms, used, torch.stack(powers) if powers else v.new_empty(0, *v.shape))


def run(emulator, problem, dtype, transpose=True, sums=True, neumann=True, powers=True, tail=None, tolerance=0.0,
        relative=False, choice=None, card="h100", precision=0, place=lambda t: t):  # fmt: skip
    """A chain on the emulator: a Series (tensors not wanted are empty), and in words the resident plan it ran by.

    `choice`: of resident plans, or LAYERED, which has no words. `place` says where the tensors of kernels are to lie.
    """
    shape, m, n = problem.shape, problem.probes, problem.terms
    cast = lambda t: None if t is None else place(t.to(dtype).contiguous())  # noqa: E731
    choice = choice or Choice()
    pack = pack_operands if choice.layered else pack_weight
    weights = [place(pack(w.to(dtype), transpose, precision)) for w in problem.weights]
    derivatives = [None if d is None else place(pack_rows(d.to(dtype), precision)) for d in problem.derivatives]
    probe = None if problem.unit_probes else cast(problem.probe)
    coefficients = cast(problem.coefficients)
    tail = cast(tail)
    new = lambda *size, dtype: place(torch.empty(*size, dtype=dtype))  # noqa: E731
    made = {
        "value": new(m, shape.batch, dtype=dtype) if sums else None,
        "neumann": new(m, shape.batch, *shape.event, dtype=dtype) if neumann else None,
        "norms": new(m, shape.batch, dtype=dtype) if sums else None,
        "terms_used": new(m, shape.batch, dtype=torch.int64) if sums else None,
        "powers": new(n, m, shape.batch, *shape.event, dtype=dtype) if powers and n else None,
    }
    given = {f"weight {i}": w for i, w in enumerate(weights)} | {
        f"derivative {i}": d for i, d in enumerate(derivatives)
    }
    given |= {"probe": probe, "coefficients": coefficients, "tail": tail}
    case = ChainCase(choice)
    case.transpose, case.probes, case.first_unit, case.terms = transpose, m, problem.first_unit, n
    case.per_sample, case.relative, case.tolerance = coefficients.dim() == 2, relative, tolerance
    for i, (w, d) in enumerate(zip(weights, derivatives, strict=True)):
        case.weights[i], case.derivatives[i] = w.data_ptr(), None if d is None else d.data_ptr()
    for name, tensor in ({"probe": probe, "coefficients": coefficients, "tail": tail} | made).items():
        setattr(case, name, None if tensor is None or tensor.numel() == 0 else tensor.data_ptr())
    event = problem.probe[0, 0].numel()
    case.power_stride, case.probe_stride, case.sample_stride = m * shape.batch * event, shape.batch * event, event
    activations = [IDENTITY if d is None else TANH for d in problem.derivatives]
    branch = branch_struct(shape, activations, problem.weights)
    way = "layered_chain" if choice.layered else "resident_chain"
    text = call(emulator, way, case, branch, dtype, given, made, card, precision)
    empty = torch.empty(0, dtype=dtype)
    names = ("value", "neumann", "norms", "terms_used", "powers")
    return Series(*(empty if made[name] is None else made[name] for name in names)), text


def assert_series(problem, got, same_dtype, exact, precision=0):
    """err <= 2 err(same dtype) + floor; on tensor cores, a few roundings of operands for each product."""
    assert torch.equal(got.terms, exact.terms)
    products = max(1, problem.terms) * len(problem.weights)
    scale = max(1.0, problem.probe.abs().max().item())
    for name, a, same, oracle in zip(Series._fields, got, same_dtype, exact, strict=True):
        if a.numel() == 0:
            continue
        error, yardstick = ((t.double() - oracle).abs().max().item() for t in (a, same))
        size = max(scale, oracle.abs().max().item())
        limit = 2 * yardstick + FLOOR_EPS[got.value.dtype] * torch.finfo(got.value.dtype).eps * size
        limit += 4 * products * ROUNDING[precision] * size
        assert error <= limit, f"{name}: error {error:.2e}, limit {limit:.2e}, reference {yardstick:.2e}"
