"""Draws the load of a run from the seed: requests by every route, webhooks, messages, objects of lines."""

import base64
import hashlib
import hmac
import random
import urllib.parse
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from sluice import message
from sluice.contract import Surface
from sluice.klaviyo import parser
from sluice.message import Message
from tests.simulation.ledger import GZIP_BITS, Event, Kind
from tests.simulation.scheduler import START

EVENTS = 200  # of a run, at least
KLAVIYO = ("AbC123", "XyZ789")
LATE = "QrS456"  # is named in the accounts document only later
UNKNOWN = "Nobody"  # is never named
APPS = (123, 456)
CALLS_PER_MINUTE = 60  # to one app
DROPS = "drops"
_REVISION = "2026-07-15"
_REFUSED, _FAILING, POISON = "badone", "failone", "killer"
SPOILED = "badname"  # a name for which an upstream refuses a profile, but not others of the same address
_METRICS = ("Placed Order", "Viewed Product", "Started Checkout")
BULK, _EVENT = "/api/event-bulk-create-jobs", "/api/events"
_CLIENT_BULK, _CLIENT_EVENT = "/client/event-bulk-create", "/client/events"
SOURCE, WEBHOOK_SECRET = "shop", "the secret of the shop"


@dataclass
class Request:
    """Describes a caller's request, which is sent again until it is answered, if that is harmless."""

    at: float
    path: str
    headers: dict[str, str]
    query: dict[str, str]
    body: bytes
    places: dict[int, int]  # marks by place
    bad: frozenset[int] = frozenset()  # marks of what is rejected, as the caller is lenient
    again: bool = True
    synchronous: bool = False

    @property
    def is_gzipped(self) -> bool:
        """Tells whether the body is compressed."""
        return "Content-Encoding" in self.headers


@dataclass
class Produced:
    """Describes a message that a producer puts on EventsQueue, or operate on BackgroundQueue."""

    at: float
    body: str
    attributes: dict[str, str]
    marks: tuple[int, ...]
    is_background: bool = False


@dataclass
class Dropped:
    """Describes an object of lines that a producer writes, and its notification on the queue.

    An operator imports it if it `is_background`.
    """

    at: float
    key: str
    content: bytes
    metadata: dict[str, str]
    marks: tuple[int, ...]
    is_background: bool = False

    @property
    def bucket(self) -> str:
        """Returns the bucket that it is written to."""
        return "claims" if self.is_background else DROPS


@dataclass
class Load:
    """Holds everything that is sent in a run; `named_at` is when the late account is named."""

    actions: list[Request | Produced | Dropped] = field(default_factory=list)
    events: dict[int, Event] = field(default_factory=dict)
    named_at: float = 0.0
    end: float = 0.0


def ingest_key(account: str) -> str:
    """Returns the key that callers of an account use."""
    return f"key-of-{account}"


def private_key(account: str) -> str:
    """Returns the key of an account at its vendor."""
    return f"pk_{account}"


_PRODUCERS = ["queue", f"s3://{DROPS}/"]


def accounts_document(late: bool) -> str:
    """Returns the accounts document, with or without the account that is named late."""

    def keys(account: str) -> list[dict[str, Any]]:
        digest = hashlib.sha256(ingest_key(account).encode()).hexdigest()
        return [{"sha256": digest, "scopes": ["events:write", "events:read"]}]

    klaviyo = [*KLAVIYO, LATE] if late else KLAVIYO
    document = {
        "accounts": [
            {
                "site_id": each,
                "private_key": private_key(each),
                "keys": keys(each),
                "producers": _PRODUCERS,
            }
            for each in klaviyo
        ],
        "pipeless": [
            {
                "app_id": each,
                "api_key": private_key(f"pipeless-{each}"),
                "keys": keys(f"pipeless-{each}"),
                "calls_per_minute": CALLS_PER_MINUTE,
                "producers": _PRODUCERS,
            }
            for each in APPS
        ],
    }
    return msgspec.json.encode(document).decode()


