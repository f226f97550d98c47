"""Posts batches to Pipeless's API."""

from sluice.accounts import PipelessApp
from sluice.contract import PIPELESS_EVENTS_PATH
from sluice.delivery import http
from sluice.delivery.http import Client
from sluice.delivery.responses import Response


async def create_events(
    client: Client, app: PipelessApp, private_key: str, body: bytes, seconds: float = http.TOTAL_SECONDS
) -> Response:
    """Posts one batch for an app. Its minutes have no windows that a request could be late for."""
    headers = {
        "Authorization": f"Bearer {private_key}",
        "Accept": "application/json",
        "Content-Type": "application/json",
    }
    url = app.base_url.rstrip("/") + PIPELESS_EVENTS_PATH.format(app_id=app.app_id)
    return await http.post(client, url, headers, body, seconds)
