"""Decides whether a caller may send: keys, headers, sizes, limits."""
