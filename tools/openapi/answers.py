"""Defines the answers of the routes as types: the counterpart of `sluice.klaviyo.schemas`."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sluice import jsonapi


class _Answer(Struct, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Source(_Answer):
    """Says where the problem is; empty if it is nowhere in particular."""

    pointer: Annotated[str, Meta(description="JSON pointer into the caller's document.")] | UnsetType = UNSET
    parameter: Annotated[str, Meta(description="Name of a header or query parameter.")] | UnsetType = UNSET


class Error(_Answer):
    """Describes one problem."""

    id: Annotated[str, Meta(description="Of this problem in this answer.")]
    status: Annotated[int, Meta(description="The answer's HTTP status.")]
    code: Annotated[str, Meta(extra_json_schema={"enum": sorted(jsonapi.TITLES)})]
    title: str
    detail: Annotated[str, Meta(description="The mistake and how to put it right, without the value.")]
    source: Source
    links: dict[str, Any]
    meta: dict[str, Any]


class Errors(_Answer):
    """Defines the one shape of every refusal."""

    errors: Annotated[
        list[Error],
        Meta(
            min_length=1,
            max_length=jsonapi.MAX_PROBLEMS_LISTED + 1,
            description=f"Each problem. Ours: after {jsonapi.MAX_PROBLEMS_LISTED}, one that counts the rest.",
        ),
    ]


class AcceptedAttributes(_Answer):
    status: Literal["queued"]
    created_at: datetime
    total_count: Annotated[int, Meta(ge=1, description="Events of the request.")]
    failed_count: (
        Annotated[int, Meta(ge=1, description="Events left out by lenient handling.")] | UnsetType
    ) = UNSET


class AcceptedData(_Answer):
    type: Literal["event-bulk-create-job"]
    id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="The receipt.")]
    attributes: AcceptedAttributes


class AcceptedMeta(_Answer):
    errors: Annotated[
        list[Error], Meta(min_length=1, description="The problems of the events that were left out.")
    ]


class Accepted(_Answer):
    """Describes a stored request. Ours: Klaviyo's answer is empty."""

    data: AcceptedData
    meta: AcceptedMeta | UnsetType = UNSET


class ProgressAttributes(_Answer):
    status: Annotated[
        Literal["queued", "processing", "complete"],
        Meta(description="`queued` until the first outcome, `complete` once each event has one."),
    ]
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime
    total_count: Annotated[int, Meta(ge=1)]
    completed_count: Annotated[int, Meta(ge=0, description="Events delivered.")]
    failed_count: Annotated[int, Meta(ge=0, description="Events rejected.")]


class ProgressData(_Answer):
    type: Literal["event-bulk-create-job"]
    id: str
    attributes: ProgressAttributes


class StringErrors(_Answer):
    """Lists every problem, each as a string: its place, as a JSON pointer, and the problem."""

    errors: Annotated[list[str], Meta(min_length=1)]


class Stored(_Answer):
    """Describes a stored batch. Ours: Pipeless's answer is not documented."""

    receipt: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]


class DeliveryMeta(_Answer):
    receipt: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    events: Annotated[int, Meta(ge=0, description="Events stored, by this delivery or an earlier one.")]
    rejected: Annotated[int, Meta(ge=0, description="Rejections.")]
    repeated: Annotated[int, Meta(ge=0, description="Those of the events that an earlier delivery brought.")]
    unidentified: Annotated[int, Meta(ge=0, description="Events of nobody, left to a later delivery.")]


class Delivery(_Answer):
    """Describes the result of a webhook's delivery. Ours."""

    meta: DeliveryMeta


class Progress(_Answer):
    """Describes what became of a bulk request. Ours, in the shape of Klaviyo's other bulk jobs."""

    data: ProgressData