def sources_document() -> bytes:
    """Returns the sources document: a shop that tells of its orders again and again."""
    profile = {"email": "payload().email"}
    common = {"profile": profile, "object_id": "concat('order:', order)", "waits_for_identity": True}
    items = {
        "metric": {"expression": "name"},
        "each": "items",
        "unique_id": "id",
        "properties": {"mark": "mark", "note": "note"},
        **common,
    }
    paid = {
        "metric": {"expression": "paid.name"},
        "when": "paid != null",
        "unique_id": "paid.id",
        "properties": {"mark": "paid.mark", "note": "paid.note"},
        **common,
    }
    source = {
        "account": KLAVIYO[1],
        "signature": {"scheme": "shopify"},
        "secret": SOURCE,
        "events": {"items": items, "paid": paid},
    }
    return msgspec.json.encode({"sources": {SOURCE: source}})


@dataclass(frozen=True)
class Mix:
    """Says how likely an event is bad in some way, and what else is rare."""

    refused: float = 0.0
    poison: float = 0.0
    failing: float = 0.0
    spoiled: float = 0.0  # an entry whose profile has a name that is refused
    large: float = 0.0  # a request that needs a claim check
    gzipped: float = 0.0  # a body or an object
    moved: float = 0.0  # a later delivery of an order that names somebody else


