"""Reads and writes the records table.

A record is written once, when its rejection is archived, and once for each change of its state: three write
units in a usual life. Writing it again changes nothing. The counters of groups are added up once for each
batch. All functions raise `Retryable` if the table cannot be used now.
"""

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import batched, chain, islice
from typing import Any, Final

import msgspec

from sluice import runtime
from sluice.aws import clients
from sluice.errors import Retryable
from sluice.records import items
from sluice.records.cause import Cause
from sluice.records.items import Group, Item
from sluice.records.record import Record, State, is_record_id

MAX_GROUPS: Final = 1_000  # of an account; strangers choose what makes a group
MAX_ACCOUNTS: Final = 5_000
OTHER: Final = "other"  # the group of what is above these
_ACCOUNTS: Final = "accounts"
_LARGE_PAGE: Final = 1_000  # items
_BATCH_READ: Final = 100  # keys of one BatchGetItem
_BATCH_WRITE: Final = 25  # items of one BatchWriteItem
_ATTEMPTS: Final = 6
_UNREADABLE: Final = "the records table cannot be read"
_UNWRITABLE: Final = "the records table cannot be written"
_THROTTLED: Final = "the records table is throttled"


class Filter(msgspec.Struct, frozen=True):
    """Says which records are meant; what is None does not matter. `profile` is a keyed hash."""

    account: str | None = None
    group: str | None = None
    reason: str | None = None
    metric: str | None = None
    profile: str | None = None
    source: str | None = None
    receipt: str | None = None
    state: State | None = None
    since: datetime | None = None
    until: datetime | None = None


class Page(msgspec.Struct, frozen=True):
    """Holds some records, the last accepted ones first; `next` is where the next page begins."""

    records: list[Record]
    next: str | None


