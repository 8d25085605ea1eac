"""Bounds of the norms of linear maps that are true whatever rounding does."""
