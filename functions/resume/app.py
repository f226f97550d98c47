"""Brings parked messages back once a minute: probes of an account with an open circuit, or all of one that
works again.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from sluice import __version__, resume, runtime, settings
from sluice.errors import Retryable, place_of
from sluice.resume import ParkedAccount, Resumed
from sluice.settings import ResumeSettings
from sluice.wiring import accounts as wiring

_WRAP_UP_SECONDS: Final = 10.0
_ACCOUNTS_LOGGED: Final = 20

logger = Logger(version=__version__)
metrics = Metrics()


@metrics.log_metrics
@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> None:  # noqa: ARG001
    """Handles a tick of the schedule for Lambda."""
    end = runtime.monotonic() + context.get_remaining_time_in_millis() / 1_000 - _WRAP_UP_SECONDS
    store = resume.Store(settings.load(ResumeSettings))
    results = _resume(store, store.parked_accounts(), end)
    metrics.add_metric("OpenCircuits", MetricUnit.Count, sum(each.is_open for each in results))
    metrics.add_metric("PausedAccounts", MetricUnit.Count, sum(each.is_paused for each in results))
    # Known accounts come first, so that unknown ones take no time from them.
    unknown = store.unknown_accounts()
    metrics.add_metric("UnknownAccounts", MetricUnit.Count, len(unknown))
    if unknown:
        logger.warning("unknown accounts", accounts=unknown[:_ACCOUNTS_LOGGED], number=len(unknown))
        accounts = wiring.load(store.settings.config_bucket, _report)
        results += _resume(store, resume.now_known(unknown, accounts), end)
    metrics.add_metric("NotSealed", MetricUnit.Count, sum(each.not_sealed for each in results))


def _resume(store: resume.Store, accounts: Sequence[ParkedAccount], end: float) -> list[Resumed]:
    """Resumes accounts until `end`; returns the results of those that did not fail."""
    results: list[Resumed] = []
    for done, account in enumerate(accounts):
        # Each gets a share of the time left, so that a large one does not take all of it.
        now = runtime.monotonic()
        if now >= end:
            logger.warning("no time left", accounts=len(accounts) - done)
            break
        share_end = now + (end - now) / (len(accounts) - done)
        try:
            result = resume.resume(store, account, functools.partial(_is_before, share_end))
        except Exception as error:
            cause = str(error) if isinstance(error, Retryable) else place_of(error)
            logger.error("not resumed", account=account.id, error=type(error).__name__, cause=cause)
            continue
        results.append(result)
        logger.info(
            "resumed",
            account=account.id,
            circuit_open=result.is_open,
            paused=result.is_paused,
            messages=result.messages,
        )
        if result.not_sealed:
            logger.error("parked objects not sealed", account=account.id, objects=result.not_sealed)
    return results


def _report(cause: str) -> None:
    logger.critical("accounts not loaded", cause=cause)


def _is_before(end: float) -> bool:
    return runtime.monotonic() < end