class RecordsTable(msgspec.Struct, frozen=True):
    """Reaches the table with a name. Records expire `keep` after their rejection, as the archive does."""

    name: str
    keep: timedelta

    def add(self, new: Sequence[tuple[Record, Cause]]) -> list[Record]:
        """Writes the records that are not there yet, counts them in their groups, and returns them."""
        known = {record.id for record in self.find_many(record.id for record, _ in new)}
        fresh = list({record.id: (record, why) for record, why in new if record.id not in known}.values())
        if not fresh:
            return []
        placed = [(self._placed(record), why) for record, why in fresh]
        now = runtime.now()
        # First, because records of a day that is not marked are in no list, and are not written again.
        self._mark_days({record.id for record, _ in placed}, now)
        self._write(items.record_item(record, self._expiry(record.rejected_at)) for record, _ in placed)
        self._count(placed, now)
        return [record for record, _ in placed]

    def link(self, new: Iterable[Record]) -> None:
        """Marks the records whose events were sent again and refused again, with their successors."""
        successors = {record.predecessor: record.id for record in new if record.predecessor}
        for record in self.find_many(filter(is_record_id, successors)):
            refused = msgspec.structs.replace(
                record,
                state=State.REJECTED_AGAIN,
                successor=successors[record.id],
                changed_at=runtime.now(),
            )
            self.change(refused, only_if=State.REPLAYING)

    def reopen(self, record_ids: Collection[str], job: str, why: str) -> None:
        """Opens the records again that a job replays, because what it sent came back."""
        opened = [
            msgspec.structs.replace(record, state=State.OPEN, why=why, changed_at=runtime.now())
            for record in self.find_many(filter(is_record_id, record_ids))
            if record.job == job and record.state is State.REPLAYING
        ]
        done = self.change_all(opened, only_if=State.REPLAYING)
        self.count_open([record for record in opened if record.id in done], sign=1)

    def find(self, record_id: str) -> Record | None:
        """Returns a record by its id; None if there is none (any more)."""
        with clients.translating_errors(_UNREADABLE):
            answer = clients.dynamodb().get_item(
                TableName=self.name, Key=items.record_key(record_id), ConsistentRead=True
            )
        item = answer.get("Item")
        return items.record_from(item) if item and not _is_expired(item) else None

    def find_many(self, record_ids: Iterable[str]) -> list[Record]:
        """Returns the records that are there."""
        wanted = list(dict.fromkeys(record_ids))
        found = clients.map_concurrently(self._get, batched(wanted, _BATCH_READ, strict=False))
        return [record for chunk in found for record in chunk]

    def page(self, wanted: Filter, *, before: str | None = None, limit: int) -> Page:
        """Returns up to `limit` records that were accepted before the one with the id `before`."""
        found: list[Record] = []
        for day in self._days(wanted, before):

            def read(shard: int, day: str = day) -> Iterator[Record]:
                # Ids are spread evenly. The first page is read here, at the same time as those of others.
                pages = self._query(day, shard, wanted, before, 2 * limit // items.RECORD_SHARDS + 10)
                return chain(next(pages, []), chain.from_iterable(pages))

            shards = clients.map_concurrently(read, range(items.RECORD_SHARDS))
            merged = heapq.merge(*shards, key=lambda record: record.id, reverse=True)
            found += islice(merged, limit + 1 - len(found))
            if len(found) > limit:
                return Page(found[:limit], found[limit - 1].id)
        return Page(found, None)

    def change(self, record: Record, *, only_if: State) -> bool:
        """Writes a record in its new state if the one in the table is in a given one; tells whether it did.

        A replayed record is only written for its own job. A record that its job claims is also written if
        that job has claimed it before.
        """
        names = {"#state": "state"}
        values = {":state": {"S": only_if.value}}
        condition = "#state = :state"
        if record.job is not None and State.REPLAYING in {only_if, record.state}:
            names["#job"] = "job"
            values[":job"] = {"S": record.job}
            if only_if is State.REPLAYING:
                condition += " AND #job = :job"
            else:
                values[":replaying"] = {"S": State.REPLAYING.value}
                condition += " OR (#state = :replaying AND #job = :job)"
        client = clients.dynamodb()
        with clients.translating_errors(_UNWRITABLE):
            try:
                client.put_item(
                    TableName=self.name,
                    Item=items.record_item(record, self._expiry(record.rejected_at)),
                    ConditionExpression=condition,
                    ExpressionAttributeNames=names,
                    ExpressionAttributeValues=values,
                )
            except client.exceptions.ConditionalCheckFailedException:
                return False
        return True

    def change_all(self, changed: Sequence[Record], *, only_if: State) -> set[str]:
        """Changes records as `change` does, some at a time; returns the ids of those that it did change."""

        def change_one(record: Record) -> bool:
            return self.change(record, only_if=only_if)

        done = clients.map_concurrently(change_one, changed)
        return {record.id for record, is_done in zip(changed, done, strict=True) if is_done}

    def count_open(self, changed: Iterable[Record], *, sign: int) -> None:
        """Adds records to what is open in their groups (`sign` 1), or takes them out (-1)."""

        def count(entry: tuple[tuple[str, str], tuple[int, int]]) -> None:
            group, change = entry
            self._update(items.open_update(*group, *change))

        clients.map_concurrently(count, items.opened(changed, sign).items())

    def erase(self, record_id: str, *, left: Record | None) -> None:
        """Removes a record, or leaves only what is `left` of it; its group counts what is open anew."""
        client = clients.dynamodb()
        for attempt in range(_ATTEMPTS):
            if attempt:
                runtime.sleep(0.05 * 2**attempt)  # the group's counter is written by others as well
            there = self.find(record_id)
            if there is None:
                return
            with clients.translating_errors(_UNWRITABLE):
                try:
                    client.transact_write_items(TransactItems=self._erasure(there, left))
                except client.exceptions.TransactionCanceledException:
                    continue
            return
        raise Retryable(_UNWRITABLE)

    def _erasure(self, there: Record, left: Record | None) -> Any:
        """Returns the items of a transaction that erases a record, or what is not `left` of it."""
        condition: dict[str, Any] = {
            "TableName": self.name,
            "ConditionExpression": "#state = :state",
            "ExpressionAttributeNames": {"#state": "state"},
            "ExpressionAttributeValues": {":state": {"S": there.state.value}},
        }
        if left is None:
            written: list[Any] = [{"Delete": condition | {"Key": items.record_key(there.id)}}]
            opened = (-there.events, -1)
        else:
            kept = msgspec.structs.replace(
                there, events=left.events, profiles=left.profiles, metric=left.metric, place=None
            )
            item = items.record_item(kept, self._expiry(kept.rejected_at))
            written = [{"Put": condition | {"Item": item}}]
            opened = (left.events - there.events, 0)
        if there.state is State.OPEN:
            update = items.open_update(there.account, there.group, *opened)
            written.append({"Update": {"TableName": self.name, **update}})
        return written

    def remember_erased(self, hashed: str) -> None:
        """Keeps what is of a person from coming back, for as long as records are kept."""
        now = runtime.now()
        with clients.translating_errors(_UNWRITABLE):
            clients.dynamodb().put_item(
                TableName=self.name, Item=items.erasure_item(hashed, now, self._expiry(now))
            )

    def erased(self) -> dict[str, datetime]:
        """Returns the hashes of the people who were erased, and when."""
        return dict(map(items.erasure_from, self._partition(items.ERASED, is_consistent=True)))

    def accounts(self) -> list[str]:
        """Returns the accounts that have groups."""
        return sorted(self._names(_ACCOUNTS))

    def groups(self, account: str) -> list[Group]:
        """Returns the groups of an account, those with the most open events first."""
        found = items.groups_from(account, self._partition(f"groups#{account}"))
        return sorted(found, key=lambda group: (-group.open, -group.last_seen.timestamp(), group.id))

    def _placed(self, record: Record) -> Record:
        """Returns a record with the group in which it counts."""
        is_known = self._admit(_ACCOUNTS, record.account, MAX_ACCOUNTS)
        if is_known and self._admit(f"groups#{record.account}", record.group, MAX_GROUPS):
            return record
        return msgspec.structs.replace(record, group=OTHER)

    def _count(self, new: Iterable[tuple[Record, Cause]], now: datetime) -> None:
        """Adds new records to the counters of their groups."""
        by_group: dict[tuple[str, str], list[tuple[Record, Cause]]] = {}
        for record, why in new:
            by_group.setdefault((record.account, record.group), []).append((record, why))
        shard = runtime.chance().randrange(items.GROUP_SHARDS)

        def count(entry: tuple[tuple[str, str], list[tuple[Record, Cause]]]) -> None:
            (account, group), found = entry
            why = found[0][1] if group != OTHER else _several_causes(found[0][1])
            update = items.group_update(why, [record for record, _ in found], now, self._expiry(now))
            self._update({"Key": items.group_key(account, group, shard), **update})

        clients.map_concurrently(count, by_group.items())

    def _admit(self, owner: str, name: str, most: int) -> bool:
        """Tells whether a name is in a bounded set, after adding it where there is room."""
        seen = _seen.setdefault((self.name, owner), set())
        if name in seen:
            return True
        if len(seen) >= most:
            return False
        seen.update(self._names(owner))
        if name in seen or len(seen) >= most:
            return name in seen
        client = clients.dynamodb()
        with clients.translating_errors(_UNWRITABLE):
            try:
                client.update_item(
                    TableName=self.name,
                    Key=_names_key(owner),
                    UpdateExpression="ADD #names :name",
                    ConditionExpression="attribute_not_exists(#names) OR size(#names) < :most",
                    ExpressionAttributeNames={"#names": "names"},
                    ExpressionAttributeValues={":name": {"SS": [name]}, ":most": {"N": str(most)}},
                )
            except client.exceptions.ConditionalCheckFailedException:
                return False
        seen.add(name)
        return True

    def _names(self, owner: str) -> frozenset[str]:
        with clients.translating_errors(_UNREADABLE):
            answer = clients.dynamodb().get_item(TableName=self.name, Key=_names_key(owner))
        return frozenset(answer.get("Item", {}).get("names", {}).get("SS", ()))

    def _mark_days(self, record_ids: Collection[str], now: datetime) -> None:
        for day in sorted({items.day_of(int(each[:12], 16)) for each in record_ids}):
            self._update(
                {
                    "Key": {"pk": {"S": "days"}, "sk": {"S": day}},
                    "UpdateExpression": "SET last_rejected_at = :now, expires_at = :expires_at",
                    "ExpressionAttributeValues": {
                        ":now": {"N": str(int(now.timestamp() * 1_000))},
                        ":expires_at": {"N": str(self._expiry(now))},
                    },
                }
            )

    def _days(self, wanted: Filter, before: str | None) -> list[str]:
        """Returns the days that may hold what is wanted, the last one first."""
        first = 0 if wanted.since is None else int(wanted.since.timestamp() * 1_000)
        last = None if before is None else items.day_of(int(before[:12], 16))
        if wanted.until is not None:
            # Nothing is rejected before it is accepted.
            last_wanted = f"{wanted.until:%Y%m%d}"
            last = last_wanted if last is None else min(last, last_wanted)
        days = [
            item["sk"]["S"] for item in self._partition("days") if int(item["last_rejected_at"]["N"]) >= first
        ]
        return sorted((day for day in days if last is None or day <= last), reverse=True)

    def _query(
        self, day: str, shard: int, wanted: Filter, before: str | None, size: int
    ) -> Iterator[list[Record]]:
        """Yields the records of a shard in pages, the first of which reads so many; each reads twice more."""
        condition, names, values = _conditions(wanted)
        values[":pk"] = {"S": items.partition(day, shard)}
        key = "pk = :pk"
        if before is not None:
            key += " AND sk < :before"
            values[":before"] = {"S": before}
        request: dict[str, Any] = {
            "TableName": self.name,
            "KeyConditionExpression": key,
            "ExpressionAttributeValues": values,
            "ScanIndexForward": False,
        }
        if condition:
            request["FilterExpression"] = condition
        if names:
            request["ExpressionAttributeNames"] = names
        for page in _pages(request, size):
            yield [items.record_from(item) for item in page if not _is_expired(item)]

    def _partition(self, name: str, *, is_consistent: bool = False) -> Iterator[Item]:
        request = {
            "TableName": self.name,
            "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": name}},
            "ConsistentRead": is_consistent,
        }
        return chain.from_iterable(_pages(request))

    def _get(self, record_ids: Sequence[str]) -> list[Record]:
        wanted: Any = {
            self.name: {"Keys": [items.record_key(each) for each in record_ids], "ConsistentRead": True}
        }
        found: list[Record] = []
        for attempt in range(_ATTEMPTS):
            with clients.translating_errors(_UNREADABLE):
                answer = clients.dynamodb().batch_get_item(RequestItems=wanted)
            found += (
                items.record_from(item)
                for item in answer["Responses"].get(self.name, [])
                if not _is_expired(item)
            )
            wanted = answer.get("UnprocessedKeys")
            if not wanted:
                return found
            runtime.sleep(0.05 * 2**attempt)
        raise Retryable(_THROTTLED)

    def _write(self, written: Iterable[Item]) -> None:
        def put(chunk: Sequence[Item]) -> None:
            wanted: Any = {self.name: [{"PutRequest": {"Item": item}} for item in chunk]}
            for attempt in range(_ATTEMPTS):
                with clients.translating_errors(_UNWRITABLE):
                    answer = clients.dynamodb().batch_write_item(RequestItems=wanted)
                wanted = answer.get("UnprocessedItems")
                if not wanted:
                    return
                runtime.sleep(0.05 * 2**attempt)
            raise Retryable(_THROTTLED)

        clients.map_concurrently(put, batched(written, _BATCH_WRITE, strict=False))

    def _update(self, update: dict[str, Any]) -> None:
        with clients.translating_errors(_UNWRITABLE):
            clients.dynamodb().update_item(TableName=self.name, **update)

    def _expiry(self, at: datetime) -> int:
        return int((at + self.keep).timestamp())


