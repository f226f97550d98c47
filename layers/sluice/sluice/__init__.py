"""Sluice: takes events in at once, keeps them safe, issues them upstream as full bulk-create jobs."""
