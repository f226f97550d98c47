"""Takes events in at once, keeps them safe, and sends them upstream as full bulk jobs."""

__version__ = "0.1.0"