_seen: Final[dict[tuple[str, str], set[str]]] = {}


def _conditions(wanted: Filter) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Returns a filter as an expression of DynamoDB, with its names and values."""
    names: dict[str, str] = {}
    values: dict[str, Any] = {}
    conditions = []
    for name in ("account", "group", "reason", "metric", "source", "receipt", "state"):
        if (value := getattr(wanted, name)) is not None:
            names[f"#{name}"] = name
            values[f":{name}"] = {"S": value}
            conditions.append(f"#{name} = :{name}")
    if wanted.profile is not None:
        values[":profile"] = {"S": wanted.profile}
        conditions.append("contains(profiles, :profile)")
    for name, sign in (("since", ">="), ("until", "<")):
        if (moment := getattr(wanted, name)) is not None:
            values[f":{name}"] = {"N": str(int(moment.timestamp() * 1_000))}
            conditions.append(f"rejected_at {sign} :{name}")
    return " AND ".join(conditions), names, values


def _several_causes(one: Cause) -> Cause:
    return msgspec.structs.replace(one, code=None, pointer=None, words="Of many other causes.")


def _names_key(owner: str) -> Item:
    return {"pk": {"S": f"names#{owner}"}, "sk": {"S": "names"}}


def _is_expired(item: Mapping[str, Any]) -> bool:
    # The table deletes expired items some time later.
    return int(item["expires_at"]["N"]) <= runtime.time()


def _pages(request: Mapping[str, Any], size: int | None = None) -> Iterator[list[Item]]:
    """Yields pages of what a query finds: the first reads `size` items, and each twice as many as the last.

    Without a size, and beyond a thousand items, a page reads as much as DynamoDB gives at once.
    """
    more: dict[str, Any] = {}
    while True:
        if size is not None:
            more |= {"Limit": size}
            size = 2 * size if size < _LARGE_PAGE else None
        else:
            more.pop("Limit", None)
        with clients.translating_errors(_UNREADABLE):
            answer = clients.dynamodb().query(**request, **more)
        yield answer["Items"]
        if "LastEvaluatedKey" not in answer:
            return
        more |= {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
