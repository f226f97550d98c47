"""Posts jobs to Klaviyo's API."""

from sluice.accounts import KlaviyoAccount
from sluice.contract import BULK_CREATE_JOBS_PATH, UPSTREAM_REVISION
from sluice.delivery import http
from sluice.delivery.http import AcquireSlot, Client
from sluice.delivery.responses import Response
from sluice.jsonapi import MEDIA_TYPE


async def create_job(
    client: Client, account: KlaviyoAccount, private_key: str, body: bytes, acquire_slot: AcquireSlot
) -> Response:
    """Posts one bulk job for an account, in its slot; raises what `acquire_slot` raises."""
    headers = {
        "Authorization": f"Klaviyo-API-Key {private_key}",
        "revision": UPSTREAM_REVISION,
        "Accept": MEDIA_TYPE,
        "Content-Type": MEDIA_TYPE,
    }
    url = account.base_url.rstrip("/") + BULK_CREATE_JOBS_PATH
    return await http.post_in_slot(client, url, headers, body, acquire_slot)
