"""Knows Klaviyo: the bodies that callers send, the API's rules, and delivery to it."""
