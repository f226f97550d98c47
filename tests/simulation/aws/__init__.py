"""Models the AWS services in memory, in the shapes of their boto3 clients.

A model knows nothing of faults, latency or scheduling: `client.Client` puts those around each call. A
contract test runs one table of calls against these models and against moto, so that they do not drift. An
operation or a parameter that the models do not know raises `NotImplementedError`.
"""
