"""Every route of one product of the layered way computes the same, whichever the plan would take."""

import importlib
import subprocess
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import conv2d

from .builder import ROOT
from .one_product import BY_TAPS, DIRECT, LIBRARY, Packed, Product, modelled
from .resident import FULL, ROUNDING, TF32

PRODUCTS = [
    Product(5, 3, 3, (5, 9), 3),
    Product(70, 5, 3, (8, 8), 2),  # split, or by taps
    Product(17, 40, 1, (1, 1), 130),
    Product(600, 12, 1, (3, 3), 2),
]


@pytest.mark.parametrize("precision", [FULL, TF32], ids=["full", "tf32"])
@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_each_route_matches_torch(emulator, product, precision):
    tensors = x, weight, derivatives = product.tensors(torch.Generator().manual_seed(0))
    packed = Packed(product, tensors, precision)
    exact, same = (
        conv2d(x.to(t), weight.to(t), padding=product.kernel // 2) * derivatives.to(t)
        for t in (torch.float64, torch.float32)
    )
    yardstick = (same.double() - exact).abs().max().item()
    # Besides twice the error of float32, two operands are rounded, of sums of products of size 1.
    scale = exact.abs().max().item()
    limit = 2 * yardstick + 4 * torch.finfo(torch.float32).eps * scale + 4 * ROUNDING[precision] * scale
    for route in (DIRECT, BY_TAPS) if product.kernel > 1 else (DIRECT,):
        got = packed.run(emulator, route, "h100")
        assert (got.double() - exact).abs().max().item() <= limit


@pytest.mark.parametrize("route", [DIRECT, BY_TAPS], ids=["direct", "by taps"])
def test_a_route_is_taken_that_the_plan_would_not_take(checker, route):
    product = PRODUCTS[0]
    Packed(product, product.tensors(torch.Generator()), FULL).run(checker, route, "h100")
    kernels = [launch.kernel.partition("<")[0] for launch in checker.launches]
    assert kernels == ["stage_product_kernel"] + (["gather_sums_kernel"] if route == BY_TAPS else [])


def test_a_route_that_is_not_there_has_no_time(checker):
    emulator, product = checker, PRODUCTS[2]
    assert modelled(emulator, product, BY_TAPS, "h100", FULL)[0] == 0
    assert not emulator.launches
    times = {route: modelled(emulator, product, route, "h100", FULL) for route in (DIRECT, LIBRARY)}
    assert all(us > 0 for us, _ in times.values())
    assert {fastest for _, fastest in times.values()} == {min(times, key=lambda route: times[route][0])}


def test_sums_take_no_more_memory_than_rows(checker):
    """A million rows of 512 channels take 2 GiB; by taps 12 channels leave less than that, and 192 would leave more."""
    few, many = (Product(512, columns, 3, (16, 16), 4096) for columns in (12, 192))
    assert modelled(checker, few, BY_TAPS, "h100", FULL)[0] > 0
    assert modelled(checker, many, BY_TAPS, "h100", FULL)[0] == 0
    assert modelled(checker, many._replace(items=16), BY_TAPS, "h100", FULL)[0] > 0


@pytest.fixture
def step(monkeypatch):
    """The step `products` of the first run on a GPU."""
    for folder in ("benchmarks/gpu_steps", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module("products")


class Run:
    """A run of the step with time for so many products."""

    dry, device = True, "cpu"

    def __init__(self, products):
        self.products, self.records = products, []

    def left(self):
        self.products -= 1
        return float(self.products >= 0)

    def record(self, table, **measured):
        self.records.append({"table": table, **measured})


def test_products_are_those_of_both_directions(step):
    products = dict.fromkeys(step.products_of(step.GPU_CASES["rf16"]))
    image, items = (16, 16), 64
    assert set(products) == {Product(K, N, k, image, items) for K, N, k in ((12, 512, 3), (512, 12, 3), (512, 512, 1))}
    assert step.describe(next(iter(products))) == "12 to 512, 3x3, 16384 rows"


def test_the_fastest_route_makes_a_row_that_compiles(step, monkeypatch, tmp_path):
    """Of three products one fails and one there is no time for."""
    times = iter([({"direct": 3.0, "by taps": 2.0, "library": 9.0}, "direct"), RuntimeError("lost"),
                  ({"direct": 2.0, "by taps": 2.05, "library": 9.0}, "by taps")])  # fmt: skip

    def measured(*_):
        found = next(times)
        if isinstance(found, Exception):
            raise found
        return found

    run = Run(products=3)
    monkeypatch.setattr(step, "Run", lambda name: run)
    monkeypatch.setattr(step, "HostClock", lambda: SimpleNamespace(architecture=90, multiprocessors=132))
    monkeypatch.setattr(step, "measured", measured)
    step.main()
    tables = [record["table"] for record in run.records]
    assert tables[:5] == ["products", "row", "failures", "products", "row"]
    assert set(tables[5:-1]) == {"left out"}
    assert run.records[-1] == {"table": "choices", "products": 2, "within_5_percent": 1}
    assert [r["fastest"] for r in run.records if r["table"] == "products"] == ["by taps", "direct"]
    rows = "".join(record["text"] for record in run.records if record["table"] == "row")
    source = (ROOT / "csrc/cuda/plan/measured.h").read_text()
    source = source.replace("<MeasuredProduct, 0>", "<MeasuredProduct, 2>").replace("= {};", f"= {{{{{rows}}}}};")
    check = "static_assert(irf::cuda::kMeasuredProducts[0].fastest == irf::cuda::ProductRoute::kByTaps);\n"
    (tmp_path / "row.cpp").write_text(f"{source}{check}".replace("#pragma once", ""))
    flags = ["-std=c++17", "-fsyntax-only", f"-I{ROOT}/csrc", f"-I{ROOT}/csrc/include"]
    subprocess.run(["g++", *flags, tmp_path / "row.cpp"], check=True)


def test_routes_are_timed_and_the_model_asked(step, emulator):
    """On a stand-in for a GPU whose times are counted up."""

    class StandIn:
        microseconds = 0.0

        def call(self, *arguments, **more):
            self.microseconds += 1.0
            emulator.call(*arguments, **more)

        def timed(self):
            return nullcontext()

        def managed(self, tensor):
            return tensor.clone()

        def release(self):
            pass

    us, choice = step.measured(StandIn(), PRODUCTS[1], "float32", "h100", "cpu")
    assert list(us) == ["direct", "by taps", "library"]
    assert (us["direct"], us["by taps"]) == (4.0, 5.0)  # after a question for each route
    assert us["library"] > 0
    assert choice == list(step.ROUTES)[modelled(emulator, PRODUCTS[1], DIRECT, "h100", FULL)[1]]
    assert list(step.measured(StandIn(), PRODUCTS[2], "tf32", "h100", "cpu")[0]) == ["direct", "library"]
