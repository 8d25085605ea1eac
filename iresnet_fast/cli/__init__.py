"""The command line: `iresnet-fast train|evaluate|sample|reconstruct|info`."""

from .main import main

__all__ = ["main"]
