"""Posts calls to Acme's API."""

from sluice.delivery import http
from sluice.delivery.http import Client
from sluice.delivery.responses import Response

from .message import AcmeAccount


async def create_events(client: Client, account: AcmeAccount, body: bytes) -> Response:
    """Posts one call for an account."""
    headers = {"Authorization": f"Bearer {account.api_key}", "Content-Type": "application/json"}
    return await http.post(client, f"{account.base_url}/v1/events", headers, body, http.TOTAL_SECONDS)
