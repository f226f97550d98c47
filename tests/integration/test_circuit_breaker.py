"""Tests parking and bringing back: whatever stops, every message is on the queue or parked, or both."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sluice import message, resume, runtime
from sluice.contract import Surface
from sluice.delivery import circuit_breaker, lone_refusals, parking
from sluice.delivery.circuit_breaker import CircuitState
from sluice.delivery.lone_refusals import RefusalRecord, RefusedEvent
from sluice.errors import Retryable
from sluice.settings import ResumeSettings
from tests.support.aws_stack import Cloud, Crash, stored
from tests.support.factories import SITE_ID
from tests.support.sealing import SEALING

SITE = SITE_ID


def always() -> bool:
    return True


def plain(name: str) -> bytes:
    """Returns a stored message as it is parked."""
    return msgspec.json.encode(stored((name, name), receipt=name, surface=Surface.EVENT))


def large(name: str) -> bytes:
    """Returns a message that only fits the queue as a claim check."""
    noise = random.Random(name).randbytes(60_000).hex()[:100_000]
    padded = [(f"{name}{number}", f"{name}{number}") for number in range(40)]
    message_bytes = msgspec.json.encode(stored(*padded, receipt=name, padding=noise))
    # Each event's padding differs, else it would compress to nothing.
    parts = message_bytes.split(noise.encode())
    noises = [random.Random(f"{name}{n}").randbytes(50_000).hex().encode() for n in range(len(parts))]
    return b"".join(itertools.chain.from_iterable(zip(parts, [*noises[1:], b""], strict=True)))


class Parking:
    """Finds one account's messages, wherever they are."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.store = resume.Store(
            ResumeSettings(*(cloud.events, cloud.background, "state"), *("claims", "accounts", "sealing"))
        )

    def park(self, *messages: bytes, site_id: str = SITE) -> None:
        parking.park("claims", site_id, messages, sealing=SEALING)

    def tick(self, has_time: Callable[[], bool] = always, site_id: str = SITE) -> tuple[bool, int] | None:
        """Does for an account what the function does each minute; returns None if nothing of it is parked."""
        found = [each for each in self.store.parked_accounts() if each.id == site_id]
        if not found:
            return None
        result = resume.resume(self.store, found[0], has_time)
        return result.is_open, result.messages

    def accounts(self) -> set[str]:
        return {each.id for each in self.store.parked_accounts()}

    def parked(self) -> Counter[bytes]:
        return Counter(
            line for key in self.objects() for line in parking.parked_messages("claims", key, SEALING)
        )

    def objects(self) -> list[str]:
        return self.cloud.keys("claims", "parked/")

    def queued(self) -> Counter[bytes]:
        fetch = self._fetch
        return Counter(message.unwrap(body, fetch) for body in self.cloud.left())

    def _fetch(self, key: str) -> bytes:
        return self.cloud.content("claims", key)


@pytest.fixture
def parked(cloud: Cloud) -> Parking:
    return Parking(cloud)


def test_a_circuit_is_open_until_it_is_closed_and_opening_is_said_once(cloud: Cloud) -> None:
    assert not circuit_breaker.is_open("state", SITE)

    assert circuit_breaker.open_circuit("state", SITE, 401)
    assert not circuit_breaker.open_circuit("state", SITE, 403)
    assert circuit_breaker.is_open("state", SITE)
    assert not circuit_breaker.is_open("state", "XyZ789")
    item = cloud.item(f"circuit#{SITE}")
    assert item is not None
    assert item["status"]["N"] == "401"
    assert int(item["opened_at"]["N"]) == pytest.approx(time.time(), abs=5)

    circuit_breaker.close_circuit("state", SITE)
    circuit_breaker.close_circuit("state", SITE)
    assert not circuit_breaker.is_open("state", SITE)
    assert circuit_breaker.open_circuit("state", SITE, 401)


def test_the_state_of_a_circuit_is_read_at_once(cloud: Cloud) -> None:
    assert circuit_breaker.state("state", SITE) == CircuitState(False)

    circuit_breaker.open_circuit("state", SITE, 401)
    record = RefusalRecord({"a": RefusedEvent(1.5)}, frozenset({"m"}), 2.5)
    lone_refusals.update("state", SITE, lambda _: record)
    lone_refusals.update("state", "XyZ789", lambda _: RefusalRecord())
    cloud.calls.clear()

    assert circuit_breaker.state("state", SITE) == CircuitState(True, record)
    assert len(cloud.calls.made) == 1
    item = cloud.item(f"refusals#{SITE}")
    assert item is not None
    assert int(item["expires_at"]["N"]) == pytest.approx(time.time() + 15 * 86_400, abs=5)


