"""Load the compiled kernels, or say once why not, and choose between them and the plain-torch reference.

Importing `iresnet_fast._C` registers the raw ops as `torch.ops.iresnet_fast.*` with their CPU kernels. Without it
everything still works: the ops ask `backend()` and take the reference. The CUDA kernels are in a library of their own,
which needs a torch built for CUDA, but neither a GPU nor a driver, and adds itself to the same ops.

Python started in a checkout imports the checkout, wherever `pip install .` has put the libraries: they are looked for
on the rest of sys.path, and used if they were built from the very sources of the checkout.
"""

import ctypes
import importlib
import importlib.util
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeVar, cast

import torch

from . import _environment, _sources
from ._version import __version__

Backend = Literal["kernels", "reference"]

_REBUILD: Final = "Rebuild with `pip install .`."
_HERE: Final = Path(__file__).resolve().parent
_CSRC: Final = _HERE.parent / "csrc"


def _load() -> tuple[ModuleType | None, str | None]:
    """Import the extension. Returns (module, None) or (None, the reason in a few words)."""
    release = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if release is not None and (int(release[1]), int(release[2])) < (2, 11):
        return None, f"they need torch >= 2.11, this is torch {torch.__version__}"
    try:
        module = importlib.import_module("iresnet_fast._C")
    except ModuleNotFoundError:
        installed = _find_installed()
        if installed is None:
            return None, _why_not_built()
        if not _built_from_these_sources(installed):
            return None, (
                f"Python runs the source folder {_HERE}, and the kernels installed in {installed.parent} were built "
                "from other sources: in another folder Python runs what is installed"
            )
        try:
            module = _load_file(installed)
        except (ImportError, OSError) as error:
            return None, f"{installed} does not load under torch {torch.__version__}: {str(error).splitlines()[0]}"
    except (ImportError, OSError) as error:
        return None, f"iresnet_fast._C does not load under torch {torch.__version__}: {str(error).splitlines()[0]}"
    built = module.build_info()["version"]
    if built != __version__:
        # The raw ops may have changed in between: a stale library must not answer for them.
        return None, f"iresnet_fast._C was built from version {built}, this is version {__version__}"
    return module, None


def _why_not_built() -> str:
    names = sorted(path.name for path in _HERE.glob("_C.*.so"))
    others = [name for name in names if name.removeprefix("_C") not in EXTENSION_SUFFIXES]
    return f"{', '.join(others)} was built for another Python" if others else "iresnet_fast._C was not built"


def _find_installed() -> Path | None:
    """Return the extension beside another copy of the package on sys.path, if this one is in a checkout."""
    if not _CSRC.is_dir():
        return None
    folders = [Path(entry or ".", __package__).resolve() for entry in sys.path]
    files = [folder / f"_C{suffix}" for folder in folders if folder != _HERE for suffix in EXTENSION_SUFFIXES]
    return next((file for file in files if file.is_file()), None)


def _built_from_these_sources(file: Path) -> bool:
    # Read, not loaded: a library of other sources would register its ops. The same version is not enough, checkouts
    # between two releases share it.
    return _sources.digest(_CSRC).encode() in file.read_bytes()


def _load_file(file: Path) -> ModuleType:
    """Import the extension from elsewhere, under its usual name."""
    name = f"{__package__}._C"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # the suffix is one of an extension
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


_extension, EXTENSION_ERROR = _load()
HAS_EXTENSION: Final[bool] = _extension is not None


def _load_cuda() -> str | None:
    """Load the CUDA kernels. Returns None, or the reason why there are none in a few words."""
    if _extension is None:
        return EXTENSION_ERROR
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not built for CUDA"
    info = build_info()
    if not info["cuda_archs"]:
        return f"they were not built: {info['cuda']}"
    library = Path(cast(str, _extension.__file__)).with_name("libiresnet_fast_cuda.so")
    try:
        if info["sources"].encode() not in library.read_bytes():
            return f"{library.name} was built from other sources than {Path(cast(str, _extension.__file__)).name}"
    except OSError:
        return f"{library} is missing or cannot be read"
    try:
        ctypes.CDLL(str(library))  # its initialisers register the kernels
    except OSError as error:
        return f"{library.name} does not load under torch {torch.__version__}: {str(error).splitlines()[0]}"
    return None


# A plain module global: torch.compile guards on it, and a call of backend() costs one load.
_active: Backend | None


