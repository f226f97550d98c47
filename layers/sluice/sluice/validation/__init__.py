"""Explains in general how a JSON document does not fit a type, and finds repeated keys."""
