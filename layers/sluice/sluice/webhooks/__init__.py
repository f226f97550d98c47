"""Deliveries of webhooks: declared sources, signatures, and the mapping of payloads to events."""