def test_a_state_that_is_read_in_part_is_read_again_later(cloud: Cloud) -> None:
    key = {"pk": {"S": f"refusals#{SITE}"}}
    cloud.calls.instead(
        "BatchGetItem",
        lambda parameters, real: {**real(), "UnprocessedKeys": {"state": {"Keys": [key]}}},
    )

    with pytest.raises(Retryable):
        circuit_breaker.state("state", SITE)


def test_two_workers_record_their_refusals_at_the_same_time(cloud: Cloud) -> None:
    def refuse(name: str) -> Callable[[RefusalRecord], RefusalRecord]:
        return lambda record: lone_refusals.updated(record, 1.0, refused={name: False})

    def meet(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        cloud.calls.clear()
        lone_refusals.update("state", SITE, refuse("other"))
        return real()

    cloud.calls.instead("PutItem", meet)

    record = lone_refusals.update("state", SITE, refuse("one"))

    assert record.events.keys() == {"one", "other"}
    assert circuit_breaker.state("state", SITE).refusals == record


def test_a_record_that_others_always_change_first_is_changed_later(cloud: Cloud) -> None:
    def refused(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        parameters["ExpressionAttributeValues"] = {":version": {"N": "-1"}}
        return real()

    lone_refusals.update("state", SITE, lambda _: RefusalRecord({"a": RefusedEvent(1.0)}))
    cloud.calls.instead("PutItem", refused)

    with pytest.raises(Retryable):
        lone_refusals.update("state", SITE, lambda _: RefusalRecord({"b": RefusedEvent(1.0)}))


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("BatchGetItem", lambda: circuit_breaker.state("state", SITE)),
        ("GetItem", lambda: lone_refusals.update("state", SITE, lambda record: record)),
        ("GetItem", lambda: circuit_breaker.is_open("state", SITE)),
        ("PutItem", lambda: circuit_breaker.open_circuit("state", SITE, 401)),
        ("DeleteItem", lambda: circuit_breaker.close_circuit("state", SITE)),
        ("PutObject", lambda: parking.park("claims", SITE, [b"{}"], sealing=SEALING)),
        ("ListObjectsV2", lambda: parking.parked_accounts("claims")),
        ("ListObjectsV2", lambda: parking.unknown_accounts("claims")),
        ("ListObjectsV2", lambda: parking.parked_objects("claims", SITE)),
        ("GetObject", lambda: parking.parked_messages("claims", "key", SEALING)),
        ("PutObject", lambda: parking.keep_only("claims", "key", [b"{}"], SEALING)),
        ("DeleteObject", lambda: parking.keep_only("claims", "key", [], SEALING)),
    ],
)
def test_what_aws_refuses_is_to_be_tried_again(
    cloud: Cloud, operation: str, call: Callable[[], object]
) -> None:
    cloud.calls.fail(operation)

    with pytest.raises(Retryable):
        call()


def test_what_is_parked_comes_back_as_it_was(parked: Parking) -> None:
    messages = [plain("a"), large("b"), plain("c")]
    parked.park(*messages)
    assert parked.parked() == Counter(messages)

    assert parked.tick() == (False, 3)

    assert parked.queued() == Counter(messages)
    assert parked.objects() == []
    [claim] = parked.cloud.keys("claims", "claims/")
    assert claim.startswith("claims/resumed/")
    for body in parked.cloud.left():
        assert message.decode(body, lambda key: parked.cloud.content("claims", key)).account == SITE


def test_a_message_with_line_ends_is_one_message(parked: Parking) -> None:
    by_hand = b'{"sluice":1,\n "receipt":"r",\n "text":"a\\nb"}'
    parked.park(by_hand, plain("a"))

    parked.tick()

    [found] = [queued for queued in parked.queued() if b"text" in queued]
    assert msgspec.json.decode(found) == msgspec.json.decode(by_hand)
    assert len(parked.cloud.left()) == 2


def test_messages_come_back_in_their_accounts_group_and_say_so(parked: Parking) -> None:
    parked.park(plain("a"), plain("b"))

    parked.tick()

    [call] = parked.cloud.calls.of("SendMessageBatch")
    assert {entry["MessageGroupId"] for entry in call["Entries"]} == {SITE}
    assert {tuple(entry["MessageAttributes"]) for entry in call["Entries"]} == {("resumed", "seal")}


