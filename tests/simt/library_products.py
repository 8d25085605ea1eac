"""Runs a wide branch on emulated kernels with products of a library: a program of its own, since it changes torch.

Convolutions of the CPU stand in for cuDNN.
"""

import torch
from problems import Case, make

from . import binding

CASE = Case("wide", (8, 6, 6), (192, 192), (3, 1, 3), batch=1, terms=3)
TF32 = 1
calls = []  # (allow_tf32, deterministic)


def main():
    own, op, arguments, exact = _without()
    libraries = torch.library.Library("aten", "IMPL")
    libraries.impl("cudnn_convolution.out", _convolution, "CPU")
    libraries.impl("cudnn_is_acceptable", lambda x: True, "CPU")
    for precision, rounding in ((0, 0.0), (TF32, 2.0**-11)):
        calls.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = op(*arguments[:-1], precision)
        assert set(calls) == {(precision == TF32, True)}, calls
        products = 3 * (CASE.terms + 1)
        for a, same, oracle in zip(got[:4], own[:4], exact[:4], strict=True):
            limit = 2 * (same - oracle).abs().max() + (2 * products * rounding + 1e-6) * max(1, oracle.abs().max())
            assert (a - oracle).abs().max() <= limit


def _without():
    """Return results without a library, the op and its arguments, and float64 results of the CPU kernels."""
    problem = make(CASE, torch.float32)
    coefficients = problem.coefficients
    op, exact_arguments = make(CASE).raw(
        "residual_logdet", probe=make(CASE).probe[None], coefficients=coefficients.double(), neumann=True
    )
    exact = op(*exact_arguments)
    _, arguments = problem.raw(
        "residual_logdet", probe=problem.probe[None], coefficients=coefficients, neumann=True, keep=True
    )
    binding.install()
    return op(*arguments), op, arguments, exact


def _convolution(x, weight, padding, stride, dilation, groups, benchmark, deterministic, allow_tf32, out):
    calls.append((allow_tf32, deterministic))
    with torch.autocast("cpu", enabled=False):
        return out.copy_(torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups))


if __name__ == "__main__":
    main()
