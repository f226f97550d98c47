"""A body becomes stamped entries, or every problem in it, by pointer."""
