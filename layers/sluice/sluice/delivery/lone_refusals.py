"""Tells bad events from a bad upstream, where single events are refused and nobody says why.

Such a refusal may be the event's fault or the account's. Once something of the account is delivered, the
event is sent again, and is rejected if it is refused again. Until then it waits. If several events are
refused so for a while and nothing is delivered, the account's circuit opens. If there are only one or two,
they are rejected at last.

The item `refusals#<account>` of the state table tells the next invocation what this one learned. It is
written after such a refusal, after a request without an answer, and when a delivery ends the doubt: never
while all is well.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Set
from hashlib import blake2b
from typing import Any, Final, Protocol

import msgspec

from sluice import runtime
from sluice.aws import clients, state_table
from sluice.errors import Retryable

SEVERAL: Final = 3  # events; fewer may all be bad
MANY: Final = 10  # events; an invocation looks no further for a good one among so many
OPEN_AFTER_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 3_600.0  # after which one or two events are bad, although nothing was delivered
FORGET_SECONDS: Final = 86_400.0
MAX_EVENTS: Final = 50
MAX_UNANSWERED: Final = 2_000  # messages
_ATTEMPTS: Final = 4


class RefusedEvent(msgspec.Struct, frozen=True):
    """Says when an event was first refused without a reason (epoch seconds).

    It `was_unanswered` if a request with it had got no answer before, so that the upstream may have it.
    It `is_bad` if something of its account was delivered since, or if it was rejected. Copies of its message
    are then refused for the same reason. It `is_likely_bad` if something was delivered between the first
    refusal of a job with it and its own.
    """

    at: float
    was_unanswered: bool = False
    is_bad: bool = False
    is_likely_bad: bool = False


class RefusalRecord(msgspec.Struct, frozen=True):
    """Holds what invocations learned of an account: refused events by name, and messages whose request got no
    answer, since `unanswered_at`.
    """

    events: dict[str, RefusedEvent] = {}
    unanswered: frozenset[str] = frozenset()
    unanswered_at: float = 0.0

    def in_doubt(self) -> dict[str, RefusedEvent]:
        """Returns the refused events since whose refusal nothing was delivered."""
        return {name: event for name, event in self.events.items() if not event.is_bad}


class LoneRefusal(msgspec.Struct, frozen=True):
    """Holds an event that was refused alone and without a reason.

    `request` is the number of the last request that was sent when it was refused. It `is_likely_bad` if
    something was delivered since a job with it was refused. This is no proof: everything may be refused since
    that delivery. But it `is_bad` if all others of that job are delivered. `reject` rejects it, and
    `send_again` sends it once more and tells whether it is delivered.
    """

    name: str
    messages: Set[int]
    status: int
    request: int
    reject: Callable[[], None]
    send_again: Callable[[], Awaitable[bool]]
    was_unanswered: Callable[[], bool] = lambda: False
    is_likely_bad: bool = False
    is_bad: bool = False


type Change = Callable[[RefusalRecord], RefusalRecord]


class Recorder(Protocol):
    """Keeps an account's record of refusals for other invocations; may raise `Retryable`."""

    async def __call__(self, *, account_id: str, change: Change) -> RefusalRecord:
        """Changes an account's record, and returns it."""
        ...


class Verdict(msgspec.Struct, frozen=True):
    """Says which messages wait because of lone refusals, and with which status the circuit opens, if so."""

    waiting: Set[int] = frozenset()
    status: int | None = None


