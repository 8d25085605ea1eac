"""`python -m iresnet_fast`: versions, instruction sets, and what has a kernel here: ops, branches, activations.

`python -m iresnet_fast plan --help`: how a branch would run on a GPU or on the CPU.
"""

import argparse
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from . import __version__, _environment, _library, _plan, reference
from .nn import _kinds

# Public op: the raw op that carries its work.
RAW_OPS = {
    "spectral_norm": "spectral_norm",
    "lanczos_norm": "lanczos_norm",
    "fingerprint": "fingerprint",
    "spectral_normalize": "spectral_normalize",
    "branch": "branch",
    "residual_logdet": "residual_logdet",
    "residual_logdet_exact": "jacobian",
    "residual_inverse": "residual_inverse",
}
_BF16 = {
    True: "under torch.autocast('cpu', torch.bfloat16) products round their operands, sums are float32 (AVX512-BF16)",
    False: "products are float32 under torch.autocast, too: the instruction set in use has none of bfloat16 operands",
}
ISAS = {"scalar": "CPU scalar", "neon": "CPU NEON", "avx2": "CPU AVX2", "avx512": "CPU AVX-512"}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def _has_kernel(raw_op: str, device: str) -> bool:
    """Ask torch's dispatcher, not our own list: the answer is what a call would find."""
    if not hasattr(torch.ops.iresnet_fast, raw_op):
        return False
    return bool(getattr(torch.ops.iresnet_fast, raw_op).default.has_kernel_for_dispatch_key(device))


def _cpu_cell(raw_op: str, isa: str) -> str:
    if not _library.HAS_EXTENSION or isa not in _library.build_info()["isas"] or not _has_kernel(raw_op, "CPU"):
        return "-"
    return "yes" if isa in _library.cpu_isas() else "not on this CPU"


def _op_row(op: str, raw_op: str) -> list[str]:
    cpu = [_cpu_cell(raw_op, isa) for isa in ISAS]
    cuda = "yes" if _library.HAS_EXTENSION and _has_kernel(raw_op, "CUDA") else "-"
    return [op, *cpu, cuda, "yes" if hasattr(reference, op) else "-"]


def _has_kernels(device: str) -> bool:
    return _library.HAS_EXTENSION if device == "CPU" else _library.HAS_CUDA


def _cells(cell: str) -> list[str]:
    """Return what stands for the devices: where the kernels are missing the twin serves everything."""
    return [cell if cell == "twin" or _has_kernels(device) else "twin (no kernels here)" for device in _kinds.DEVICES]


def _kind_rows() -> list[list[str]]:
    return [[row.kind.replace("`", ""), *_cells(row.cell), row.why] for row in _kinds.kinds()]


def _activation_rows() -> list[list[str]]:
    words = {True: "kernel", False: "twin"}
    return [[name, *_cells(words[known])] for known in words for name in _kinds.activation_names(known)]


def _cuda_line() -> str:
    if not _library.HAS_CUDA:
        return f"no kernels: {_library.CUDA_ERROR}"
    info = _library.build_info()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    return (
        f"kernels for {', '.join(info['cuda_archs'])}, built with {info['cuda']}; torch is built for CUDA "
        f"{torch.version.cuda}; GPU: {gpu}"
    )


def _backend_line() -> str:
    forced = f" (IRESNET_FAST_BACKEND={_environment.BACKEND})" if _environment.BACKEND else ""
    try:
        return _library.backend() + forced
    except RuntimeError as error:
        return str(error)


def report() -> str:
    """Return the text that `python -m iresnet_fast` prints."""
    lines = [
        f"iresnet_fast      {__version__}",
        f"torch             {torch.__version__}, {torch.get_num_threads()} threads",
        f"Python            {platform.python_version()} on {platform.machine()}",
    ]
    extension = _library.extension()
    if extension is not None:
        info = _library.build_info()
        kind = ", debug" if info["debug"] else ""
        lines += [
            f"package           {Path(__file__).resolve().parent}",
            f"library           {extension.__file__}",
            f"extension         built for torch >= 2.11 (headers of {info['torch']}) and Python {info['python']}{kind}",
            f"compiler          {info['compiler']}",
            f"instruction sets  built: {', '.join(info['isas'])}; usable: {', '.join(_library.cpu_isas())}; "
            f"in use: {_library.cpu_isa()}",
            f"bfloat16          {_BF16[_library.cpu_bf16()]}",
        ]
        if message := _library.cpu_isa_message():
            lines.append(f"                  {message}")
    else:
        lines.append(f"extension         unavailable: {_library.EXTENSION_ERROR}")
    lines += [f"CUDA              {_cuda_line()}", f"backend           {_backend_line()}", ""]
    ops_header = ["op (float32, float64)", *ISAS.values(), "CUDA", "reference"]
    lines += [_table(ops_header, [_op_row(op, raw_op) for op, raw_op in RAW_OPS.items()]), ""]
    lines += [_table(["branch of a block", *_kinds.DEVICES, "twin, since"], _kind_rows()), ""]
    lines += [_table(["activation", *_kinds.DEVICES], _activation_rows())]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the report, or a plan."""
    parser = argparse.ArgumentParser(
        prog="python -m iresnet_fast",
        description="Without a command: versions, instruction sets, and which op has which kernel on this machine.",
    )
    commands = parser.add_subparsers(dest="command")
    plan = commands.add_parser("plan", help="how a branch would run on a GPU or on the CPU", description=_plan.__doc__)
    _plan.add_options(plan)
    options = parser.parse_args(arguments)
    if options.command is None:
        print(report())
        return
    try:
        print(_plan.describe(options))
    except ValueError as error:
        plan.error(str(error))


if __name__ == "__main__":
    main()
