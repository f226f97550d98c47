"""Delivers events to Acme, an upstream that does not exist: the least that a vendor's folder holds."""
