"""Provides the operator's command line, `sluicectl`, for a deployment on AWS or on your machine."""
