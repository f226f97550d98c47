"""Implements the command `upload`: where a client writes arguments that exceed an invocation."""

from datetime import datetime
from typing import Annotated, Final

from pydantic import Field

from sluice.operate.command import Access, Arguments, Command, Context, Result

REQUEST_PREFIX: Final = "operate/requests/"  # of uploaded arguments, in the archive bucket
ANSWER_PREFIX: Final = "operate/answers/"  # of results that exceed an invocation
MAX_UPLOAD_BYTES: Final = 64 * 2**20  # a request is held in memory


class UploadArguments(Arguments):
    """Says how many bytes will be uploaded: the URL is good for no other number."""

    size: Annotated[int, Field(ge=1, le=MAX_UPLOAD_BYTES)]


class UploadResult(Result):
    """Says where to PUT the arguments, and the key by which the request then names them."""

    key: str
    url: str
    expires_at: datetime


def _upload(arguments: UploadArguments, context: Context) -> UploadResult:
    link = context.ports.transfers.offer_upload(size=arguments.size)
    return UploadResult(key=link.key, url=link.url, expires_at=link.expires_at)


UPLOAD: Final = Command("upload", Access.ADMIN, UploadArguments, UploadResult, _upload)