class Maker:
    """Makes the load of one run."""

    def __init__(self, chance: random.Random, mix: Mix, seconds: float) -> None:
        self._chance = chance
        self._mix = mix
        self._seconds = seconds
        self._load = Load()
        self._poison_left = 2
        self._scale = chance.choice((1, 3, 6))  # many small requests, or some larger ones

    def make(self) -> Load:
        """Returns the load."""
        load, chance = self._load, self._chance
        makers = (
            (self._bulk, 20),
            (self._lenient, 8),
            (self._single, 20),
            (self._client_bulk, 6),
            (self._client_single, 8),
            (self._batch, 20),
            (self._synchronous, 3),
            (self._produced, 12),
            (self._produced_batch, 4),
            (self._junk, 2),
            (self._dropped, 2),
            (self._replayed, 10),
            (self._replayed_batch, 4),
            (self._imported, 2),
            (self._order, 5),
        )
        load.named_at = self._seconds * chance.uniform(0.5, 1.5)
        while len(load.events) < EVENTS:
            [(maker, _)] = chance.choices(makers, [weight for _, weight in makers])
            maker(self._seconds * chance.random())
        if chance.random() < self._mix.large:
            self._large(self._seconds * chance.random())
        for action in load.actions:
            if isinstance(action, Request):
                self._share_poison(action)
        load.actions.sort(key=lambda each: each.at)
        load.end = max(self._seconds, load.named_at)
        return load

    def last_words(self, at: float) -> list[Produced]:
        """Returns messages of good events, for each account."""
        calm = Maker(self._chance, Mix(), self._seconds)
        calm._load = self._load
        words: list[tuple[str, dict[str, Any], list[int]]] = []
        for account in (*KLAVIYO, LATE):
            event, mark = calm._event(account, "last word", plain=True)
            calm._name(event, mark, account)
            words.append((account, {"data": event}, [mark]))
        for app in APPS:
            events, marks = calm._happenings(app, "last word", plain=True)
            words.append((f"pipeless-{app}", {"events": events}, marks))
        return [
            Produced(at, msgspec.json.encode(document).decode(), {"account": account}, tuple(marks))
            for account, document, marks in words
        ]

    # Routes of the API.

    def _bulk(self, at: float, *, lenient: bool = False) -> None:
        account = self._account()
        sizes = [self._size() for _ in range(self._chance.randint(1, 4))]
        route = "lenient bulk" if lenient else "bulk"
        entries, places = self._entries(account, sizes, route, invalid=0.2 if lenient else 0.0)
        document = _bulk_document(entries)
        headers = {"Prefer": "handling=lenient"} if lenient else {}
        bad = frozenset(m for m in places.values() if self._load.events[m].kind is Kind.INVALID)
        if len(bad) == len(places):
            for mark in places.values():  # nothing good in it, so all of it is refused and it does not count
                del self._load.events[mark]
            return
        self._request(at, BULK, account, document, places, headers=headers, bad=bad)

    def _lenient(self, at: float) -> None:
        self._bulk(at, lenient=True)

    def _single(self, at: float) -> None:
        for _ in range(self._chance.randint(1, 3)):
            account = self._account()
            event, mark = self._event(account, "event")
            self._name(event, mark, account)
            self._request(at + self._chance.random(), _EVENT, account, {"data": event}, {0: mark})

    def _client_bulk(self, at: float) -> None:
        account = self._account()
        [entry], places = self._entries(account, [self._size()], "client bulk")
        self._request(at, _CLIENT_BULK, account, {"data": entry}, places, client=True)

    def _client_single(self, at: float) -> None:
        account = self._account()
        event, mark = self._event(account, "client event")
        self._name(event, mark, account)
        self._request(at, _CLIENT_EVENT, account, {"data": event}, {0: mark}, client=True)

    def _batch(self, at: float, *, synchronous: bool = False) -> None:
        app = self._chance.choice(APPS)
        events, marks = self._happenings(app, "synchronous batch" if synchronous else "batch")
        document: dict[str, Any] = {"events": events}
        if synchronous:
            document["synchronous"] = True
        account = f"pipeless-{app}"
        headers = {"Authorization": f"Bearer {ingest_key(account)}", "Content-Type": "application/json"}
        self._load.actions.append(
            Request(
                at,
                f"/v1/apps/{app}/events/batch",
                headers,
                {},
                msgspec.json.encode(document),
                dict(enumerate(marks)),
                # A batch has no identity: sent again it is another, unless all of it is there once anyway.
                again=not synchronous and all(self._load.events[mark].single for mark in marks),
                synchronous=synchronous,
            )
        )

    def _synchronous(self, at: float) -> None:
        self._batch(at, synchronous=True)

    def _large(self, at: float) -> None:
        account = self._chance.choice(KLAVIYO)
        entries, places = self._entries(account, [3, 4, 5], "large bulk")
        for entry in entries:
            for event in entry["attributes"]["events"]["data"]:
                event["attributes"]["properties"]["padding"] = self._chance.randbytes(75_000).hex()[:99_000]
        self._request(at, BULK, account, _bulk_document(entries), places)

    # Webhooks.

    def _order(self, at: float) -> None:
        """Makes the deliveries that tell of one order. Any of them may come first, or twice."""
        chance = self._chance
        order = str(len(self._load.events))
        items = [self._item("Ordered Product") for _ in range(self._size())]
        paid = self._item("Paid Order")
        is_ever_paid = chance.random() < 0.7
        person = self._person()
        for number in range(chance.randint(1, 3)):
            # While nobody is named the events wait for a delivery that names somebody.
            lot = chance.random()
            email = None if lot < 0.15 else self._person() if lot > 1 - self._mix.moved else person
            is_paid = is_ever_paid and (number > 0 or chance.random() < 0.5)
            told = [*items, paid] if is_paid else items
            places = dict(enumerate(each["mark"] for each in told)) if email else {}
            document = {
                "order": order,
                "email": email,
                "items": [_written(item) for item in items],
                "paid": _written(paid) if is_paid else None,
            }
            later = at + number * chance.choice((0.0, 1.0, 60.0))
            for repeat in range(1 if chance.random() < 0.8 else 2):
                self._deliver(later + repeat, msgspec.json.encode(document), places)
        if chance.random() < 0.05:
            mark = self._mark(KLAVIYO[1], Kind.INVALID, "webhook")
            self._deliver(at, f"this is no JSON <{mark}>".encode(), {0: mark})

    def _deliver(self, at: float, body: bytes, places: dict[int, int]) -> None:
        signature = hmac.digest(WEBHOOK_SECRET.encode(), body, "sha256")
        headers = {
            "Content-Type": "application/json",
            "X-Shopify-Hmac-Sha256": base64.b64encode(signature).decode(),
        }
        self._load.actions.append(Request(at, f"/webhooks/{SOURCE}", headers, {}, body, places))

    def _item(self, metric: str) -> dict[str, Any]:
        kind = self._kind(KLAVIYO[1], plain=True)
        mark = self._mark(KLAVIYO[1], kind, "webhook")
        name = f"{metric} {_REFUSED}" if kind is Kind.REFUSED else metric
        note = _FAILING if kind is Kind.FAILING else None
        return {"mark": mark, "id": f"u-{mark}", "name": name, "note": note}

    # Messages of producers.

    def _produced(self, at: float) -> None:
        account = self._chance.choice((*KLAVIYO, LATE, *([UNKNOWN] if self._chance.random() < 0.1 else [])))
        if account not in KLAVIYO:
            self._stored(at, account)
            return
        invalid = self._chance.random() < 0.1
        if self._chance.random() < 0.5:
            entries, places = self._entries(account, [self._size()], "producer's bulk", plain=True)
            marks = tuple(places.values())
            if invalid:
                entries[0]["attributes"]["events"]["data"][0]["attributes"]["value"] = "much"
            document = _bulk_document(entries)
        else:
            event, mark = self._event(account, "producer's event", plain=True)
            self._name(event, mark, account)
            if invalid:
                event["attributes"]["value"] = "much"
            document, marks = {"data": event}, (mark,)
        if invalid:
            self._spoil(marks)
        self._produce(at, msgspec.json.encode(document).decode(), {"account": account}, marks)

    def _stored(self, at: float, account: str) -> None:
        """Puts a request on the queue that was accepted while the document named its account."""
        stored, mark = self._stored_event(at, account, "stored event")
        self._produce(at, message.encode(stored).text, {}, (mark,))

    def _stored_event(self, at: float, account: str, route: str) -> tuple[Message[Any], int]:
        event, mark = self._event(account, route, plain=True)
        self._name(event, mark, account)
        body, accepted = msgspec.json.encode({"data": event}), datetime.fromtimestamp(START + at, UTC)
        read = parser.read(Surface.EVENT, body, _REVISION, accepted)
        return Message(f"{mark:032x}", account, Surface.EVENT, accepted, read.entries), mark

    # Operators' work.

    def _replayed(self, at: float) -> None:
        account = self._chance.choice((*KLAVIYO, LATE))
        stored, mark = self._stored_event(at, account, "replayed event")
        stored.replayed = [f"{mark:032x}"]
        self._operate(at, message.encode(stored).text, (mark,))

    def _replayed_batch(self, at: float) -> None:
        app = self._chance.choice(APPS)
        events, marks = self._happenings(app, "replayed batch", plain=True)
        document = {
            "sluice": 2,
            "receipt": f"{marks[0]:032x}",
            "app_id": app,
            "accepted": datetime.fromtimestamp(START + at, UTC),
            "events": events,
            "replayed": [f"{mark:032x}" for mark in marks],
        }
        self._operate(at, msgspec.json.encode(document).decode(), tuple(marks))

    def _operate(self, at: float, body: str, marks: tuple[int, ...]) -> None:
        self._load.actions.append(Produced(at, body, {}, marks, is_background=True))

    def _imported(self, at: float) -> None:
        self._dropped(at, is_background=True)

    def _produced_batch(self, at: float) -> None:
        app = self._chance.choice(APPS)
        events, marks = self._happenings(app, "producer's batch", plain=True)
        body = msgspec.json.encode({"events": events}).decode()
        self._produce(at, body, {"account": f"pipeless-{app}"}, tuple(marks))

    def _junk(self, at: float) -> None:
        mark = self._mark("unknown", Kind.INVALID, "junk")
        self._produce(at, f"this is no JSON <{mark}>", {}, (mark,))

    def _dropped(self, at: float, *, is_background: bool = False) -> None:
        account = self._chance.choice(KLAVIYO)
        lines: list[bytes] = []
        marks: list[int] = []
        is_long = self._chance.random() < 0.2
        for _ in range(self._chance.randint(60, 120) if is_long else self._chance.randint(5, 25)):
            if self._chance.random() < 0.02:
                marks.append(self._mark(account, Kind.INVALID, "object's line"))
                lines.append(f"this is no JSON <{marks[-1]}>".encode())
                continue
            event, mark = self._event(account, "object's line", plain=True)
            self._name(event, mark, account)
            if self._chance.random() < 0.1:
                event["attributes"]["value"] = "much"
                self._spoil((mark,))
            marks.append(mark)
            lines.append(msgspec.json.encode({"data": event}))
        key = f"{'imports/' if is_background else ''}export-{marks[0]}.jsonl"
        content = b"\n".join(lines) + b"\n"
        if self._chance.random() < self._mix.gzipped:
            content = zlib.compress(content, 1, wbits=GZIP_BITS)
        named = {"account": account}
        self._load.actions.append(Dropped(at, key, content, named, tuple(marks), is_background))

    # Parts.

    def _share_poison(self, request: Request) -> None:
        """Notes that what is in one message with poison shares its fate: nobody can look into it."""
        events = [self._load.events[mark] for mark in request.places.values()]
        if any(event.kind is Kind.POISON for event in events):
            for event in events:
                if event.kind is not Kind.INVALID:
                    event.kind = Kind.POISON

    def _request(
        self,
        at: float,
        path: str,
        account: str,
        document: Any,
        places: dict[int, int],
        *,
        headers: dict[str, str] | None = None,
        bad: frozenset[int] = frozenset(),
        client: bool = False,
    ) -> None:
        given = {"Content-Type": "application/vnd.api+json", "revision": _REVISION, **(headers or {})}
        query = {"company_id": account} if client else {}
        if not client:
            given["Authorization"] = f"Klaviyo-API-Key {ingest_key(account)}"
        body = msgspec.json.encode(document)
        # Without an identity of its own an event sent again is another event.
        again = body.count(b'"unique_id"') >= len(places)
        if self._chance.random() < self._mix.gzipped:
            given["Content-Encoding"] = "gzip"
            body = zlib.compress(body, 1, wbits=GZIP_BITS)
        self._load.actions.append(Request(at, path, given, query, body, places, bad, again=again))

    def _produce(self, at: float, body: str, attributes: dict[str, str], marks: tuple[int, ...]) -> None:
        self._load.actions.append(Produced(at, body, attributes, marks))

    def _entries(
        self, account: str, sizes: list[int], route: str, *, invalid: float = 0.0, plain: bool = False
    ) -> tuple[list[dict[str, Any]], dict[int, int]]:
        entries: list[dict[str, Any]] = []
        places: dict[int, int] = {}
        for number, size in enumerate(sizes):
            events = []
            spoiled = self._chance.random() < self._mix.spoiled
            refused = spoiled or self._chance.random() < self._mix.refused / 3
            for position in range(size):
                event, mark = self._event(account, route, invalid=invalid, plain=plain)
                events.append(event)
                places[number * 1_000 + position] = mark
                made = self._load.events[mark]
                if refused and made.kind is not Kind.INVALID:
                    is_named = spoiled and made.kind is not Kind.REFUSED
                    made.kind = Kind.SPOILED if is_named else Kind.REFUSED
            profile = self._profile(account)
            if spoiled:
                profile["attributes"]["last_name"] = SPOILED
                for event in events:
                    event["attributes"]["properties"].pop("note", None)
            elif refused:
                profile["attributes"]["email"] = f"{_REFUSED}{profile['attributes']['email']}"
                for event in events:  # one reason is enough, and no event may end a process by the way
                    event["attributes"]["properties"].pop("note", None)
            for position in range(size):
                self._load.events[places[number * 1_000 + position]].profile = profile["attributes"]
            attributes = {"profile": {"data": profile}, "events": {"data": events}}
            entries.append({"type": "event-bulk-create", "attributes": attributes})
        return entries, places

    def _event(
        self, account: str, route: str, *, invalid: float = 0.0, plain: bool = False
    ) -> tuple[dict[str, Any], int]:
        chance = self._chance
        kind = self._kind(account, plain=plain)
        if chance.random() < invalid:
            kind = Kind.INVALID
        mark = self._mark(account, kind, route)
        name = chance.choice(_METRICS)
        properties: dict[str, Any] = {"mark": f"<{mark}>"}
        if kind is Kind.REFUSED:
            name = f"{name} {_REFUSED}"
        if kind is Kind.FAILING:
            properties["note"] = _FAILING
        if kind is Kind.POISON:
            properties["note"] = POISON
        attributes: dict[str, Any] = {
            "properties": properties,
            "metric": {"data": {"type": "metric", "attributes": {"name": name}}},
        }
        if chance.random() < 0.85:
            attributes["unique_id"] = f"u-{mark}"
        if chance.random() < 0.5:
            attributes["time"] = "2026-10-31T12:00:00Z"
        if kind is Kind.INVALID:
            attributes["value"] = "much"
        return {"type": "event", "attributes": attributes}, mark

    def _happenings(
        self, app: int, route: str, *, plain: bool = False
    ) -> tuple[list[dict[str, Any]], list[int]]:
        events, marks = [], []
        for _ in range(self._chance.randint(1, 10)):
            account = f"pipeless-{app}"
            kind = self._kind(account, plain=plain or route == "synchronous batch")
            if route == "synchronous batch":
                kind = Kind.GOOD
            mark = self._mark(account, kind, route)
            relationship: dict[str, Any] = {"type": "liked"}
            if self._chance.random() < 0.2:
                relationship["single"] = False
                self._load.events[mark].single = False
            said = {Kind.REFUSED: _REFUSED, Kind.POISON: POISON, Kind.FAILING: _FAILING}.get(kind, "u")
            events.append(
                {
                    "start_object": {"id": f"{said}<{mark}>", "type": "user"},
                    "relationship": relationship,
                    "end_object": {"id": f"a{self._chance.randrange(9)}", "type": "article"},
                }
            )
            marks.append(mark)
        return events, marks

    def _kind(self, account: str, *, plain: bool) -> Kind:
        """Draws the fault of the next event; a producer's, `plain`, ends no process."""
        lot, mix = self._chance.random(), self._mix
        if lot < mix.refused:
            return Kind.REFUSED
        if lot < mix.refused + mix.failing:
            return Kind.FAILING
        if lot < mix.refused + mix.failing + mix.poison and self._poison_left and not plain:
            self._poison_left -= 1
            return Kind.POISON
        return Kind.GOOD

    def _mark(self, account: str, kind: Kind, route: str) -> int:
        mark = len(self._load.events) + 1
        while mark in self._load.events:
            mark += 1
        self._load.events[mark] = Event(mark, account, kind, route, known=account != UNKNOWN)
        return mark

    def _spoil(self, marks: tuple[int, ...]) -> None:
        for mark in marks:
            self._load.events[mark].kind = Kind.INVALID

    def _profile(self, account: str) -> dict[str, Any]:
        attributes: dict[str, Any] = {"email": self._person()}
        if self._chance.random() < 0.3:
            attributes["first_name"] = self._chance.choice(("Ann", "Bob", "Cy"))
        if self._chance.random() < 0.5:
            attributes["last_name"] = self._chance.choice(("Ash", "Birch"))
        return {"type": "profile", "attributes": attributes}

    def _name(self, event: dict[str, Any], mark: int, account: str) -> None:
        """Gives an event that has none beside it a profile."""
        profile = self._profile(account)
        event["attributes"]["profile"] = {"data": profile}
        self._load.events[mark].profile = profile["attributes"]

    def _person(self) -> str:
        return f"c{self._chance.randrange(40)}@mail.example"

    def _account(self) -> str:
        return self._chance.choices(KLAVIYO, (3, 1))[0]

    def _size(self) -> int:
        return self._chance.choice((1, 1, 2, 3, 5)) * self._scale


def notice(bucket: str, key: str, etag: str, at: float) -> str:
    """Returns S3's word of a new object, as it puts it on a queue."""
    when = f"2026-11-01T{int(at) // 3600 % 24:02}:{int(at) // 60 % 60:02}:{int(at) % 60:02}.000Z"
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": when,
        "eventName": "ObjectCreated:Put",
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": bucket},
            "object": {
                "key": urllib.parse.quote_plus(key),
                "size": 1,
                "eTag": etag.strip('"'),
                "sequencer": f"{int((START + at) * 1000):X}",
            },
        },
    }
    return msgspec.json.encode({"Records": [record]}).decode()


def _written(item: dict[str, Any]) -> dict[str, Any]:
    """Returns an item of an order as the shop tells of it."""
    return {**item, "mark": f"<{item['mark']}>"}


def _bulk_document(entries: list[dict[str, Any]]) -> dict[str, Any]:
    attributes = {"events-bulk-create": {"data": entries}}
    return {"data": {"type": "event-bulk-create-job", "attributes": attributes}}
