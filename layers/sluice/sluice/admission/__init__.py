"""Who asks, and whether they may: keys, headers, sizes, limits."""
