"""Every environment variable the package reads, once, at import (those of the build are listed in setup.py).

| Variable             | Values               | Effect                                                                |
|----------------------|----------------------|-----------------------------------------------------------------------|
| IRESNET_FAST_BACKEND | reference, kernels   | force the plain-torch reference, or make missing kernels an error     |
| IRESNET_FAST_CPU_ISA | scalar, neon, avx2,  | instruction set of the CPU kernels, read by the extension (default:   |
|                      | avx512               | the best available, also if the named one is not)                     |
"""

import os
from typing import Final


def _one_of(name: str, choices: tuple[str, ...]) -> str | None:
    """Return the variable's value, None if unset or empty; ValueError if it is none of the choices."""
    value = os.environ.get(name) or None
    if value is not None and value not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}: correct it or unset it.")
    return value


BACKEND: Final = _one_of("IRESNET_FAST_BACKEND", ("reference", "kernels"))
