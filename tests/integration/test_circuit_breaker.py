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
from sluice.delivery import circuit_breaker, parking
from sluice.errors import Retryable
from sluice.settings import ResumeSettings
from tests.support.aws_stack import Cloud, Crash, stored
from tests.support.factories import SITE_ID

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
        self.store = resume.Store(ResumeSettings(cloud.events, "state", "claims"))

    def park(self, *messages: bytes, site_id: str = SITE) -> None:
        parking.park("state", "claims", site_id, messages)

    def tick(self, has_time: Callable[[], bool] = always, site_id: str = SITE) -> tuple[bool, int] | None:
        """Does for an account what the function does each minute; returns None if it is not registered."""
        marks = self.store.accounts()
        return resume.resume(self.store, site_id, marks[site_id], has_time) if site_id in marks else None

    def parked(self) -> Counter[bytes]:
        return Counter(line for key in self.objects() for line in parking.parked_messages("claims", key))

    def objects(self) -> list[str]:
        return self.cloud.keys("claims", "parked/")

    def queued(self) -> Counter[bytes]:
        fetch = self._fetch
        return Counter(message.unwrap(body, fetch) for body in self.cloud.left())

    def _fetch(self, key: str) -> bytes:
        return self.cloud.content("claims", key)


@pytest.fixture
def parked(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Parking:
    """Parks without delay, so that an account may be forgotten at once."""
    monkeypatch.setattr(parking, "REGISTERED_SECONDS", 0.0)
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


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("GetItem", lambda: circuit_breaker.is_open("state", SITE)),
        ("PutItem", lambda: circuit_breaker.open_circuit("state", SITE, 401)),
        ("DeleteItem", lambda: circuit_breaker.close_circuit("state", SITE)),
        ("PutObject", lambda: parking.park("state", "claims", SITE, [b"{}"])),
        ("UpdateItem", lambda: parking.park("state", "claims", SITE, [b"{}"])),
        ("GetItem", lambda: parking.registered_accounts("state")),
        ("UpdateItem", lambda: parking.deregister("state", SITE, "0-mark")),
        ("ListObjectsV2", lambda: parking.parked_objects("claims", SITE)),
        ("GetObject", lambda: parking.parked_messages("claims", "key")),
        ("PutObject", lambda: parking.keep_only("claims", "key", [b"{}"])),
        ("DeleteObject", lambda: parking.keep_only("claims", "key", [])),
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
    assert {tuple(entry["MessageAttributes"]) for entry in call["Entries"]} == {("resumed",)}


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
    assert entry["MessageAttributes"].keys() == {"resumed", "probe"}

    assert [parked.tick() for _ in range(3)] == [(True, 1), (True, 1), (True, 0)]
    assert parked.queued() == Counter(messages)
    assert SITE in parked.store.accounts()


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


def test_an_account_is_registered_until_nothing_of_it_is_parked(parked: Parking) -> None:
    parked.park(plain("a"))
    parked.park(plain("b"), site_id="XyZ789")
    assert parked.store.accounts().keys() == {SITE, "XyZ789"}

    parked.tick()
    assert SITE in parked.store.accounts()

    assert parked.tick() == (False, 0)
    assert parked.store.accounts().keys() == {"XyZ789"}
    assert parked.tick() is None


def test_more_objects_than_one_listing_shows_all_come_back(parked: Parking) -> None:
    messages = [plain(f"m{number}") for number in range(23)]
    for each in messages:
        parked.park(each)

    def list_ten(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        parameters["MaxKeys"] = 10  # S3 gives 1,000 in a listing
        return real()

    parked.cloud.calls.instead("ListObjectsV2", list_ten)

    assert [parked.tick() for _ in range(4)] == [(False, 10), (False, 10), (False, 3), (False, 0)]
    assert parked.queued() == Counter(messages)
    assert SITE not in parked.store.accounts()


class TestRegister:
    """Tests that messages parked during a resumption are not forgotten, in whatever order the steps run."""

    @pytest.fixture(autouse=True)
    def _as_ever(self, parked: Parking, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        monkeypatch.setattr(parking, "REGISTERED_SECONDS", 1_200.0)

    def register(self, *, seconds_ago: float = 0.0) -> None:
        now = time.time()
        with self.patch.context() as patch:
            patch.setattr(runtime, "time", lambda: now - seconds_ago)
            parking.park("state", "claims", SITE, [])

    def steps_of_parking(self, name: str) -> list[Callable[[Parking], None]]:
        key = f"parked/{SITE}/{time.time():.3f}-{name}.jsonl.zst"

        return [lambda _: self.register(), lambda _: parking.keep_only("claims", key, [plain(name)])]

    def steps_of_resuming(self) -> list[Callable[[Parking], None]]:
        seen: dict[str, Any] = {}

        def read(parked: Parking) -> None:
            seen["mark"] = parking.registered_accounts("state").get(SITE)

        def list_objects(parked: Parking) -> None:
            seen["keys"] = parking.parked_objects("claims", SITE)

        def forget(parked: Parking) -> None:
            if seen["mark"] is not None and not seen["keys"]:
                parking.deregister("state", SITE, seen["mark"])

        return [read, list_objects, forget]

    @pytest.mark.parametrize("before", ["nothing", "registered"])
    def test_one_parks_while_two_resume(self, parked: Parking, before: str) -> None:
        kinds = {"park": 2, "one": 3, "two": 3}
        orders = set(itertools.permutations("".join(name[0] * count for name, count in kinds.items())))
        for order in random.Random(1).sample(sorted(orders), 60):
            if before == "registered":
                self.register(seconds_ago=1_201)
            queues = {
                "p": self.steps_of_parking("a"),
                "o": self.steps_of_resuming(),
                "t": self.steps_of_resuming(),
            }

            for each in order:
                queues[each].pop(0)(parked)

            assert SITE in parked.store.accounts(), order
            for key in parked.objects():
                parking.keep_only("claims", key, [])
            parked.cloud.dynamodb.delete_item(TableName="state", Key={"pk": {"S": "parked"}})

    def test_parking_runs_in_the_order_assumed_above(self, parked: Parking) -> None:
        parked.park(plain("a"))

        assert [name for name, _ in parked.cloud.calls.made] == ["UpdateItem", "PutObject"]

    def test_resuming_runs_in_the_order_assumed_above(self, parked: Parking) -> None:
        self.register(seconds_ago=1_201)
        parked.cloud.calls.clear()

        parked.tick()

        names = [name for name, _ in parked.cloud.calls.made]
        assert names == ["GetItem", "GetItem", "ListObjectsV2", "UpdateItem"]

    def test_a_register_that_was_forgotten_and_written_again_is_another(self, parked: Parking) -> None:
        self.register(seconds_ago=1_202)
        seen = parked.store.accounts()[SITE]
        parking.deregister("state", SITE, seen)
        assert SITE not in parked.store.accounts()
        self.register(seconds_ago=1_201)

        parking.deregister("state", SITE, seen)

        assert SITE in parked.store.accounts()

    def test_nobody_is_forgotten_who_may_be_about_to_park(self, parked: Parking) -> None:
        self.register(seconds_ago=1_100)

        assert parked.tick() == (False, 0)

        assert SITE in parked.store.accounts()
        assert parked.cloud.calls.of("UpdateItem")[1:] == []


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("number", range(10))
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
    assert SITE in parked.store.accounts()
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

    assert len(parked.cloud.calls.made) == 10


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(3))
def test_parking_says_it_failed_unless_it_is_all_there_and_registered(
    parked: Parking, monkeypatch: pytest.MonkeyPatch, number: int, done: bool
) -> None:
    monkeypatch.setattr(parking, "OBJECT_MESSAGES", 2)
    messages = [plain(name) for name in "abc"]
    parked.cloud.calls.crash(number, done=done)

    with pytest.raises(Crash):
        parked.park(*messages)

    # They are still on the queue, because the process that parked them did not delete them. They are found
    # where they are parked:
    parked.cloud.calls.clear()
    assert SITE in parked.store.accounts() or parked.objects() == []
    # And parked again:
    parked.park(*messages)
    assert parked.parked().keys() == set(messages)
    while parked.tick() is not None:
        pass
    assert parked.queued().keys() == set(messages)
