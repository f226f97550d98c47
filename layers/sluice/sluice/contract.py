"""Defines the limits and names of the event APIs, each beside its source.

"Vendor" limits are stated in the vendors' documents. "Ours" settle what those leave open
(docs/compatibility.md lists them, docs/adr says why).
"""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final


class Surface(StrEnum):
    """Names the way in which a body came in, which decides its shape and how positions in it are written."""

    BULK = "bulk"
    EVENT = "event"
    CLIENT_BULK = "client-bulk"
    CLIENT_EVENT = "client-event"
    WEBHOOK = "webhook"  # ours: the events of one delivery, as an array of Create Event's `data`


# Requests: the vendor's.
MAX_EVENTS_PER_REQUEST: Final = 1_000
MAX_BODY_BYTES_IN: Final = 5_242_880  # ours: "5 MB" read generously for callers
MAX_CLIENT_BODY_BYTES: Final = 524_288  # ours: of callers without a key, unless the operator allows more
MAX_BODY_BYTES_OUT: Final = 5_000_000  # ours: and strictly towards the upstream
MEDIA_TYPES: Final = frozenset({"application/json", "application/vnd.api+json"})
SCOPE_EVENTS_WRITE: Final = "events:write"
SCOPE_EVENTS_READ: Final = "events:read"

# Revisions: ours, but for the two dates on which the vendor changed a limit.
UPSTREAM_REVISION: Final = "2026-07-15"
SUPPORTED_FOR: Final = timedelta(days=2 * 365)  # then a revision is served by a newer one
PROPERTIES_400_SINCE: Final = "2025-04-15"
YEAR_1990_SINCE: Final = "2026-07-15"

# Events: the vendor's.
MAX_PROPERTIES: Final = 400
MAX_PROPERTIES_BEFORE_2025_04_15: Final = 300
MAX_STRING_BYTES: Final = 102_400  # ours: "100 KB" as bytes of UTF-8
MAX_PROFILE_BYTES: Final = 97_280  # ours: "95 KB" as bytes of the profile's JSON
MAX_ARRAY_LENGTH: Final = 4_000
MAX_NESTING: Final = 10  # ours: `properties` itself is level 1
MAX_METRIC_NAME: Final = 127
MAX_METRICS: Final = 200  # of an account; stated until 2023-06-15, so applied only if an account asks for it
MAX_ANONYMOUS_METRICS: Final = 10  # ours: callers without a key may use these beside the account's own
MAX_UNIQUE_ID: Final = 255
ANONYMOUS_IDS: Final = "anonymous/"  # ours: the unique_ids of callers without a key begin so upstream
MAX_EXTERNAL_ID: Final = 255  # observed in the field by another sender, not stated by the vendor
MAX_EMAIL: Final = 99
MAX_EVENT_BYTES: Final = (
    MAX_BODY_BYTES_OUT - 500
)  # ours: with its profile; leaves room for stamps and the enclosing JSON
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**63 - 1
EARLIEST_TIME: Final = datetime(1990, 1, 1, tzinfo=UTC)
EARLIEST_TIME_BEFORE_2026_07_15: Final = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_TIME_AHEAD: Final = timedelta(days=365)

IDENTIFIERS: Final = ("id", "email", "phone_number", "external_id", "anonymous_id", "_kx")

# Single events, inbound: the vendor's. Bulk requests have the limits that the upstream has for us.
EVENT_BURST_LIMIT: Final = 350
EVENT_STEADY_LIMIT: Final = 3_500

# Upstream: the vendor's.
KLAVIYO_BASE_URL: Final = "https://a.klaviyo.com"
BULK_CREATE_JOBS_PATH: Final = "/api/event-bulk-create-jobs"
BURST_LIMIT: Final = 10
STEADY_LIMIT: Final = 150

# Pipeless: the vendor's.
PIPELESS_BASE_URL: Final = "https://api.pipeless.io"
PIPELESS_EVENTS_PATH: Final = "/v1/apps/{app_id}/events/batch"
PIPELESS_MEDIA_TYPES: Final = frozenset({"application/json"})
PIPELESS_SURFACE: Final = "pipeless"  # ours: what its requests are called on the queue and in rejections
MAX_EVENTS_PER_CALL: Final = 10
MAX_OBJECT_ID: Final = 40
OBJECT_TYPES: Final = frozenset(
    {
        *("user", "product", "image", "comment", "article", "post", "video", "content", "tag", "category"),
        *("app", "book", "person", "skill", "job", "company", "account", "card", "country", "state"),
        *("film", "cart"),
    }
)
RELATIONSHIP_TYPES: Final = frozenset(
    {
        *("posted", "followed", "liked", "favorited", "saved", "disliked", "purchased", "commentedOn"),
        *("created", "viewed", "reported", "blocked", "deleted", "authored", "used", "dismissed"),
        *("loggedIn", "taggedWith", "categorizedIn", "interestedIn", "locatedIn", "readQuarter"),
        *("readHalf", "readAll", "subscribedTo", "subscribedFrom", "addedTo", "madeBy", "pausedOn"),
    }
)
CALLS_PER_MINUTE: Final = 120  # ours: the vendor states no limit, and a month of this is five million calls
MIN_CALLS_PER_MINUTE: Final = 60  # ours: enough to find a bad event among ten while one worker waits
