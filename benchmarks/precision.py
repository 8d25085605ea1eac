"""In which precision products are formed: the same switches for ours and for the baselines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from machine import why_no_gpu

from iresnet_fast import _library

FLOAT32, TF32, BF16 = "float32", "tf32", "bf16"
PRECISIONS = (FLOAT32, TF32, BF16)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add --device and --precision, to be read by `check_options`."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision",
        type=_several,
        help=f"on a GPU, comma-separated, of {', '.join(PRECISIONS)} (default: all); "
        "for log-determinants on a CPU, bf16: ours under autocast beside float32",
    )


def check_options(parser: argparse.ArgumentParser, options: argparse.Namespace, bf16_on_cpu: bool = False) -> None:
    """End the program with a sentence if there is no such device or precision; on a GPU all precisions are the default.

    Args:
        parser: of the program.
        options: what it read.
        bf16_on_cpu: whether the program compares bf16 with float32 on a CPU.
    """
    if options.device != "cuda":
        if options.precision and not (bf16_on_cpu and options.precision == (BF16,)):
            parser.error("--precision is for --device cuda; a CPU multiplies in float32.")
        if options.precision and not _library.cpu_bf16():
            parser.error(
                "--precision bf16 needs a CPU with AVX512-BF16 or --device cuda; without it autocast multiplies in "
                f"float32, and the instruction set in use is {_library.cpu_isa()}."
            )
        return
    reason = why_no_gpu()
    if reason is not None:
        parser.error(f"--device cuda {reason}")
    options.precision = options.precision or PRECISIONS


def _several(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown precision {unknown[0]!r}; there are {', '.join(PRECISIONS)}")
    return names


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Set torch's switches for matrix products and convolutions alike, and let cudnn try its algorithms.

    With "bf16" they stand as with "float32": narrower are the tensors (of baselines) or autocast (of ours).

    Args:
        precision: one of `PRECISIONS`.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    matmul.allow_tf32 = cudnn.allow_tf32 = precision == TF32
    cudnn.benchmark = True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before


@contextmanager
def untried_algorithms() -> Iterator[None]:
    """Let cudnn pick its algorithms without trying them, which takes seconds for what is computed once."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
