"""Measures the cost and the gain of the gateway, on one machine and beside other tools.

`make bench` runs all of it in its own environment, and writes `docs/benchmarks.md` and `.json`.
"""
