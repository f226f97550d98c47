"""Builds the AWS-backed ports of each function's use cases: a module each, so that imports stay few."""
