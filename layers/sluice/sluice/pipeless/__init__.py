"""Handles Pipeless's batches of events, from a request to the calls of ten that are made of them."""
