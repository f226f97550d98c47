"""Serves a page on this machine, for those who operate a deployment with a browser."""
