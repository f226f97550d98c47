"""Answers an API's requests: Lambda's event in, `sluice.ingest_api`, the answer out."""

import functools
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit, single_metric
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import __version__
from sluice.ingest_api import IngestApi
from sluice.wiring.ingest import IngestPorts

logger = Logger(version=__version__)
metrics = Metrics()


class _Counts:
    """Counts in CloudWatch's embedded metric format."""

    def count(self, name: str, value: int = 1, **dimensions: str) -> None:
        """Adds to a metric, apart from the rest where it has dimensions of its own."""
        if not dimensions:
            metrics.add_metric(name, MetricUnit.Count, value)
            return
        with single_metric(name, MetricUnit.Count, value) as metric:
            for dimension, text in dimensions.items():
                metric.add_dimension(dimension, text)


@functools.cache
def api() -> IngestApi:
    """Returns the process's API, with all that the process remembers."""
    counts = _Counts()
    return IngestApi(IngestPorts(logger, counts), logger, counts)


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:  # noqa: ARG001
    """Answers a request of a REST API, an HTTP API, a function URL or a load balancer."""
    return api().handle(event)
