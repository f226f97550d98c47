"""Answers operators: Lambda's event in, the request's command, the answer out."""

from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import __version__, settings
from sluice.operate import door
from sluice.settings import OperateSettings
from sluice.wiring.operate import operate_ports

logger = Logger(version=__version__)
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: object, context: LambdaContext) -> dict[str, Any]:
    """Answers one request; the alias that was invoked says what its caller may do."""
    configuration = settings.load(OperateSettings)
    answer = door.answer(
        event,
        door.access_of(context.invoked_function_arn),
        configuration,
        operate_ports(configuration, context.function_name),
        logger,
    )
    metrics.add_metric("OperatorRequests", MetricUnit.Count, 1)
    return answer
