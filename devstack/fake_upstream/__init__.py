"""Plays Klaviyo's bulk events API and Pipeless's batches, to test a client against.

It takes `POST /api/event-bulk-create-jobs` with `Authorization: Klaviyo-API-Key <key>`, enforces the
documented rules and rate limits (fixed windows: 10 a second, 150 a minute, for each account), keeps what it
took, and fails on demand.

Control, on the same address:
  GET  /_standin/health
  GET  /_standin/summary            counts for each account
  GET  /_standin/events?site_id=    every event taken, one JSON object a line, in order
  GET  /_standin/requests?site_id=  the request log
  GET  /_standin/settings
  PUT  /_standin/settings           replaces the settings named, keeps the others
  POST /_standin/reset              forgets everything, returns to the settings of the start

Settings:
  burst_limit, steady_limit  requests in 1 s and in 60 s; null is no limit
  rate_limit_headers         RateLimit-* speak of the "steady" window, or of the "binding" one with all
                             policies (10, 10;w=1, 150;w=60), or there are "none"
  attribution                what a 400 lists: "all" problems, the "first", or where they are, less precisely:
                             "none" (points at /data), the "entry", its list of "events", or a "parameter"
  duplicates                 a repeated unique_id makes a job "fail", or is dropped: "ignore"
  duplicate_scope            what a unique_id is unique for: a profile's "metric", a "profile" or an "account"
  duplicate_pointer          where a refusal of a repeat points: at the "unique_id", the "event", the "entry",
                             its list of "events", or "none" (at /data)
  unreal_phone_numbers       a number that nobody can have (+1555...) is kept ("take"), left out and told in
                             X-Klaviyo-Partial-Failure ("ignore"; alone it is refused), or refused ("refuse")
  nulls                      a null for location, meta and its parts: "take" it as absent, or "refuse" it
  refused_fields             names of attributes of profiles and events that are refused if they are there
  dropped                    texts; an event with one in its profile's e-mail is accepted and then dropped
  poison                     [{"contains": text, "attributed": true}]: valid items refused all the same,
                             by e-mail or metric name; not attributed points at /data
  faults                     a list, each {"kind": ..., "site_id": null, "count": null, "probability": 1}
  seed                       of the generator behind the probabilities

Kinds of faults, and what each adds:
  latency          seconds          handled, answered late
  throttle         retry_after, retry_after_as: "seconds" | "date" | "absent"
  json             status           an error that points at /data
  html             status           an error page
  reset            taken: false     the connection is reset, the job taken or not
  hang             taken: true      no answer until the caller hangs up, the job taken or not
  partial_failure  field            X-Klaviyo-Partial-Failure on a success

Faults strike requests that pass authentication and limits; they are counted as requests. Events without a
unique_id count once a second for a profile and metric, the others are lost, as with Klaviyo.

Beside it, it takes Pipeless's `POST /v1/apps/{app_id}/events/batch` with `Authorization: Bearer <key>`, and
keeps what that writes: one object for each type and id, one relationship where it is `single`.

  GET  /_standin/pipeless/summary                counts for each app
  GET  /_standin/pipeless/calls?app_id=          every call taken, with its events as sent, in order
  GET  /_standin/pipeless/objects?app_id=        every object as it is now, first written first
  GET  /_standin/pipeless/relationships?app_id=  every relationship
  GET  /_standin/pipeless/requests?app_id=       the log of calls
  GET, PUT /_standin/pipeless/settings           limit (calls in 1 s; null is none), faults, seed, poison
                                                 (texts; one in an id makes an event bad)
  POST /_standin/pipeless/reset

Its faults are Klaviyo's but for partial_failure, and name an app's id as their `site_id`.

In process: `httpx2.Client(transport=transport(Klaviyo({"AbC123": "pk_test"})))`, or `Pipeless({123: "key"})`.
"""

from devstack.fake_upstream.inprocess import transport
from devstack.fake_upstream.klaviyo import Klaviyo, RequestLine, TakenEvent
from devstack.fake_upstream.pipeless import Pipeless
from devstack.fake_upstream.server import serving
from devstack.fake_upstream.settings import PipelessSettings, Settings

__all__ = [
    "Klaviyo",
    "Pipeless",
    "PipelessSettings",
    "RequestLine",
    "Settings",
    "TakenEvent",
    "serving",
    "transport",
]
