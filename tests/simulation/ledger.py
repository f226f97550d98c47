"""Knows where every event is, at every moment, and holds the invariants.

Each event carries a mark in its content, such as `<17>`. The models tell the ledger of every message and
object that comes and goes, the upstreams of every event that they take. So the ledger knows each event's
whereabouts without asking the gateway, and sees the very call that loses one.
"""

import base64
import math
import re
import urllib.parse
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import msgspec
import zstandard

from tests.simulation.aws.expressions import Item
from tests.simulation.aws.sqs import Message, Queue

_MARK = re.compile(rb"<(\d+)>")
MOST_SOON = 12  # receives of a message before its waits grow
PARKED = ("parked/", "unknown/")
GZIP, GZIP_BITS = b"\x1f\x8b", 31  # how gzipped content begins, and zlib's window bits for it
ARCHIVED = "rejections/"
NAMES = {"first_name", "last_name"}  # attributes of profiles
OF_EVENTS = ("events", "background")  # queues


class Kind(StrEnum):
    """Names what is wrong with an event."""

    GOOD = "good"
    REFUSED = "refused upstream"  # by a rule that only the upstream knows
    INVALID = "invalid"  # by the contract: it is rejected without being sent
    POISON = "ends its process"
    SPOILED = "its profile has a name that is refused"  # it may be taken without the name
    FAILING = "the upstream fails on it for ever"


class Broken(Exception):
    """Says that an invariant does not hold; `mark` is the event in question, if it is one."""

    def __init__(self, invariant: str, said: str, mark: int | None = None) -> None:
        super().__init__(f"{invariant}: {said}")
        self.invariant = invariant
        self.mark = mark


@dataclass(slots=True)
class Event:
    """Holds one event on its way; `places` are its positions in receipts."""

    mark: int
    account: str
    kind: Kind
    route: str
    single: bool = True  # a relationship of Pipeless's that is there once, whatever is written
    accepted: bool = False
    profile: dict[str, str] = field(default_factory=dict)  # as its caller names it
    known: bool = True  # the accounts document names its account, now or later
    queued: Counter[str] = field(default_factory=Counter)  # messages that hold it, by queue
    notices: int = 0  # of them that only tell of an object in which it is
    own_queue: str = ""  # on which it is, whenever it is on one for events
    stored: set[str] = field(default_factory=set)  # parked objects that hold it
    upstream: list[tuple[Any, ...]] = field(default_factory=list)  # identities under which it was taken
    archived: dict[str, str] = field(default_factory=dict)  # reasons by the rejections' ids
    disturbed: bool = False  # a fault met whoever had it in hand, so a second message of it may come
    returned: bool = False  # it was parked, and came back before its message was deleted
    copied: bool = False  # there was a second message of it, or its message was handed out twice
    unheard: bool = False  # it was taken, and no answer has said so yet
    unsure: bool = False  # the record that it is delivered, or its message's deletion, may be lost
    recorded: bool = False  # its receipt says that it is delivered
    repeat_refused: bool = False  # the upstream had it, and refused it again without naming anything
    repeat_met_fault: bool = False  # the same, but all of its account was refused so at that time
    not_answered: bool = False  # a request with it had no answer of the upstream's own
    refused_alone: int = 0  # requests with nothing but it that the upstream refused
    receives: int = 0  # of messages that hold it
    requests: int = 0  # to the upstream that hold it

    @property
    def waits(self) -> bool:
        """Tells whether the event is somewhere from where it will go on."""
        return bool(self.stored) or any(self.queued.values())

    @property
    def is_rejected(self) -> bool:
        """Tells whether a rejection of the event is stored."""
        return bool(self.archived) or any(
            self.queued[name] for name in ("rejected", "rejected-dead", "dead", "background-dead")
        )

    @property
    def may_repeat(self) -> bool:
        """Tells whether the gateway cannot know that the event is upstream, or not in time."""
        return self.copied or self.unheard or (self.unsure and not self.recorded)

    def state(self) -> str:
        """Describes the event and where it is."""
        queued = {name: count for name, count in self.queued.items() if count}
        return (
            f"event {self.mark} ({self.kind}, by {self.route} for {self.account}):"
            f" {'accepted' if self.accepted else 'not accepted'}; on queues {queued};"
            f" parked in {sorted(self.stored)}; upstream as {self.upstream}; archived {self.archived};"
            f" copied: {self.copied}; unheard: {self.unheard}; unsure: {self.unsure};"
            f" recorded: {self.recorded}; repeat refused unnamed: {self.repeat_refused};"
            f" refused alone: {self.refused_alone} times"
        )


