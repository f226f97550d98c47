"""Implements `sluicectl import`: the rows of a file become events, and are sent in parts."""
