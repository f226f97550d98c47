"""Translates records and groups to items of the records table and back.

- A record has pk `record#<yyyymmdd>#<shard>` and as sk its id, from which both follow.
- A day has pk `days` and sk yyyymmdd. It holds when a record of that day was last written.
- A group has pk `groups#<account>` and sk `<group>#<shard>`: some counters, which are added up.
- A person who was erased has pk `erased` and as sk a keyed hash of one identifier. It holds when that was.
- A bounded set of names, of accounts or of an account's groups, has pk `names#<of>` and sk `names`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from sluice.records.cause import Cause, shortened
from sluice.records.record import Location, Record, State
from sluice.rejection import Reason

RECORD_SHARDS: Final = 8  # a partition of DynamoDB takes 1,000 writes a second
GROUP_SHARDS: Final = 4
ERASED: Final = "erased"
_MAX_BYTES: Final = {"who": 60, "why": 60}

type Item = dict[str, Any]
type Opened = dict[tuple[str, str], tuple[int, int]]  # events and records, by account and group

_TEXTS: Final = (
    *("account", "group", "detail", "code", "place", "metric", "source", "surface", "receipt"),
    *("predecessor", "successor", "job", "who", "why"),
)


class Group(msgspec.Struct, frozen=True):
    """Describes the rejections of one cause; `open` and `total` count events, the others records."""

    id: str
    account: str
    reason: Reason
    code: str | None
    pointer: str | None
    detail: str
    open: int
    total: int
    open_records: int
    records: int
    first_seen: datetime
    last_seen: datetime
    metrics: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    samples: tuple[str, ...] = ()


def partition(day: str, shard: int) -> str:
    """Returns the partition of a day's records in a shard."""
    return f"record#{day}#{shard}"


def record_key(record_id: str) -> Item:
    """Returns the key of a record."""
    milliseconds = int(record_id[:12], 16)
    shard = int(record_id[-1], 16) % RECORD_SHARDS
    return {"pk": {"S": partition(day_of(milliseconds), shard)}, "sk": {"S": record_id}}


def day_of(milliseconds: int) -> str:
    """Returns the day (yyyymmdd, UTC) of a time in milliseconds since the epoch."""
    return f"{datetime.fromtimestamp(milliseconds / 1_000, UTC):%Y%m%d}"


def record_item(record: Record, expires_at: int) -> Item:
    """Returns a record as an item of at most 1,024 bytes, which takes one write unit."""
    item = record_key(record.id) | {
        "state": {"S": record.state},
        "reason": {"S": record.reason},
        "events": {"N": str(record.events)},
        "rejected_at": _moment(record.rejected_at),
        "object": {"S": record.location.name},
        "offset": {"N": str(record.location.offset)},
        "length": {"N": str(record.location.length)},
        "expires_at": {"N": str(expires_at)},
    }
    item |= {
        name: {"S": shortened(text, _MAX_BYTES[name]) if name in _MAX_BYTES else text}
        for name in _TEXTS
        if (text := getattr(record, name))
    }
    if record.profiles:
        item["profiles"] = {"SS": sorted(set(record.profiles))}
    if record.changed_at:
        item["changed_at"] = _moment(record.changed_at)
    return item


def record_from(item: Mapping[str, Any]) -> Record:
    """Returns the record of an item."""
    texts = {name: item[name]["S"] for name in _TEXTS if name in item}
    return Record(
        id=item["sk"]["S"],
        state=State(item["state"]["S"]),
        reason=Reason(item["reason"]["S"]),
        events=int(item["events"]["N"]),
        rejected_at=_time(item["rejected_at"]),
        location=Location(item["object"]["S"], int(item["offset"]["N"]), int(item["length"]["N"])),
        profiles=tuple(item.get("profiles", {}).get("SS", ())),
        changed_at=_time(item["changed_at"]) if "changed_at" in item else None,
        **texts,
    )


def erasure_item(hashed: str, now: datetime, expires_at: int) -> Item:
    """Returns the item that keeps what is of a person from coming back."""
    return {
        "pk": {"S": ERASED},
        "sk": {"S": hashed},
        "erased_at": _moment(now),
        "expires_at": {"N": str(expires_at)},
    }


