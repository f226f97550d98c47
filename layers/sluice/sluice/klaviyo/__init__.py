"""Klaviyo: what callers send, what its API documents, and delivering to it."""