class Ledger:
    """Holds all events of a run, and checks every report of the world against the invariants."""

    def __init__(self, *, requests_a_receive: int = 20) -> None:
        self._requests_a_receive = requests_a_receive  # to the upstream, at most
        self.events: dict[int, Event] = {}
        self.broken: Broken | None = None  # the first invariant that did not hold
        self.exceptions: Counter[str] = Counter()
        self.places: dict[tuple[str, int], int] = {}  # marks by receipt and place
        self.receipts: dict[str, dict[str, set[int]]] = defaultdict(
            lambda: {"delivered": set(), "rejected": set()}
        )
        self.message_of: dict[int, str] = {}  # the latest that holds an event
        self.objects: dict[str, bytes] = {}  # of claims and imports, by bucket and key
        self._complete: set[str] = set()  # receipts that will say what became of each event
        self._unnamed: dict[str, list[int]] = defaultdict(list)
        self._marks: dict[int, tuple[int, ...]] = {}  # of the messages on queues, by their identity

    def break_(self, invariant: str, said: str, mark: int | None = None) -> None:
        """Notes that an invariant does not hold. Nothing is raised: the functions must not notice."""
        if self.broken is None:
            self.broken = Broken(invariant, said, mark)

    def add(self, event: Event) -> None:
        """Expects an event."""
        self.events[event.mark] = event

    def accept(self, marks: Iterable[int]) -> None:
        """Notes that the gateway has said it has these events."""
        for mark in marks:
            event = self.events[mark]
            if not event.accepted:
                event.accepted = True
                self._check_there(event, "it was accepted")

    def name_places(self, receipt: str, places: dict[int, int]) -> None:
        """Learns from a caller what a receipt calls the events of the request."""
        for place, mark in places.items():
            self.places[receipt, place] = mark
        for place in self._unnamed.pop(receipt, ()):
            self._check_receipt(receipt, place, "rejected")

    def told(self, receipt: str, attributes: dict[str, Any]) -> None:
        """Hears what the gateway says of a bulk request."""
        events = [self.events[mark] for (of, _), mark in self.places.items() if of == receipt]
        upstream = sum(bool(event.upstream) for event in events)
        rejected = sum(event.is_rejected for event in events)
        completed, failed, total = (attributes[f"{name}_count"] for name in ("completed", "failed", "total"))
        is_complete = attributes["status"] == "complete"
        if completed > upstream or failed > rejected or total != len(events):
            self.break_(
                "receipts", f"{receipt} says {attributes}, but {upstream} upstream, {rejected} rejected"
            )
        if is_complete != (completed + failed >= total):
            self.break_("receipts", f"{receipt} says {attributes}")

    # Reports of the models.

    def queue_changed(self, what: str, queue: Queue, message: Message) -> None:
        """Hears of a message that comes, goes or is received."""
        if what in {"sent", "moved"}:
            self._came(queue, message)
            if what == "sent" and queue.name in OF_EVENTS:
                self._learn_places(message)
        elif what in {"deleted", "expired", "redriven"}:
            for mark in self._marks.pop(id(message)):
                event = self.events[mark]
                event.queued[queue.name] -= 1
                event.notices -= _is_notice(message)
                if what != "redriven":
                    self._check_there(event, f"message {message.id} was {what} from {queue.name}")
        elif what == "handed out twice":
            self.copied(message)
        elif what == "received":
            self._check_receives(queue, message)
            for mark in self._marks[id(message)]:
                self.events[mark].receives += 1

    def _came(self, queue: Queue, message: Message) -> None:
        self._marks[id(message)] = self.marks_of(message.body)
        is_notice = _is_notice(message)
        for mark in self._marks[id(message)]:
            event = self.events[mark]
            is_there = sum(event.queued[name] for name in OF_EVENTS) > event.notices or event.upstream
            if queue.name in OF_EVENTS:
                event.own_queue = event.own_queue or queue.name
                if event.own_queue != queue.name:
                    self.break_("own queue", f"it was on {event.own_queue}, and comes to {queue.name}", mark)
                if is_there and not is_notice:
                    self._came_again(event)
            event.queued[queue.name] += 1
            event.notices += is_notice
            self.message_of[mark] = message.id

    def _came_again(self, event: Event) -> None:
        if event.disturbed:
            event.copied = True
        elif event.stored:
            event.returned = True
        else:
            self.break_("queued once", "there is another message of it, and nothing was lost", event.mark)

    def object_changed(self, bucket: str, key: str, before: bytes | None, after: bytes | None) -> None:
        """Hears of an object that comes, goes or changes."""
        name = f"{bucket}/{key}"
        if key.startswith(PARKED):
            self._parked_changed(key, before, after)
        elif bucket == "archive" and after is not None:
            self._archived(after)
        elif after is not None:
            self.objects[name] = zlib.decompress(after, wbits=GZIP_BITS) if after.startswith(GZIP) else after

    def item_changed(self, table: str, before: Item | None, after: Item | None) -> None:
        """Hears of a write to the state table; receipts must tell the truth at once."""
        if after is None or not after["pk"]["S"].startswith("receipt#"):
            return
        *scope, receipt = after["pk"]["S"].split("#")
        if "total" in after:
            self._complete.add(receipt)
        for outcome in ("delivered", "rejected"):
            places = set(map(int, after.get(outcome, {}).get("NS", [])))
            new = places - self.receipts[receipt][outcome]
            self.receipts[receipt][outcome] = places
            for place in new:
                self._check_receipt(receipt, place, outcome)
                if (receipt, place) in self.places and scope[1:] != [self._account(receipt, place)]:
                    self.break_("receipts", f"{after['pk']['S']} is not of the account of place {place}")
                if outcome == "delivered" and (receipt, place) in self.places:
                    self.events[self.places[receipt, place]].recorded = True

    def _account(self, receipt: str, place: int) -> str:
        return self.events[self.places[receipt, place]].account

    def taken(self, account: str, identities: Iterable[tuple[int, tuple[Any, ...]]]) -> None:
        """Hears that an upstream has taken events, each under an identity."""
        for mark, identity in identities:
            event = self.events[mark]
            if event.account != account:
                self.break_("upstream once", f"{account} has an event of {event.account}", mark)
            if event.kind not in {Kind.GOOD, Kind.SPOILED, Kind.FAILING}:
                self.break_("upstream once", f"the upstream took what is {event.kind}", mark)
            event.unheard = True
            name = identity or (f"write {len(event.upstream) + 1}",)
            if event.kind is Kind.GOOD and event.archived:
                self.break_("one outcome", "the upstream takes what is archived", mark)
            if name not in event.upstream:
                event.upstream.append(name)
                if len(event.upstream) > 1:
                    self._check_twice(event)

    def named(self, profile: dict[str, str], marks: Collection[int]) -> None:
        """Hears that an upstream takes events of a profile, which must say what each of them says of it.

        Newer events say it in the place of older ones.
        """
        events = [self.events[mark] for mark in marks if self.events[mark].kind is Kind.GOOD]
        for event in events:
            for name in NAMES & event.profile.keys():
                said = {each.profile.get(name) for each in events}
                if profile.get(name) not in said - {None}:
                    told = f"{name} is {profile.get(name)} upstream, not one of {said}"
                    self.break_("profiles", told, event.mark)

    def disturb(self, marks: Iterable[int]) -> None:
        """Hears that a fault met whoever had these events in hand."""
        for mark in marks:
            event = self.events[mark]
            event.disturbed = True
            event.copied |= event.returned  # its message may stay

    def copied(self, message: Message) -> None:
        """Hears that a message is in two hands."""
        for mark in self._marks[id(message)]:
            self.events[mark].copied = self.events[mark].disturbed = True

    def heard(self, marks: Iterable[int]) -> None:
        """Hears that the sender of these events knows that they are taken."""
        for mark in marks:
            self.events[mark].unheard = False

    def unsure(self, marks: Iterable[int]) -> None:
        """Hears that it may not be recorded that these events are delivered."""
        for mark in marks:
            self.events[mark].unsure = True

    def lose_deletion(self, message: Message) -> None:
        """Hears that a message stays although it was to be deleted."""
        marks = self._marks.get(id(message), ())  # none if the function has deleted it
        self.disturb(marks)
        self.unsure(marks)

    def is_for_nobody(self, message: Message) -> bool:
        """Tells whether a message holds only events of an account that is never named."""
        marks = self._marks[id(message)]
        return bool(marks) and not any(self.events[mark].known for mark in marks)

    def arrived(self, marks: Iterable[int]) -> None:
        """Hears of a request that reaches an upstream. None has what is there already, unless it has to."""
        for mark in set(marks):
            event = self.events[mark]
            if event.upstream and not event.may_repeat:
                self.break_("sent once", "it is sent again, and nothing was lost", mark)

    def requested(self, marks: Iterable[int]) -> None:
        """Hears of a request to an upstream."""
        for mark in set(marks):
            self.events[mark].requests += 1

    def not_answered(self, marks: Iterable[int]) -> None:
        """Hears of a request that may have been taken, as far as anybody can tell who sent it."""
        for mark in marks:
            self.events[mark].not_answered = True

    def refused(self, marks: Iterable[int], *, named: bool) -> None:
        """Hears of a request that an upstream refuses for something in it, which it names or not."""
        found = set(marks)
        for mark in found:
            event = self.events[mark]
            event.refused_alone += len(found) == 1
            event.repeat_refused |= bool(event.upstream) and not named

    def all_refused(self, marks: Iterable[int]) -> None:
        """Hears of a request that is refused without naming anything, like all others of its account."""
        for mark in marks:
            self.events[mark].repeat_met_fault |= bool(self.events[mark].upstream)

    # Invariants at rest.

    def check_rest(self) -> None:
        """Checks what must be true of every event once nothing moves any more."""
        for event in self.events.values():
            if event.accepted:
                self._check_event_at_rest(event)

    def check_receipts(self, *, poison_only: bool) -> None:
        """Checks that receipts say all there is to say, in a run in which nothing kept them from it."""
        for receipt in self._complete:
            outcomes = self.receipts[receipt]
            marks = {place: mark for (of, place), mark in self.places.items() if of == receipt}
            if poison_only and any(self.events[mark].kind is not Kind.POISON for mark in marks.values()):
                continue  # what else a process had in hand when it ended may not be noted
            places = marks.keys()
            if missing := places - outcomes["delivered"] - outcomes["rejected"]:
                self.break_("receipts", f"{receipt} does not say what became of places {sorted(missing)}")

    def _check_event_at_rest(self, event: Event) -> None:
        mark, reasons = event.mark, set(event.archived.values())
        if event.requests > self._requests_a_receive * max(1, event.receives):
            self.break_(
                "nothing spins", f"it was in {event.requests} requests, received {event.receives} times", mark
            )
        if event.waits and event.known:
            self.break_("rest", "it still waits", mark)
        if event.waits and not event.upstream and not reasons:
            return  # nobody knows its account
        if not event.upstream and not reasons:
            self.break_("nothing lost", "it is nowhere", mark)
        if event.kind is Kind.GOOD:
            self._check_good(event)
            if reasons and event.upstream:
                self.exceptions["delivered, and its repeat refused without naming it"] += 1
            elif reasons:
                self.exceptions["sent without an answer, then refused without a reason"] += 1
        elif event.kind not in {Kind.SPOILED, Kind.FAILING} and not reasons:
            self.break_("nothing lost", f"it is {event.kind} and not archived", mark)

    def _check_good(self, event: Event) -> None:
        reasons = set(event.archived.values())
        if "dead_letter" in reasons:
            self.break_("no healthy dead letter", "it is a dead letter", event.mark)
        told_apart = {"probably_recorded", "duplicate_unique_id"} if event.upstream else set()
        if event.not_answered:
            told_apart.add("probably_recorded")
        if reasons - {"refused_by_upstream"} - told_apart:
            self.break_("no healthy rejection", f"it was rejected: {sorted(reasons)}", event.mark)
        if "refused_by_upstream" in reasons and not (event.refused_alone or event.repeat_refused):
            self.break_("no healthy rejection", "nobody refused it", event.mark)
        explained = {"duplicate_unique_id"}
        if event.repeat_met_fault:
            explained.add("probably_recorded")
        if reasons - explained and event.upstream and not event.repeat_refused:
            self.break_("one outcome", "it is upstream and archived", event.mark)

    def _check_receives(self, queue: Queue, message: Message) -> None:
        """Waits grow, so a message is not received more often than its age allows."""
        age = queue.clock() - (message.first_received or 0.0)
        most = MOST_SOON + math.log1p(age / 20.0) / math.log(1.1) + age / 400.0
        if message.receives > most:
            self.break_(
                "nothing spins", f"message {message.id} was received {message.receives} times in {age:.0f} s"
            )

    def _check_twice(self, event: Event) -> None:
        if event.account.startswith("pipeless-") and not event.single:
            self.exceptions["relationship that is not single, written again"] += 1
            return
        self.break_("upstream once", f"it is upstream as {event.upstream}", event.mark)

    def _check_there(self, event: Event, after: str) -> None:
        if event.accepted and not (event.waits or event.upstream or event.archived):
            self.break_("nothing lost", f"it is nowhere after {after}", event.mark)

    def _check_receipt(self, receipt: str, place: int, outcome: str) -> None:
        mark = self.places.get((receipt, place))
        if mark is None and outcome == "rejected":
            self._unnamed[receipt].append(place)  # of a lenient request; its caller has no answer yet
            return
        if mark is None:
            self.break_("receipts", f"receipt {receipt} names place {place}, which it does not have")
            return
        event = self.events[mark]
        if outcome == "delivered" and not event.upstream:
            self.break_("receipts", f"receipt {receipt} says it is delivered", mark)
        if outcome == "rejected" and not event.is_rejected:
            # Ingest writes it with the rejection, before anything else.
            self.break_("receipts", f"receipt {receipt} says it is rejected", mark)

    def _parked_changed(self, key: str, before: bytes | None, after: bytes | None) -> None:
        now = self.marks_parked(after) if after is not None else set()
        for mark in now:
            self.events[mark].stored.add(key)
        gone = self.marks_parked(before) - now if before is not None else set()
        for mark in gone:
            self.events[mark].stored.discard(key)
            self._check_there(self.events[mark], f"{key} was written")

    def marks_parked(self, packed: bytes) -> set[int]:
        """Returns the marks of the events in a parked object."""
        return set(marks_in(unpacked(packed)))

    def _archived(self, lines: bytes) -> None:
        for line in lines.splitlines():
            rejection = msgspec.json.decode(line)
            for mark in self._marks_of_rejection(line):
                event = self.events[mark]
                event.archived[rejection["id"]] = rejection["reason"]
                if event.kind is Kind.GOOD:
                    self._check_good(event)

    def _marks_of_rejection(self, content: bytes) -> tuple[int, ...]:
        payload = msgspec.json.decode(content)["payload"]
        found = [*marks_in(content)]
        if isinstance(payload, str):  # the body of a message that nobody looked into
            found += self.marks_of(payload)
        return tuple(dict.fromkeys(found))

    def marks_of(self, body: str) -> tuple[int, ...]:
        """Returns the marks of the events that a message's body holds, or points to."""
        content = self._content(body)
        if content.startswith(b'{"reason":'):
            return self._marks_of_rejection(content)
        return tuple(dict.fromkeys(marks_in(content)))

    def _content(self, body: str) -> bytes:
        """Returns the content of a message's body, with the objects it points to."""
        if body.startswith('{"sluice":1,"zstd":'):
            return unpacked(base64.b64decode(msgspec.json.decode(body)["zstd"]))
        if body.startswith('{"sluice":1,"claim":'):
            return unpacked(self.objects[f"claims/{msgspec.json.decode(body)['claim']}"])
        if body.startswith('{"Records":'):
            where = msgspec.json.decode(body)["Records"][0]["s3"]
            key = urllib.parse.unquote_plus(where["object"]["key"])
            return self.objects.get(f"{where['bucket']['name']}/{key}", b"")
        return body.encode("utf-8", "surrogatepass")

    def _learn_places(self, message: Message) -> None:
        """Notes what a request's receipt will call its events."""
        content = self._content(message.body)
        if not content.startswith(b'{"sluice":'):
            for receipt, place, mark in _places_of_raw(message.id, content):
                self.places[receipt, place] = mark
            return
        stored = msgspec.json.decode(content)
        if stored["sluice"] == 2:
            for index, event in enumerate(stored["events"]):
                self.places[stored["receipt"], index] = next(iter(marks_in(msgspec.json.encode(event))))
            return
        for number, entry in enumerate(stored["entries"]):
            for position, event in enumerate(entry["events"]):
                place = event.get("entry_index", number) * 1_000 + event.get("event_index", position)
                self.places[stored["receipt"], place] = next(iter(marks_in(msgspec.json.encode(event))))


def _is_notice(message: Message) -> bool:
    """Tells whether a message only tells of an object."""
    return message.body.startswith('{"Records":')


def marks_in(content: bytes) -> Iterable[int]:
    """Yields the marks of the events in some text."""
    return map(int, _MARK.findall(content))


def unpacked(content: bytes) -> bytes:
    """Returns what was compressed by zstd."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(content)


def _places_of_raw(receipt: str, content: bytes) -> Iterable[tuple[str, int, int]]:
    try:
        document = msgspec.json.decode(content)
        entries = document["data"]["attributes"]["events-bulk-create"]["data"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        for index, mark in enumerate(dict.fromkeys(marks_in(content))):
            yield receipt, index, mark
        return
    for number, entry in enumerate(entries):
        for position, event in enumerate(entry["attributes"]["events"]["data"]):
            for mark in marks_in(msgspec.json.encode(event)):
                yield receipt, number * 1_000 + position, mark
