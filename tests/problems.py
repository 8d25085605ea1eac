"""Small branches and inputs for the tests of every op: ragged sizes, all activations, awkward memory layouts."""

import itertools
import zlib
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from iresnet_fast import _library, reference
from iresnet_fast import activations as registry
from iresnet_fast.geometry import ConvGeometry

ISAS = _library.cpu_isas()
DTYPES = [torch.float32, torch.float64]
KERNEL_ACTIVATIONS = [entry.name for entry in registry.REGISTRY.values() if entry.kernel_id is not None]
KERNEL_ACTIVATIONS += ["sin(10)", "celu(0.5)", "leaky_relu(-0.5)"]
LIPSCHITZ = 0.7


class Case(NamedTuple):
    """One branch and its input, by sizes. Activations repeat to the number of stages."""

    name: str
    event: tuple[int, ...]  # (d,) or (C, H, W)
    hidden: tuple[int, ...] = ()
    kernels: tuple[int, ...] = ()  # one per stage; empty: dense
    activations: tuple[str, ...] = ("identity", "elu")
    batch: int = 3
    no_bias: tuple[int, ...] = ()  # stages without a bias
    probes: int | None = None
    per_sample: bool = False  # coefficients [B, n]
    terms: int = 4
    memory: str = "contiguous"
    sample_bias: tuple[int, ...] = ()  # stages with a bias for each sample, [B, out]
    pixel_bias: tuple[int, ...] = ()  # stages with a bias for each sample and pixel, [B, out, H, W]
    sample_factor: tuple[int, ...] = ()  # stages with a factor, [B, in]
    pixel_factor: tuple[int, ...] = ()  # stages with a factor, [B, in, H, W]

    @property
    def longest_reduction(self):
        """Terms of the longest inner product of a walk in either direction."""
        channels = (self.event[0], *self.hidden, self.event[0])
        taps = [k * k for k in self.kernels] or [1] * (len(channels) - 1)
        return max(max(pair) * t for pair, t in zip(itertools.pairwise(channels), taps, strict=True))


class Problem(NamedTuple):
    """The arguments of the branch ops."""

    x: Tensor
    weights: list[Tensor]
    biases: list[Tensor | None]
    activations: list[str]
    parameters: list[Tensor | None]
    probe: Tensor
    coefficients: Tensor
    factors: list[Tensor | None]

    @property
    def branch(self):
        return self.weights, self.biases, self.activations

    @property
    def leaves(self):
        """Every tensor that can get a gradient, x first."""
        return [t for t in (self.x, *self.weights, *self.biases, *self.parameters, *self.factors) if t is not None]

    def requires_grad(self):
        for tensor in self.leaves:
            tensor.requires_grad_()
        return self

    def of_samples(self, chosen):
        """Return the problem of some samples, by a slice; the probe and the coefficients stay."""

        def own(tensors):
            return [t if t is None or t.dim() == 1 else t[chosen] for t in tensors]

        return self._replace(x=self.x[chosen], biases=own(self.biases), factors=own(self.factors))

    def with_zeros(self, count):
        """Return the problem with so many more coefficients, all zero."""
        return self._replace(coefficients=torch.nn.functional.pad(self.coefficients, (0, count)))

    def raw(self, op, **arguments):
        """Return an overload of a raw op and its arguments; what is left out is None, False, zero or empty."""
        none = self.x.new_empty(0)
        lists = {"biases": self.biases, "betas": self.parameters, "factors": self.factors}
        given = {name: [none if t is None else t for t in tensors] for name, tensors in lists.items()}
        entries = [registry.get(name) for name in self.activations]
        given |= {"activations": [e.kernel_id for e in entries], "constants": [e.constant for e in entries]}
        given |= {"weights": self.weights, **arguments}
        given["x"] = given["z"] = self.x
        overload = getattr(torch.ops.iresnet_fast, op).default
        defaults = {"bool": False, "int": 0, "float": 0.0, "List[Tensor]": [], "List[int]": []}
        expected = overload._schema.arguments
        return overload, tuple(given.get(a.name, defaults.get(str(a.type))) for a in expected)


