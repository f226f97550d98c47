"""Loads the ingest handler as Lambda does, with little else in the process."""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

_APP: Final = Path(__file__).parent.parent / "functions/ingest/app.py"

type Handler = Callable[[dict[str, Any]], Any]


def load() -> Handler:
    """Returns the handler, which raises where a request is not answered 202."""
    spec = importlib.util.spec_from_file_location("ingest_app", _APP)
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    for each in app.logger.handlers:
        each.setStream(io.StringIO())
    context = SimpleNamespace(
        function_name="ingest",
        memory_limit_in_mb="1024",
        invoked_function_arn="arn:aws:lambda:us-east-1:123456789012:function:ingest",
        aws_request_id="request-1",
    )

    def call(request: dict[str, Any]) -> Any:
        with contextlib.redirect_stdout(io.StringIO()):  # Powertools prints the metrics
            answer = app.handler(request, context)
        if answer["statusCode"] != 202:
            raise RuntimeError(f"ingest answered {answer['statusCode']}: {answer['body'][:300]}")
        return answer

    return call
