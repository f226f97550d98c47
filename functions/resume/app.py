"""Brings parked messages back once a minute: probes of each paused account, or all of one that works
again.
"""

import functools
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import __version__, resume, runtime, settings
from sluice.errors import Retryable, place_of
from sluice.settings import ResumeSettings

_WRAP_UP_SECONDS: Final = 10.0

logger = Logger(version=__version__)
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> None:  # noqa: ARG001
    """Handles a tick of the schedule for Lambda."""
    end = runtime.monotonic() + context.get_remaining_time_in_millis() / 1_000 - _WRAP_UP_SECONDS
    store = resume.Store(settings.load(ResumeSettings))
    accounts = store.accounts()
    open_circuits = 0
    for done, (site_id, mark) in enumerate(accounts.items()):
        # Each gets a share of the time left, so that a large one does not take all of it.
        now = runtime.monotonic()
        share_end = now + (end - now) / (len(accounts) - done)
        try:
            is_open, sent = resume.resume(store, site_id, mark, functools.partial(_is_before, share_end))
        except Exception as error:
            cause = str(error) if isinstance(error, Retryable) else place_of(error)
            logger.error("not resumed", account=site_id, error=type(error).__name__, cause=cause)
            continue
        open_circuits += is_open
        logger.info("resumed", account=site_id, circuit_open=is_open, messages=sent)
    metrics.add_metric("OpenCircuits", MetricUnit.Count, open_circuits)


def _is_before(end: float) -> bool:
    return runtime.monotonic() < end