CASES = [
    Case("one number", (1,), batch=1, activations=("tanh",), terms=1),
    Case("no sample", (3,), (5,), batch=0, probes=2),
    Case("primes", (5,), (7, 11), batch=13, no_bias=(1,), probes=3, per_sample=True),
    Case("below a vector", (7,), (15,), batch=15, activations=("sin",)),
    Case("a vector", (8,), (16,), batch=16, activations=("softplus", "identity")),
    Case("above a vector", (9,), (17, 31), batch=17, no_bias=(0, 1, 2)),
    Case("two vectors", (31,), (33,), batch=33, activations=("lipswish",), per_sample=True),
    Case("several tiles", (2,), (19,), batch=130, activations=("lipswish", "tanh"), probes=2),
    Case("many tiles", (3,), (4,), batch=300, activations=("relu", "sin"), terms=7),
    Case("sliced", (6,), (5,), batch=5, memory="sliced", probes=2),
    Case("strided", (6,), (5,), batch=5, memory="strided", activations=("elu", "lipswish"), per_sample=True),
    Case("transposed", (6,), (5,), batch=5, memory="transposed", probes=2),
    Case("expanded", (6,), (5,), batch=5, memory="expanded"),
    Case("one pixel", (1, 1, 1), kernels=(1,), batch=1, activations=("softplus",), terms=1),
    Case("no image", (2, 3, 4), (3,), (3, 1), batch=0),
    Case("width 7", (2, 5, 7), (5, 3), (3, 1, 3), batch=5, no_bias=(0,), probes=2, per_sample=True),
    Case("width 8", (1, 3, 8), (7,), (3, 3), activations=("tanh", "lipswish")),
    Case("width 9", (3, 2, 9), (4,), (5, 1), activations=("sin", "elu"), no_bias=(1,)),
    Case("width 14", (2, 14, 14), (20, 3), (3, 1, 5), batch=9, activations=("identity", "elu", "lipswish")),
    Case("width 15", (1, 2, 15), (3,), (3, 5), activations=("softplus",), probes=3),
    Case("width 16", (2, 3, 16), (6,), (3, 3), activations=("identity", "lipswish"), terms=6),
    Case("width 17", (1, 4, 17), (2,), (1, 3), activations=("relu", "tanh"), batch=2),
    Case("kernel larger than the image", (1, 3, 4), (2,), (7, 5), batch=2),
    Case("many images", (1, 2, 3), (2,), (3, 1), batch=130, activations=("tanh",)),
    Case("sliced images", (2, 4, 3), (3,), (3, 3), batch=4, memory="sliced", probes=2),
    Case("strided images", (2, 4, 3), (3,), (3, 3), batch=4, memory="strided", activations=("lipswish",)),
    Case("channels last", (3, 4, 5), (5,), (3, 3), batch=4, memory="transposed", probes=2),
    Case("expanded images", (2, 4, 3), (3,), (3, 1), batch=4, memory="expanded", per_sample=True),
    Case(
        "a bias for each sample", (5,), (7, 4), batch=13, sample_bias=(0, 2), activations=("elu", "lipswish"), probes=2
    ),
    Case("a mask", (6,), (9,), batch=33, sample_factor=(0, 1), activations=("identity", "tanh")),
    Case(
        "masks of everything", (7,), (5,), batch=17, sample_bias=(0, 1), sample_factor=(0, 1), activations=("lipswish",)
    ),
    Case("images with a context", (2, 5, 7), (5, 3), (3, 1, 3), batch=5, sample_bias=(0,), pixel_bias=(1, 2), probes=2),
    Case(
        "images with masks", (2, 3, 8), (6,), (3, 3), sample_factor=(0,), pixel_factor=(1,), activations=("relu", "elu")
    ),
    Case(
        "odd images with masks",
        (3, 4, 5),
        (4,),
        (1, 3),
        batch=6,
        pixel_factor=(0,),
        sample_factor=(1,),
        sample_bias=(1,),
    ),
    *(Case(f"dense {name}", (4,), (6, 6), activations=(name,), no_bias=(1,)) for name in KERNEL_ACTIVATIONS),
    *(Case(f"conv {name}", (2, 3, 5), (4,), (3, 3), activations=(name,), no_bias=(0,)) for name in KERNEL_ACTIVATIONS),
]
TINY = [
    Case("dense", (3,), (4,), activations=("tanh", "lipswish"), batch=2, terms=3, probes=2, no_bias=(1,)),
    Case("conv", (2, 2, 3), (2,), (3, 1), activations=("softplus", "lipswish"), batch=2, terms=3, per_sample=True),
    Case(
        "context",
        (3,),
        (4,),
        activations=("lipswish", "tanh"),
        batch=2,
        terms=3,
        probes=2,
        sample_bias=(0,),
        sample_factor=(0, 1),
    ),
    Case(
        "image context",
        (2, 2, 3),
        (2,),
        (3, 1),
        activations=("identity", "lipswish"),
        batch=2,
        terms=3,
        sample_bias=(0,),
        pixel_bias=(1,),
        sample_factor=(0,),
        pixel_factor=(1,),
    ),
]
# For what depends on the share of each thread: more samples than a tile holds, and images for every thread.
WIDE = [
    Case("dense", (5,), (9,), batch=300, activations=("elu", "lipswish"), probes=2),
    Case("one probe", (5,), (9,), batch=200, activations=("elu", "lipswish")),
    Case("given", (5,), (9,), batch=200, activations=("elu", "lipswish"), sample_bias=(0,), sample_factor=(1,)),
    Case("conv", (2, 5, 6), (4,), (3, 3), batch=7, activations=("elu", "lipswish")),
]