def test_an_object_is_small_enough_to_send_without_a_look_at_the_clock(parked: Parking) -> None:
    many = [plain(f"m{number}") for number in range(parking.OBJECT_MESSAGES + 1)]
    parked.park(*many)
    assert len(parked.objects()) == 2

    big = [b'"%s"' % (b"x" * (parking.OBJECT_BYTES // 2)) for _ in range(3)]
    parked.park(*big)
    assert len(parked.objects()) == 5

    assert parked.parked() == Counter(many) + Counter(big)


def test_what_has_waited_longest_comes_first(parked: Parking, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    names = ["first", "second", "third", "fourth", "fifth"]
    for number, name in enumerate(names):
        monkeypatch.setattr(runtime, "time", lambda at=now + number: at)
        # The later, the smaller.
        parked.park(*(plain(f"{name}{n}") for n in range(5 - number)))

    parked.tick()

    order = [message.decode(body, lambda _: b"").receipt.rstrip("01234") for body in parked.cloud.left()]
    assert list(dict.fromkeys(order)) == names


def test_while_the_circuit_is_open_one_message_is_sent_each_time(parked: Parking) -> None:
    messages = [plain(name) for name in "abc"]
    parked.park(*messages)
    circuit_breaker.open_circuit("state", SITE, 401)

    assert parked.tick() == (True, 1)

    assert len(parked.cloud.left()) == 1
    assert parked.queued() + parked.parked() == Counter(messages)
    [call] = parked.cloud.calls.of("SendMessageBatch")
    [entry] = call["Entries"]
    assert entry["MessageAttributes"].keys() == {"resumed", "probe", "seal"}

    assert [parked.tick() for _ in range(3)] == [(True, 1), (True, 1), None]
    assert parked.queued() == Counter(messages)


def test_probes_that_came_back_wait_behind_what_was_not_asked_about(parked: Parking) -> None:
    for name in ("new", "newer", "probe"):
        parked.park(plain(name))
        time.sleep(0.01)
    circuit_breaker.open_circuit("state", SITE, 401)

    parked.tick()

    assert parked.queued() == Counter([plain("new"), plain("newer")])
    assert parked.parked() == Counter([plain("probe")])


def test_probes_are_from_two_objects(parked: Parking) -> None:
    parked.park(*(plain(f"a{number}") for number in range(50)))
    time.sleep(0.01)
    parked.park(*(plain(f"b{number}") for number in range(50)))
    circuit_breaker.open_circuit("state", SITE, 401)

    assert parked.tick() == (True, 2)

    assert parked.queued() == Counter([plain("a0"), plain("b0")])


def test_a_probe_that_cannot_be_sent_makes_no_copies(parked: Parking) -> None:
    messages = [plain(name) for name in "abc"]
    parked.park(*messages)
    circuit_breaker.open_circuit("state", SITE, 401)
    parked.cloud.calls.fail("SendMessageBatch")

    for _ in range(3):
        with pytest.raises(Retryable):
            parked.tick()

    assert parked.parked() == Counter(messages)
    assert len(parked.objects()) == 1


def test_of_a_batch_sent_in_part_the_rest_stays_parked(parked: Parking) -> None:
    messages = [plain(f"m{number}") for number in range(25)]
    parked.park(*messages)

    def lose_one_each(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        lost = parameters["Entries"].pop()
        return real() | {"Failed": [{"Id": lost["Id"], "SenderFault": False, "Code": "InternalError"}]}

    parked.cloud.calls.instead("SendMessageBatch", lose_one_each)
    with pytest.raises(Retryable):
        parked.tick()

    assert parked.parked().total() == 3
    assert parked.queued() + parked.parked() == Counter(messages)

    parked.cloud.calls.clear()
    assert parked.tick() == (False, 3)
    assert parked.queued() == Counter(messages)


def test_only_what_is_safely_sent_is_deleted(parked: Parking) -> None:
    parked.park(plain("a"))
    parked.park(large("b"))

    parked.tick()

    names = [name for name, _ in parked.cloud.calls.made if name in {"SendMessageBatch", "DeleteObject"}]
    assert names == ["SendMessageBatch", "DeleteObject"] * 2


def test_it_stops_when_time_is_short_and_goes_on_at_the_next_tick(parked: Parking) -> None:
    for number in range(5):
        parked.park(plain(f"m{number}"))
    looks = iter([True, True, False])

    assert parked.tick(lambda: next(looks)) == (False, 2)
    assert parked.parked().total() == 3
    assert parked.tick(lambda: False) == (False, 0)
    assert parked.tick() == (False, 3)
    assert parked.queued().total() == 5


def test_an_account_is_found_as_long_as_something_of_it_is_parked(parked: Parking) -> None:
    parked.park(plain("a"))
    parked.park(plain("b"), site_id="XyZ789")
    assert parked.accounts() == {SITE, "XyZ789"}

    parked.tick()

    assert parked.accounts() == {"XyZ789"}
    assert parked.tick() is None


def test_a_thousand_accounts_and_more_are_found_with_a_request_for_each_thousand(parked: Parking) -> None:
    names = {f"A{number:05}" for number in range(1_001)}
    for name in names:
        parked.park(plain(name), site_id=name)
    parked.cloud.calls.clear()

    assert parked.accounts() == names

    assert [name for name, _ in parked.cloud.calls.made] == ["ListObjectsV2", "ListObjectsV2"]


def test_no_account_is_always_the_last(parked: Parking) -> None:
    for number in range(20):
        parked.park(plain("a"), site_id=f"Site{number:02}")

    assert len({tuple(each.id for each in parked.store.parked_accounts()) for _ in range(5)}) > 1


def test_unknown_accounts_take_no_room_from_known_ones(
    parked: Parking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "MAX_UNKNOWN_ACCOUNTS", 10)
    for number in range(30):
        parking.park(
            "claims", f"Unkn{number:02}", [plain("a")], sealing=SEALING, prefix=parking.UNKNOWN_PREFIX
        )
    parked.park(plain("b"))
    parked.cloud.calls.clear()

    assert parked.accounts() == {SITE}
    assert parked.tick() == (False, 1)
    assert len(parked.store.unknown_accounts()) == 10
    assert parked.queued() == Counter([plain("b")])


def test_more_objects_than_one_listing_shows_all_come_back(parked: Parking) -> None:
    messages = [plain(f"m{number}") for number in range(23)]
    for each in messages:
        parked.park(each)

    def list_ten(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        parameters["MaxKeys"] = 10  # S3 gives 1,000 in a listing
        return real()

    parked.cloud.calls.instead("ListObjectsV2", list_ten)

    assert [parked.tick() for _ in range(4)] == [(False, 10), (False, 10), (False, 3), None]
    assert parked.queued() == Counter(messages)


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("number", range(12))
def test_a_crash_of_resume_loses_nothing(parked: Parking, number: int, is_open: bool, done: bool) -> None:
    messages = [plain("a"), large("b"), plain("c")]
    parked.park(*messages)
    parked.park(plain("d"))
    everything = {*messages, plain("d")}
    if is_open:
        circuit_breaker.open_circuit("state", SITE, 401)
    parked.cloud.calls.clear()
    parked.cloud.calls.crash(number, done=done)

    try:
        parked.tick()
        crashed = False
    except Crash:
        crashed = True

    calls = len(parked.cloud.calls.made)
    parked.cloud.calls.clear()
    assert crashed == (calls > number)
    assert parked.queued().keys() | parked.parked().keys() == everything
    # And the next ticks bring all of it back.
    circuit_breaker.close_circuit("state", SITE)
    while parked.tick() is not None:
        pass
    assert parked.queued().keys() == everything
    assert parked.objects() == []


def test_the_crashes_above_reach_every_call(parked: Parking) -> None:
    parked.park(plain("a"), large("b"), plain("c"))
    parked.park(plain("d"))
    parked.cloud.calls.clear()

    parked.tick()

    assert len(parked.cloud.calls.made) == 11


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(2))
def test_parking_says_it_failed_unless_it_is_all_there(
    parked: Parking, monkeypatch: pytest.MonkeyPatch, number: int, done: bool
) -> None:
    monkeypatch.setattr(parking, "OBJECT_MESSAGES", 2)
    messages = [plain(name) for name in "abc"]
    parked.cloud.calls.crash(number, done=done)

    with pytest.raises(Crash):
        parked.park(*messages)

    # They are still on the queue, because the process that parked them did not delete them. They are parked
    # again:
    parked.cloud.calls.clear()
    parked.park(*messages)
    assert parked.parked().keys() == set(messages)
    while parked.tick() is not None:
        pass
    assert parked.queued().keys() == set(messages)
