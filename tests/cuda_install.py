"""What `make cuda-install` ends with: does the installed package hold the CUDA kernels, and what does a call say?"""

import sys
from pathlib import Path

import torch

import iresnet_fast
from iresnet_fast import _library, ops, reference
from iresnet_fast.__main__ import RAW_OPS, report

RAW = {*RAW_OPS.values(), "branch_backward", "jacobian_powers", "spectral_normalize_backward"}


def main():
    """Print what was found; exit with a sentence at the first thing that is wrong."""
    installed = Path(iresnet_fast.__file__).parent
    expect(installed.is_relative_to(sys.prefix), f"iresnet_fast must be the installed package, it is {installed}")
    expect(torch.version.cuda is not None, f"torch {torch.__version__} is not built for CUDA")
    expect(_library.HAS_CUDA, f"the CUDA kernels did not load: {_library.CUDA_ERROR}")
    missing = [op for op in RAW if not torch._C._dispatch_has_kernel_for_dispatch_key(f"iresnet_fast::{op}", "CUDA")]
    expect(not missing, f"ops without a CUDA kernel: {missing}")
    print(report())
    arguments = (torch.randn(5, 4), [torch.eye(4) / 2], [None], ["tanh"])
    torch.testing.assert_close(ops.branch(*arguments), reference.branch(*arguments))
    print("\nA call on the CPU agrees with the reference.")
    try:
        x, weight = arguments[0].cuda(), arguments[1][0].cuda()
    except RuntimeError as error:
        expect(not torch.cuda.is_available(), f"there is a GPU, and a tensor does not reach it: {error}")
        print(f"A call on a GPU says: {type(error).__name__}: {str(error).splitlines()[0]}")
    else:
        got = ops.branch(x, [weight], [None], ["tanh"])
        torch.testing.assert_close(got.cpu(), reference.branch(*arguments))
        print(f"A call on the {torch.cuda.get_device_name()} agrees with the reference.")
    sizes = {path.name: path.stat().st_size for path in sorted(installed.glob("*.so"))}
    print("Installed: " + ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for name, size in sizes.items()))


def expect(condition, sentence):
    if not condition:
        sys.exit(f"cuda-install: {sentence}.")


if __name__ == "__main__":
    main()
