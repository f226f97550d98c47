"""What the gateway costs and what it gains, measured on one machine beside what others do.

`make bench` runs all of it in its own environment; `docs/benchmarks.md` and `.json` are what it wrote.
"""