def run_on(isa):
    """Use this instruction set, and one thread: on so small a problem a second one costs more than it brings."""
    _library.set_cpu_isa(isa)
    torch.set_num_threads(1)


def named(cases):
    """Keyword arguments of pytest.mark.parametrize for a list of cases."""
    return {"argvalues": cases, "ids": [case.name.replace(" ", "-") for case in cases]}


def make(case, dtype=torch.float64, device="cpu"):
    """Build the problem of a case; every dtype and device gets the same numbers, which float32 holds exactly."""
    x, weights, biases, parameters, probe, coefficients, factors = _numbers(case)

    def place(tensor):
        return None if tensor is None else _place(tensor.to(device, dtype, copy=True), case.memory)

    return Problem(
        x[:1].to(device, dtype).expand(x.shape) if case.memory == "expanded" else place(x),
        [place(t) for t in weights],
        [place(t) for t in biases],
        _activations(case),
        [None if t is None else t.to(device, dtype, copy=True) for t in parameters],
        probe[..., :1].to(device, dtype).expand(probe.shape) if case.memory == "expanded" else place(probe),
        place(coefficients),
        [place(t) for t in factors],
    )


def _activations(case):
    n_stages = len(case.hidden) + 1
    return list((case.activations * n_stages)[:n_stages])


@cache
def _numbers(case):
    generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    widths = (case.event[0], *case.hidden, case.event[0])
    n_stages = len(widths) - 1
    kernels = [(k, k) for k in case.kernels] or [()] * n_stages
    weights = [normal(widths[i + 1], widths[i], *kernels[i]) for i in range(n_stages)]
    weights = [w * (LIPSCHITZ ** (1 / n_stages) / _norm(w, case.event[1:])) for w in weights]
    biases = [None if i in case.no_bias else normal(widths[i + 1]) for i in range(n_stages)]
    parameters = [
        normal() if i % 2 == 0 else normal(1) if registry.get(name).has_parameter else None
        for i, name in enumerate(_activations(case))
    ]
    parameters = [
        p if registry.get(name).has_parameter else None for p, name in zip(parameters, _activations(case), strict=True)
    ]
    shape = (case.batch, *case.event)
    probe = normal(*shape) if case.probes is None else normal(case.probes, *shape)
    coefficients = 0.5 + torch.rand((case.batch, case.terms) if case.per_sample else case.terms, generator=generator)
    x = normal(*shape)
    of_samples = [(case.batch, width) for width in widths]
    of_pixels = [(case.batch, width, *case.event[1:]) for width in widths]
    for i in (*case.sample_bias, *case.pixel_bias):
        biases[i] = normal(*(of_samples if i in case.sample_bias else of_pixels)[i + 1])
    # Between -1 and 1, so that the branch keeps its constant; a zero in every sample, as masks have.
    factors = [None] * n_stages
    for i in (*case.sample_factor, *case.pixel_factor):
        factors[i] = normal(*(of_samples if i in case.sample_factor else of_pixels)[i]).tanh()
        factors[i][:, 0] = 0.0
    return x, weights, biases, parameters, probe, coefficients, factors


def _norm(weight, image_size):
    """The norm of the layer on its image, a little from below."""
    geometry = None
    u, v = torch.ones(weight.shape[0]), torch.ones(weight.shape[1])
    if image_size:
        geometry = ConvGeometry(image_size, padding=(weight.shape[2] // 2, weight.shape[3] // 2))
        u, v = (torch.ones(t.shape[0], *image_size) for t in (u, v))
    return reference.spectral_norm([weight], [u], [v], [geometry], 30)[0][0]


def _place(tensor, memory):
    """Return the same numbers in another place of memory; what lies between them must never be read: it is NaN."""
    if tensor.dim() == 0 or memory in ("contiguous", "expanded"):
        return tensor
    if memory == "sliced":
        return torch.stack((tensor, torch.full_like(tensor, torch.nan)), 1).flatten(0, 1)[::2]
    if memory == "strided":
        return torch.stack((tensor, torch.full_like(tensor, torch.nan)), -1)[..., 0]
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1) if tensor.dim() > 1 else tensor


def upstream(outputs, seed=3):
    """Gradients that differ from sample to sample and from number to number, the same for every dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=generator).to(t) for t in outputs]


def gradients(outputs, leaves, seed=3, create_graph=False):
    """Return the gradients of `leaves` under `upstream`; None where the outputs do not depend on one."""
    return torch.autograd.grad(
        list(outputs), leaves, upstream(outputs, seed), create_graph=create_graph, allow_unused=True
    )
