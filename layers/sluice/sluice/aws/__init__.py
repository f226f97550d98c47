"""Thin adapters to AWS: clients, queues, objects, and the keys of the state table."""
