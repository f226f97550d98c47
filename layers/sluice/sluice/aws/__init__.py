"""Adapts AWS thinly: clients, queues, objects, and the keys of the state table."""
