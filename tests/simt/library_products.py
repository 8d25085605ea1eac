"""Runs wide branches on emulated kernels with products of a library: a program of its own, since it changes torch.

Convolutions of the CPU stand in for cuDNN. SIMT_CARD names the card: a library that is fast in TF32 beside its own
tensor cores is that of a B200.
"""

import torch
from problems import Case, make

from . import binding

FULL, TF32 = 0, 1
CASES = {
    FULL: Case("some products", (8, 6, 6), (192, 192), (3, 1, 3), batch=1, terms=3),
    TF32: Case("all products", (64, 8, 8), (384,), (5, 5), batch=8, terms=2),
}
ROUNDING = {FULL: 0.0, TF32: 2.0**-11}
calls = []  # (allow_tf32, deterministic)


def main():
    exact = {precision: _logdet(case, torch.float64)() for precision, case in CASES.items()}
    binding.install()
    own = {precision: _logdet(case, torch.float32)() for precision, case in CASES.items()}
    libraries = torch.library.Library("aten", "IMPL")
    libraries.impl("cudnn_convolution.out", _convolution, "CPU")
    libraries.impl("cudnn_is_acceptable", lambda x: True, "CPU")
    for precision, case in CASES.items():
        calls.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = _logdet(case, torch.float32, precision)()
        assert set(calls) == {(precision == TF32, True)}, (case.name, calls)
        products = (len(case.hidden) + 1) * (case.terms + 1)
        for a, same, oracle in zip(got[:4], own[precision][:4], exact[precision][:4], strict=True):
            rounding = 2 * products * ROUNDING[precision] + 1e-6
            limit = 2 * (same - oracle).abs().max() + rounding * max(1, oracle.abs().max())
            assert (a - oracle).abs().max() <= limit, case.name


def _logdet(case, dtype, precision=FULL):
    """A call of the raw op: z, value, Neumann vector, norms and more."""
    problem = make(case, dtype)
    given = {"probe": problem.probe[None], "coefficients": problem.coefficients, "neumann": True}
    op, arguments = problem.raw("residual_logdet", **given, precision=precision)
    return lambda: op(*arguments)


def _convolution(x, weight, padding, stride, dilation, groups, benchmark, deterministic, allow_tf32, out):
    calls.append((allow_tf32, deterministic))
    with torch.autocast("cpu", enabled=False):
        return out.copy_(torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups))


if __name__ == "__main__":
    main()
