"""Times the products of the cases by each route of the layered way, and makes rows of csrc/cuda/plan/measured.h.

A product is timed with what follows it in a chain, the multiplication by derivatives: direct, by taps, and by cuDNN as
the package calls it, where torch's multiplication stands for the kernel that gathers.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from cases import Case
from gpu_cases import GPU_CASES, scaled
from graphs import graphed, time_gpu
from known_cards import DRY_ARCHITECTURE, known_card
from precision import FLOAT32, TF32
from step import ROOT, Run, first_line

sys.path.insert(0, str(ROOT / "tests"))
from simt.emulator import SimtError, project_emulator
from simt.gpu import OnlyEmulated, this_gpu
from simt.one_product import BY_TAPS, DIRECT, LIBRARY, Packed, Product, modelled
from simt.resident import FULL, pad_channels
from simt.resident import TF32 as TENSOR

# Wide branches first: the small ones rarely run layer by layer.
CASES = ("rf16", "rf8", "rf4", "cifar512", "deep512", "cifar128", "mnist", "mnist256", "tabular43", "toy2d", "tabular")
DRY_CASES, DRY_SCALE = ("mnist", "toy2d"), 0.02
ROUTES = {"direct": DIRECT, "by taps": BY_TAPS, "library": LIBRARY}  # in the order of ProductRoute
ROUTE_NAMES = {"direct": "kDirect", "by taps": "kByTaps", "library": "kLibrary"}
PRECISIONS = {FLOAT32: (FULL, "kFull"), TF32: (TENSOR, "kTf32")}
TENSOR_CORES = 80  # the architecture from which on TF32 is there
READING = 0.001  # seconds of each reading of the library
LEAST = 0.5  # seconds without which no product is begun
GOOD = 1.05  # a route within 5 % of the fastest was well chosen


class HostClock:
    """Stands for a GPU in a dry run: the emulator runs the kernels, and its times are those of the host."""

    architecture, multiprocessors = DRY_ARCHITECTURE, 132
    microseconds = 0.0

    def __init__(self) -> None:
        os.environ["SIMT_ONLY"] = "plan,sums,one_product"
        self._emulator = project_emulator("fast")

    def call(self, *arguments: Any, **more: Any) -> None:
        """Call an entry."""
        before = time.perf_counter()
        self._emulator.call(*arguments, **more)
        self.microseconds = 1e6 * (time.perf_counter() - before)

    def timed(self) -> AbstractContextManager[None]:
        """Do nothing: every call is timed."""
        return nullcontext()

    def managed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor."""
        return tensor

    def release(self) -> None:
        """Do nothing."""


def main() -> None:
    """Time what there is time for."""
    run = Run("products")
    gpu = HostClock() if run.dry else this_gpu()
    card = known_card("products", gpu.architecture)
    cases = [scaled(GPU_CASES[name], DRY_SCALE) for name in DRY_CASES] if run.dry else [GPU_CASES[n] for n in CASES]
    within = timed = 0
    for product in dict.fromkeys(product for case in cases for product in products_of(case)):
        for precision in PRECISIONS:
            if precision == TF32 and gpu.architecture < TENSOR_CORES:
                continue
            about = {"product": describe(product), "precision": precision}
            if run.left() < LEAST:
                run.record("left out", **about)
                continue
            try:
                us, choice = measured(gpu, product, precision, card, run.device)
            except (SimtError, OnlyEmulated, RuntimeError) as failure:  # one product; the others are of interest
                run.record("failures", **about, message=first_line(failure))
                continue
            fastest = min(us, key=us.__getitem__)
            times = {f"{route}, us": us.get(route) for route in ROUTES}
            run.record("products", **about, **times, fastest=fastest, model=choice)
            run.record("row", text=row(gpu, product, precision, fastest))
            within += us[choice] <= GOOD * us[fastest]
            timed += 1
    run.record("choices", products=timed, within_5_percent=within)


def products_of(case: Case) -> Iterator[Product]:
    """Yield the products of a branch in either direction."""
    image = case.image or (1, 1)
    kernels = case.kernels or (1,) * (len(case.widths) - 1)
    for K, N, kernel in zip(case.widths[:-1], case.widths[1:], kernels, strict=True):
        yield Product(K, N, kernel, image, case.batch)
        yield Product(N, K, kernel, image, case.batch)


def describe(product: Product) -> str:
    """Return the sizes in a few words."""
    side = f"{product.kernel}x{product.kernel}, " if product.kernel > 1 else ""
    return f"{product.K} to {product.N}, {side}{product.rows} rows"


def measured(gpu: Any, product: Product, precision: str, card: str, device: str) -> tuple[dict[str, float], str]:
    """Return the microseconds of each route that the product has, and the route that the model takes."""
    number = PRECISIONS[precision][0]
    model = {name: modelled(gpu, product, route, card, number) for name, route in ROUTES.items()}
    x, weight, derivatives = (
        torch.rand(size)
        for size in (
            (product.items, product.K, *product.image),
            (product.N, product.K, product.kernel, product.kernel),
            (product.items, product.N, *product.image),
        )
    )
    us = {}
    try:
        with gpu.timed():
            packed = Packed(product, (x, weight, derivatives), number, gpu.managed)
            for name, (exists, _) in model.items():
                if exists and name != "library":
                    packed.run(gpu, ROUTES[name], card)
                    us[name] = float(gpu.microseconds)
    finally:
        gpu.release()
    us["library"] = library_us(product, precision, device)
    return us, list(ROUTES)[model["direct"][1]]


def library_us(product: Product, precision: str, device: str) -> float:
    """Return the microseconds of the convolution that csrc/torch/cuda/library.cpp calls, and of a multiplication."""
    number = PRECISIONS[precision][0]
    K, N = (pad_channels(channels, number) for channels in (product.K, product.N))

    def images(*size: int) -> torch.Tensor:
        return torch.rand(size, device=device).to(memory_format=torch.channels_last)

    x, weight = images(product.items, K, *product.image), images(N, K, product.kernel, product.kernel)
    derivatives, sums, out = (images(product.items, N, *product.image) for _ in range(3))
    padding = [product.kernel // 2] * 2

    def step() -> None:
        if device == "cuda":
            torch.ops.aten.cudnn_convolution.out(
                x, weight, padding, [1, 1], [1, 1], 1, False, True, precision == TF32, out=sums
            )
        else:
            sums.copy_(torch.conv2d(x, weight, padding=padding))
        torch.mul(sums, derivatives, out=out)

    replay = graphed(step, device)
    replay()
    return time_gpu(replay, device, READING).gpu_us


def row(gpu: Any, product: Product, precision: str, fastest: str) -> str:
    """Return a row of kMeasuredProducts."""
    shape = f"{{{product.K}, {product.N}, {product.kernel}, {product.rows}}}"
    route = ROUTE_NAMES[fastest]
    name = PRECISIONS[precision][1]
    return f"{{{gpu.architecture}, {gpu.multiprocessors}, Precision::{name}, {shape}, ProductRoute::{route}}},"


if __name__ == "__main__":
    main()
