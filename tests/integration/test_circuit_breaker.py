"""Tests parking and bringing back: whatever stops, every message is on the queue or parked, or both."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sluice import message, resume
from sluice.contract import Surface
from sluice.delivery import circuit_breaker
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
        circuit_breaker.park("state", "claims", site_id, messages)

    def tick(self, has_time: Callable[[], bool] = always, site_id: str = SITE) -> tuple[bool, int] | None:
        """Does for an account what the function does each minute; returns None if it is not registered."""
        marks = self.store.accounts()
        return resume.resume(self.store, site_id, marks[site_id], has_time) if site_id in marks else None

    def parked(self) -> Counter[bytes]:
        return Counter(
            line for key in self.objects() for line in circuit_breaker.parked_messages("claims", key)
        )

    def objects(self) -> list[str]:
        return self.cloud.keys("claims", "parked/")

    def queued(self) -> Counter[bytes]:
        fetch = self._fetch
        return Counter(message.unwrap(body, fetch) for body in self.cloud.left())

    def _fetch(self, key: str) -> bytes:
        return self.cloud.content("claims", key)


@pytest.fixture
def parking(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Parking:
    """Parks without delay, so that an account may be forgotten at once."""
    monkeypatch.setattr(circuit_breaker, "REGISTERED_SECONDS", 0.0)
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
        ("PutObject", lambda: circuit_breaker.park("state", "claims", SITE, [b"{}"])),
        ("UpdateItem", lambda: circuit_breaker.park("state", "claims", SITE, [b"{}"])),
        ("GetItem", lambda: circuit_breaker.registered_accounts("state")),
        ("UpdateItem", lambda: circuit_breaker.deregister("state", SITE, "0-mark")),
        ("ListObjectsV2", lambda: circuit_breaker.parked_objects("claims", SITE)),
        ("GetObject", lambda: circuit_breaker.parked_messages("claims", "key")),
        ("PutObject", lambda: circuit_breaker.keep_only("claims", "key", [b"{}"])),
        ("DeleteObject", lambda: circuit_breaker.keep_only("claims", "key", [])),
    ],
)
def test_what_aws_refuses_is_to_be_tried_again(
    cloud: Cloud, operation: str, call: Callable[[], object]
) -> None:
    cloud.calls.fail(operation)

    with pytest.raises(Retryable):
        call()


def test_what_is_parked_comes_back_as_it_was(parking: Parking) -> None:
    messages = [plain("a"), large("b"), plain("c")]
    parking.park(*messages)
    assert parking.parked() == Counter(messages)

    assert parking.tick() == (False, 3)

    assert parking.queued() == Counter(messages)
    assert parking.objects() == []
    [claim] = parking.cloud.keys("claims", "claims/")
    assert claim.startswith("claims/resumed/")
    for body in parking.cloud.left():
        assert message.decode(body, lambda key: parking.cloud.content("claims", key)).account == SITE


def test_a_message_with_line_ends_is_one_message(parking: Parking) -> None:
    by_hand = b'{"sluice":1,\n "receipt":"r",\n "text":"a\\nb"}'
    parking.park(by_hand, plain("a"))

    parking.tick()

    [found] = [queued for queued in parking.queued() if b"text" in queued]
    assert msgspec.json.decode(found) == msgspec.json.decode(by_hand)
    assert len(parking.cloud.left()) == 2


def test_messages_come_back_in_their_accounts_group_and_say_so(parking: Parking) -> None:
    parking.park(plain("a"), plain("b"))

    parking.tick()

    [call] = parking.cloud.calls.of("SendMessageBatch")
    assert {entry["MessageGroupId"] for entry in call["Entries"]} == {SITE}
    assert {tuple(entry["MessageAttributes"]) for entry in call["Entries"]} == {("resumed",)}


def test_an_object_is_small_enough_to_send_without_a_look_at_the_clock(parking: Parking) -> None:
    many = [plain(f"m{number}") for number in range(circuit_breaker.OBJECT_MESSAGES + 1)]
    parking.park(*many)
    assert len(parking.objects()) == 2

    big = [b'"%s"' % (b"x" * (circuit_breaker.OBJECT_BYTES // 2)) for _ in range(3)]
    parking.park(*big)
    assert len(parking.objects()) == 5

    assert parking.parked() == Counter(many) + Counter(big)


def test_what_has_waited_longest_comes_first(parking: Parking, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    names = ["first", "second", "third", "fourth", "fifth"]
    for number, name in enumerate(names):
        monkeypatch.setattr(time, "time", lambda at=now + number: at)
        # The later, the smaller.
        parking.park(*(plain(f"{name}{n}") for n in range(5 - number)))

    parking.tick()

    order = [message.decode(body, lambda _: b"").receipt.rstrip("01234") for body in parking.cloud.left()]
    assert list(dict.fromkeys(order)) == names


def test_while_the_circuit_is_open_one_message_is_sent_each_time(parking: Parking) -> None:
    messages = [plain(name) for name in "abc"]
    parking.park(*messages)
    circuit_breaker.open_circuit("state", SITE, 401)

    assert parking.tick() == (True, 1)

    assert len(parking.cloud.left()) == 1
    assert parking.queued() + parking.parked() == Counter(messages)
    [call] = parking.cloud.calls.of("SendMessageBatch")
    [entry] = call["Entries"]
    assert entry["MessageAttributes"].keys() == {"resumed", "probe"}

    assert [parking.tick() for _ in range(3)] == [(True, 1), (True, 1), (True, 0)]
    assert parking.queued() == Counter(messages)
    assert SITE in parking.store.accounts()


def test_probes_that_came_back_wait_behind_what_was_not_asked_about(parking: Parking) -> None:
    for name in ("new", "newer", "probe"):
        parking.park(plain(name))
        time.sleep(0.01)
    circuit_breaker.open_circuit("state", SITE, 401)

    parking.tick()

    assert parking.queued() == Counter([plain("new"), plain("newer")])
    assert parking.parked() == Counter([plain("probe")])


def test_probes_are_from_two_objects(parking: Parking) -> None:
    parking.park(*(plain(f"a{number}") for number in range(50)))
    time.sleep(0.01)
    parking.park(*(plain(f"b{number}") for number in range(50)))
    circuit_breaker.open_circuit("state", SITE, 401)

    assert parking.tick() == (True, 2)

    assert parking.queued() == Counter([plain("a0"), plain("b0")])


def test_a_probe_that_cannot_be_sent_makes_no_copies(parking: Parking) -> None:
    messages = [plain(name) for name in "abc"]
    parking.park(*messages)
    circuit_breaker.open_circuit("state", SITE, 401)
    parking.cloud.calls.fail("SendMessageBatch")

    for _ in range(3):
        with pytest.raises(Retryable):
            parking.tick()

    assert parking.parked() == Counter(messages)
    assert len(parking.objects()) == 1


def test_of_a_batch_sent_in_part_the_rest_stays_parked(parking: Parking) -> None:
    messages = [plain(f"m{number}") for number in range(25)]
    parking.park(*messages)

    def lose_one_each(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        lost = parameters["Entries"].pop()
        return real() | {"Failed": [{"Id": lost["Id"], "SenderFault": False, "Code": "InternalError"}]}

    parking.cloud.calls.instead("SendMessageBatch", lose_one_each)
    with pytest.raises(Retryable):
        parking.tick()

    assert parking.parked().total() == 3
    assert parking.queued() + parking.parked() == Counter(messages)

    parking.cloud.calls.clear()
    assert parking.tick() == (False, 3)
    assert parking.queued() == Counter(messages)


def test_only_what_is_safely_sent_is_deleted(parking: Parking) -> None:
    parking.park(plain("a"))
    parking.park(large("b"))

    parking.tick()

    names = [name for name, _ in parking.cloud.calls.made if name in {"SendMessageBatch", "DeleteObject"}]
    assert names == ["SendMessageBatch", "DeleteObject"] * 2


def test_it_stops_when_time_is_short_and_goes_on_at_the_next_tick(parking: Parking) -> None:
    for number in range(5):
        parking.park(plain(f"m{number}"))
    looks = iter([True, True, False])

    assert parking.tick(lambda: next(looks)) == (False, 2)
    assert parking.parked().total() == 3
    assert parking.tick(lambda: False) == (False, 0)
    assert parking.tick() == (False, 3)
    assert parking.queued().total() == 5


def test_an_account_is_registered_until_nothing_of_it_is_parked(parking: Parking) -> None:
    parking.park(plain("a"))
    parking.park(plain("b"), site_id="XyZ789")
    assert parking.store.accounts().keys() == {SITE, "XyZ789"}

    parking.tick()
    assert SITE in parking.store.accounts()

    assert parking.tick() == (False, 0)
    assert parking.store.accounts().keys() == {"XyZ789"}
    assert parking.tick() is None


def test_more_objects_than_one_listing_shows_all_come_back(parking: Parking) -> None:
    messages = [plain(f"m{number}") for number in range(23)]
    for each in messages:
        parking.park(each)

    def list_ten(parameters: dict[str, Any], real: Callable[[], Any]) -> Any:
        parameters["MaxKeys"] = 10  # S3 gives 1,000 in a listing
        return real()

    parking.cloud.calls.instead("ListObjectsV2", list_ten)

    assert [parking.tick() for _ in range(4)] == [(False, 10), (False, 10), (False, 3), (False, 0)]
    assert parking.queued() == Counter(messages)
    assert SITE not in parking.store.accounts()


class TestRegister:
    """Tests that messages parked during a resumption are not forgotten, in whatever order the steps run."""

    @pytest.fixture(autouse=True)
    def _as_ever(self, parking: Parking, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        monkeypatch.setattr(circuit_breaker, "REGISTERED_SECONDS", 1_200.0)

    def register(self, *, seconds_ago: float = 0.0) -> None:
        now = time.time()
        with self.patch.context() as patch:
            patch.setattr(time, "time", lambda: now - seconds_ago)
            circuit_breaker.park("state", "claims", SITE, [])

    def steps_of_parking(self, name: str) -> list[Callable[[Parking], None]]:
        key = f"parked/{SITE}/{time.time():.3f}-{name}.jsonl.zst"

        return [lambda _: self.register(), lambda _: circuit_breaker.keep_only("claims", key, [plain(name)])]

    def steps_of_resuming(self) -> list[Callable[[Parking], None]]:
        seen: dict[str, Any] = {}

        def read(parking: Parking) -> None:
            seen["mark"] = circuit_breaker.registered_accounts("state").get(SITE)

        def list_objects(parking: Parking) -> None:
            seen["keys"] = circuit_breaker.parked_objects("claims", SITE)

        def forget(parking: Parking) -> None:
            if seen["mark"] is not None and not seen["keys"]:
                circuit_breaker.deregister("state", SITE, seen["mark"])

        return [read, list_objects, forget]

    @pytest.mark.parametrize("before", ["nothing", "registered"])
    def test_one_parks_while_two_resume(self, parking: Parking, before: str) -> None:
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
                queues[each].pop(0)(parking)

            assert SITE in parking.store.accounts(), order
            for key in parking.objects():
                circuit_breaker.keep_only("claims", key, [])
            parking.cloud.dynamodb.delete_item(TableName="state", Key={"pk": {"S": "parked"}})

    def test_parking_runs_in_the_order_assumed_above(self, parking: Parking) -> None:
        parking.park(plain("a"))

        assert [name for name, _ in parking.cloud.calls.made] == ["UpdateItem", "PutObject"]

    def test_resuming_runs_in_the_order_assumed_above(self, parking: Parking) -> None:
        self.register(seconds_ago=1_201)
        parking.cloud.calls.clear()

        parking.tick()

        names = [name for name, _ in parking.cloud.calls.made]
        assert names == ["GetItem", "GetItem", "ListObjectsV2", "UpdateItem"]

    def test_a_register_that_was_forgotten_and_written_again_is_another(self, parking: Parking) -> None:
        self.register(seconds_ago=1_202)
        seen = parking.store.accounts()[SITE]
        circuit_breaker.deregister("state", SITE, seen)
        assert SITE not in parking.store.accounts()
        self.register(seconds_ago=1_201)

        circuit_breaker.deregister("state", SITE, seen)

        assert SITE in parking.store.accounts()

    def test_nobody_is_forgotten_who_may_be_about_to_park(self, parking: Parking) -> None:
        self.register(seconds_ago=1_100)

        assert parking.tick() == (False, 0)

        assert SITE in parking.store.accounts()
        assert parking.cloud.calls.of("UpdateItem")[1:] == []


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("number", range(10))
def test_a_crash_of_resume_loses_nothing(parking: Parking, number: int, is_open: bool, done: bool) -> None:
    messages = [plain("a"), large("b"), plain("c")]
    parking.park(*messages)
    parking.park(plain("d"))
    everything = {*messages, plain("d")}
    if is_open:
        circuit_breaker.open_circuit("state", SITE, 401)
    parking.cloud.calls.clear()
    parking.cloud.calls.crash(number, done=done)

    try:
        parking.tick()
        crashed = False
    except Crash:
        crashed = True

    calls = len(parking.cloud.calls.made)
    parking.cloud.calls.clear()
    assert crashed == (calls > number)
    assert parking.queued().keys() | parking.parked().keys() == everything
    assert SITE in parking.store.accounts()
    # And the next ticks bring all of it back.
    circuit_breaker.close_circuit("state", SITE)
    while parking.tick() is not None:
        pass
    assert parking.queued().keys() == everything
    assert parking.objects() == []


def test_the_crashes_above_reach_every_call(parking: Parking) -> None:
    parking.park(plain("a"), large("b"), plain("c"))
    parking.park(plain("d"))
    parking.cloud.calls.clear()

    parking.tick()

    assert len(parking.cloud.calls.made) == 10


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", range(3))
def test_parking_says_it_failed_unless_it_is_all_there_and_registered(
    parking: Parking, monkeypatch: pytest.MonkeyPatch, number: int, done: bool
) -> None:
    monkeypatch.setattr(circuit_breaker, "OBJECT_MESSAGES", 2)
    messages = [plain(name) for name in "abc"]
    parking.cloud.calls.crash(number, done=done)

    with pytest.raises(Crash):
        parking.park(*messages)

    # They are still on the queue, because the process that parked them did not delete them. They are found
    # where they are parked:
    parking.cloud.calls.clear()
    assert SITE in parking.store.accounts() or parking.objects() == []
    # And parked again:
    parking.park(*messages)
    assert parking.parked().keys() == set(messages)
    while parking.tick() is not None:
        pass
    assert parking.queued().keys() == set(messages)