def set_backend(name: Backend | None) -> None:
    """Choose what serves every op from now on, in all threads.

    Args:
        name: "kernels", "reference", or None for the default: IRESNET_FAST_BACKEND if set, else the kernels if they
            loaded.

    Raises:
        ValueError: unknown name.
        RuntimeError: "kernels" while the extension is missing.
    """
    global _active
    if name not in ("kernels", "reference", None):
        raise ValueError(f"set_backend: name must be 'kernels', 'reference' or None, got {name!r}.")
    if name == "kernels" and not HAS_EXTENSION:
        raise RuntimeError(_kernels_missing("set_backend('kernels')"))
    _active = name or _default_backend()


@contextmanager
def use_backend(name: Backend | None) -> Iterator[None]:
    """Use this backend inside a with block; see `set_backend`."""
    global _active
    previous = _active
    set_backend(name)
    try:
        yield
    finally:
        _active = previous


def backend() -> Backend:
    """Return what serves the ops: "kernels" or "reference".

    Raises:
        RuntimeError: IRESNET_FAST_BACKEND=kernels while the extension is missing.
    """
    if _active is None:
        raise RuntimeError(_kernels_missing("IRESNET_FAST_BACKEND=kernels"))
    return _active


_Fake = TypeVar("_Fake", bound=Callable[..., Any])


def register_fake(op: str) -> Callable[[_Fake], _Fake]:
    """Make the decorated function the fake (shapes only) of a raw op, for torch.compile and torch.export."""
    if not HAS_EXTENSION:
        return lambda fake: fake
    return cast(Callable[[_Fake], _Fake], torch.library.register_fake(f"iresnet_fast::{op}"))


def build_info() -> dict[str, Any]:
    """Return what the extension was built with; empty without it.

    Keys: version, torch, python, compiler (strings), isas, cuda_archs (lists of names), cuda (the nvcc used, or why
    there was none), debug (bool), sources (SHA-256 of what it was built from, see _sources.py).
    """
    return {} if _extension is None else cast(dict[str, Any], _extension.build_info())


def extension() -> ModuleType | None:
    """Return the extension module, None without it."""
    return _extension


def cpu_isa() -> str | None:
    """Return the instruction set in use: "scalar", "neon", "avx2" or "avx512"; None without the extension."""
    return None if _extension is None else cast(str, _extension.cpu_isa())


def cpu_bf16() -> bool:
    """Return whether the instruction set the CPU kernels use has products of bfloat16 operands (AVX512-BF16)."""
    return _extension is not None and cast(bool, _extension.cpu_bf16())


def cpu_isas() -> list[str]:
    """Return the instruction sets built and usable on this CPU, worst first; empty without the extension."""
    return [] if _extension is None else cast(list[str], _extension.cpu_isas())


def cpu_isa_message() -> str:
    """Return why IRESNET_FAST_CPU_ISA was not honoured, in one sentence; "" if it was, or was not set."""
    return "" if _extension is None else cast(str, _extension.cpu_isa_message())


def set_cpu_isa(name: str) -> None:
    """Use another instruction set from the next kernel call on, in all threads.

    Args:
        name: one of `cpu_isas()`.

    Raises:
        ValueError: not one of `cpu_isas()`.
        RuntimeError: the extension is missing.
    """
    if _extension is None:
        raise RuntimeError(_kernels_missing("set_cpu_isa"))
    _extension.set_cpu_isa(name)


def _kernels_missing(asked_by: str) -> str:
    return (
        f"iresnet_fast: {asked_by} asks for the compiled kernels, which are unavailable ({EXTENSION_ERROR}). {_REBUILD}"
    )


def _default_backend() -> Backend | None:
    # None: the kernels were forced and are missing. That is an error at the first op, and the import still works.
    if _environment.BACKEND == "reference":
        return "reference"
    if HAS_EXTENSION:
        return "kernels"
    return None if _environment.BACKEND == "kernels" else "reference"


CUDA_ERROR = _load_cuda()
HAS_CUDA: Final[bool] = CUDA_ERROR is None

set_backend(None)
if not HAS_EXTENSION and _environment.BACKEND is None:
    warnings.warn(
        f"iresnet_fast: compiled kernels unavailable ({EXTENSION_ERROR}); the plain-torch reference serves every op, "
        f"slower. {_REBUILD}",
        RuntimeWarning,
        stacklevel=2,
    )
if cpu_isa_message():
    warnings.warn(f"iresnet_fast: {cpu_isa_message()}", RuntimeWarning, stacklevel=2)
