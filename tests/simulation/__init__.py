"""The deterministic simulator: the real functions in a pretended world that one seed decides."""