class LoneRefusals:
    """Collects the lone refusals of one account in one invocation; `record` is what others learned."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.record = RefusalRecord()
        self._now = now
        self._pending: list[LoneRefusal] = []
        self.delivered = 0  # number of the latest request of which something was delivered
        self._unanswered: set[str] = set()
        self._rejected_in_doubt: set[str] = set()
        self._rejected: set[str] = set()
        self._sent_again: set[str] = set()  # after something was delivered
        self._being_sent: list[LoneRefusal] = []  # again
        self._not_sent: list[LoneRefusal] = []  # again, although something was delivered

    def mark_delivered(self, request: int) -> None:
        """Records that a request, by its number, delivered something."""
        self.delivered = max(self.delivered, request)
        self._rejected_in_doubt.clear()

    def mark_unanswered(self, messages: Iterable[str]) -> None:
        """Records messages, by name, of which something was sent that got no answer."""
        self._unanswered.update(messages)

    def was_unanswered(self, message: str) -> bool:
        """Tells whether a message had a request that got no answer, in this invocation or before."""
        return message in self._unanswered or message in self.record.unanswered

    def was_answered(self, event: str) -> bool:
        """Tells whether an event was refused before, and by no means recorded."""
        return event in self.record.events and not self.record.events[event].was_unanswered

    @property
    def is_account_suspect(self) -> bool:
        """Tells whether so many events were refused that the account may be at fault."""
        is_many = len(self._known()) >= SEVERAL or len(self._here()) >= MANY
        return is_many and not is_patience_over(self.record, self._now())

    def waiting(self) -> set[int]:
        """Returns the numbers of the messages with a refusal that is not settled."""
        return {number for refusal in [*self._pending, *self._being_sent] for number in refusal.messages}

    def add(self, refusal: LoneRefusal) -> None:
        """Rejects a refused event if it is surely bad; any other waits for `settle`."""
        if self._is_bad(refusal) or is_patience_over(self.record, self._now()):
            self._reject(refusal)
        else:
            self._pending.append(refusal)

    async def settle(self, account_id: str, record: Recorder) -> Verdict:
        """Sends events again if the doubt is over, records the others and returns what becomes of them."""
        await self.send_again()
        kept, self._not_sent = self._not_sent, []
        self._reject_probably_recorded()
        refused = {refusal.name: refusal.was_unanswered() for refusal in [*self._pending, *kept]}
        refused |= dict.fromkeys(self._rejected_in_doubt, True)
        likely_bad = {refusal.name for refusal in self._pending if refusal.is_likely_bad}
        bad = {refusal.name for refusal in kept}
        if self.delivered:
            bad |= self.record.in_doubt().keys()
        now = self._now()

        def change(record: RefusalRecord) -> RefusalRecord:
            return updated(
                record,
                now,
                refused=refused,
                bad=bad,
                likely_bad=likely_bad,
                rejected=self._rejected - refused.keys(),
                unanswered=self._unanswered,
            )

        if change(self.record) != self.record:
            try:
                self.record = await record(account_id=account_id, change=change)
            except Retryable:
                return Verdict(self.waiting())
        return self._verdict(now)

    async def send_again(self) -> None:
        """Sends the events again that were refused before something was delivered: the fault may be over.

        Their vendor keeps those that are neither delivered nor rejected then.
        """
        again = [refusal for refusal in self._pending if not self._is_in_doubt(refusal)]
        self._pending = [refusal for refusal in self._pending if self._is_in_doubt(refusal)]
        self._sent_again.update(refusal.name for refusal in again)
        self._being_sent += again
        for refusal in again:
            if not await refusal.send_again() and refusal.name not in self._rejected:
                self._not_sent.append(refusal)
            self._being_sent.remove(refusal)

    def _reject_probably_recorded(self) -> None:
        """Rejects the first events of which the upstream may have refused a repeat, if they are few."""
        doubted = self._known() | self._rejected_in_doubt
        waiting = []
        for refusal in self._pending:
            doubted.add(refusal.name)
            if refusal.was_unanswered() and len(doubted) < SEVERAL:
                self._rejected_in_doubt.add(refusal.name)
                self._reject(refusal)
            else:
                waiting.append(refusal)
        self._pending = waiting

    def _verdict(self, now: float) -> Verdict:
        status = next((refusal.status for refusal in self._pending), None)
        return Verdict(self.waiting(), status if opens_circuit(self.record, now) else None)

    def _reject(self, refusal: LoneRefusal) -> None:
        self._rejected.add(refusal.name)
        refusal.reject()

    def _is_bad(self, refusal: LoneRefusal) -> bool:
        """Tells whether an event is surely bad: by its job, or as it is refused again after a delivery."""
        known = self.record.events.get(refusal.name)
        is_known_bad = known is not None and known.is_bad
        return is_known_bad or refusal.is_bad or refusal.name in self._sent_again

    def _is_in_doubt(self, refusal: LoneRefusal) -> bool:
        """Tells whether nothing was delivered since an event was refused."""
        return refusal.request >= self.delivered

    def _known(self) -> set[str]:
        """Returns the events that other invocations left in doubt."""
        return set() if self.delivered else set(self.record.in_doubt())

    def _here(self) -> set[str]:
        """Returns the events that this invocation has in doubt."""
        pending = {refusal.name for refusal in self._pending if self._is_in_doubt(refusal)}
        return pending | self._rejected_in_doubt


def name_of(*parts: str | bytes) -> str:
    """Returns a short name for what these parts identify."""
    digest = blake2b(digest_size=9)
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


def updated(
    record: RefusalRecord,
    now: float,
    *,
    refused: Mapping[str, bool] | None = None,
    bad: Set[str] = frozenset(),
    likely_bad: Set[str] = frozenset(),
    rejected: Set[str] = frozenset(),
    unanswered: Set[str] = frozenset(),
) -> RefusalRecord:
    """Returns a record with what an invocation learned.

    `refused` are its lone refusals, and whether a request with the event got no answer before. `bad` are
    events since whose refusal something was delivered, and so are those of the record that were `rejected`.
    `likely_bad` are events whose neighbours were delivered before.
    """
    events = {
        name: msgspec.structs.replace(event, is_bad=True) if name in bad | rejected else event
        for name, event in record.events.items()
        if now - event.at < FORGET_SECONDS
    }
    for name, was_unanswered in (refused or {}).items():
        events.setdefault(name, RefusedEvent(now, was_unanswered, name in bad, name in likely_bad))
    events = dict(sorted(events.items(), key=_by_use)[:MAX_EVENTS])
    if unanswered <= record.unanswered:
        return msgspec.structs.replace(record, events=events)
    is_old = now - record.unanswered_at > PATIENCE_SECONDS or len(record.unanswered) >= MAX_UNANSWERED
    kept, since = (frozenset[str](), now) if is_old else (record.unanswered, record.unanswered_at)
    return RefusalRecord(events, kept | frozenset(sorted(unanswered)[:MAX_UNANSWERED]), since)


def _by_use(item: tuple[str, RefusedEvent]) -> tuple[bool, float]:
    """Orders events by how much they tell: those in doubt, the oldest first, and then the latest bad ones."""
    event = item[1]
    return event.is_bad, -event.at if event.is_bad else event.at


def opens_circuit(record: RefusalRecord, now: float) -> bool:
    """Tells whether so many events are refused for so long that the account is at fault.

    An event that may be recorded already is refused for that, and one that is likely bad for its own fault.
    So they say nothing of the account.
    """
    since = _unexplained(record)
    return len(since) >= SEVERAL and now - min(since) >= OPEN_AFTER_SECONDS


def is_patience_over(record: RefusalRecord, now: float) -> bool:
    """Tells whether too few events are refused, for too long, to suspect the account any longer."""
    since = [event.at for event in record.in_doubt().values()]
    few = len(_unexplained(record)) < SEVERAL
    return few and bool(since) and now - min(since) >= PATIENCE_SECONDS


def _unexplained(record: RefusalRecord) -> list[float]:
    """Returns when events were refused for which nothing but their account gives a reason."""
    return [
        event.at for event in record.in_doubt().values() if not (event.was_unanswered or event.is_likely_bad)
    ]


def update(table: str, account_id: str, change: Change) -> RefusalRecord:
    """Changes an account's record, again until nobody came between."""
    for _ in range(_ATTEMPTS):
        record, version = _load(table, account_id)
        changed = change(record)
        if changed == record or _store(table, account_id, changed, version):
            return changed
    raise Retryable("too many workers change the account's record of refusals at the same time")


def record_of(item: Mapping[str, Any] | None) -> RefusalRecord:
    """Returns the record that an item of the state table holds; an empty one if there is no item."""
    return msgspec.json.decode(item["record"]["S"], type=RefusalRecord) if item else RefusalRecord()


def _load(table: str, account_id: str) -> tuple[RefusalRecord, int]:
    with clients.failing_fast(clients.dynamodb, "the state table cannot be read") as client:
        key = state_table.REFUSALS.key(account_id)
        item = client.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")
    return record_of(item), int(item["version"]["N"]) if item else 0


def _store(table: str, account_id: str, record: RefusalRecord, version: int) -> bool:
    with clients.failing_fast(clients.dynamodb, "the state table cannot be written") as client:
        try:
            client.put_item(
                TableName=table,
                Item={
                    **state_table.REFUSALS.key(account_id),
                    "record": {"S": msgspec.json.encode(record).decode()},
                    "version": {"N": str(version + 1)},
                    "expires_at": state_table.REFUSALS.expiry(runtime.time()),
                },
                ConditionExpression="attribute_not_exists(pk) OR version = :version",
                ExpressionAttributeValues={":version": {"N": str(version)}},
            )
        except client.exceptions.ConditionalCheckFailedException:
            return False
    return True