def erasure_from(item: Mapping[str, Any]) -> tuple[str, datetime]:
    """Returns the hash of an item of an erased person, and when that was."""
    return item["sk"]["S"], _time(item["erased_at"])


def group_key(account: str, group: str, shard: int) -> Item:
    """Returns the key of one of a group's counters."""
    return {"pk": {"S": f"groups#{account}"}, "sk": {"S": f"{group}#{shard}"}}


def group_update(cause: Cause, new: Sequence[Record], now: datetime, expires_at: int) -> dict[str, Any]:
    """Returns what an update does that counts new records of one group, which have this cause."""
    names: dict[str, Any] = {"#open": "open", "#total": "total"}
    values: dict[str, Any] = {
        ":events": {"N": str(sum(record.events for record in new))},
        ":records": {"N": str(len(new))},
        ":now": _moment(now),
        ":expires_at": {"N": str(expires_at)},
    }
    sets = ["first_seen = if_not_exists(first_seen, :now)", "last_seen = :now", "expires_at = :expires_at"]
    told: dict[str, Any] = {
        "reason": {"S": cause.reason},
        "detail": {"S": cause.words},
        "samples": {"SS": sorted(record.id for record in new[:3])},
    }
    told |= {name: {"S": text} for name in ("code", "pointer") if (text := getattr(cause, name))}
    for name in ("metric", "source"):
        if seen := sorted({text for record in new if (text := getattr(record, name))})[:5]:
            told[f"{name}s"] = {"SS": seen}
    for name, value in told.items():
        names[f"#{name}"] = name
        values[f":{name}"] = value
        sets.append(f"#{name} = if_not_exists(#{name}, :{name})")
    return {
        "UpdateExpression": f"SET {', '.join(sets)} "
        "ADD #open :events, #total :events, open_records :records, records :records",
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": values,
    }


def opened(changed: Iterable[Record], sign: int) -> Opened:
    """Returns by how much records change what is open in their groups, added (`sign` 1) or taken out (-1)."""
    sums: Opened = {}
    for record in changed:
        events, count = sums.get((record.account, record.group), (0, 0))
        sums[record.account, record.group] = (events + sign * record.events, count + sign)
    return sums


def open_update(account: str, group: str, events: int, records: int) -> dict[str, Any]:
    """Returns an update that adds to what is open in a group."""
    return {
        "Key": group_key(account, group, 0),
        "UpdateExpression": "ADD #open :events, open_records :records",
        "ExpressionAttributeNames": {"#open": "open"},
        "ExpressionAttributeValues": {":events": {"N": str(events)}, ":records": {"N": str(records)}},
    }


def groups_from(account: str, found: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Returns the groups of an account from all of their counters."""
    by_group: dict[str, list[Mapping[str, Any]]] = {}
    for item in found:
        by_group.setdefault(item["sk"]["S"].partition("#")[0], []).append(item)
    return [
        _group(account, group, parts)
        for group, parts in by_group.items()
        if any("reason" in p for p in parts)
    ]


def _group(account: str, group: str, parts: list[Mapping[str, Any]]) -> Group:
    told = [part for part in parts if "reason" in part]
    first = told[0]

    def added(name: str) -> int:
        return max(0, sum(int(part[name]["N"]) for part in parts if name in part))

    def some(name: str, most: int) -> tuple[str, ...]:
        return tuple(sorted({text for part in told for text in part.get(name, {}).get("SS", ())})[:most])

    return Group(
        id=group,
        account=account,
        reason=Reason(first["reason"]["S"]),
        code=first.get("code", {}).get("S"),
        pointer=first.get("pointer", {}).get("S"),
        detail=first["detail"]["S"],
        open=added("open"),
        total=added("total"),
        open_records=added("open_records"),
        records=added("records"),
        first_seen=min(_time(part["first_seen"]) for part in told),
        last_seen=max(_time(part["last_seen"]) for part in told),
        metrics=some("metrics", 5),
        sources=some("sources", 5),
        samples=some("samples", 3),
    )


def _moment(at: datetime) -> dict[str, str]:
    return {"N": str(int(at.timestamp() * 1_000))}


def _time(value: Mapping[str, str]) -> datetime:
    return datetime.fromtimestamp(int(value["N"]) / 1_000, UTC)
