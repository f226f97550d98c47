"""Simulates deterministically: the real functions in a simulated world that one seed decides."""
