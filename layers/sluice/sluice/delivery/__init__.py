"""Delivers queued events upstream, whichever vendor's they are: limits, waits, circuits, poison, HTTP."""
