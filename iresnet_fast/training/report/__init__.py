"""A run on one page: what the model is, how good it is, what it makes, and how to use it."""

from ._write import NAME, write_report

__all__ = ["NAME", "write_report"]
