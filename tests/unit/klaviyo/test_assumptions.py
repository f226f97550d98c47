"""Tests what Klaviyo's documents leave open: whatever is true, each event gets the outcome it should have.

Each assumption is a setting of the fake upstream. docs/compatibility.md lists them, with who says so.
"""

import itertools
from collections import Counter
from typing import Any, Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devstack.fake_upstream.rules import ENTRIES
from sluice.contract import Surface
from sluice.delivery.responses import Response
from sluice.klaviyo import parser
from sluice.klaviyo.bisection import RECORDED_SAMPLES
from sluice.message import Message
from tests.simulation.scenario import Scenario
from tests.support.workloads import HOUR, KEY, NOW, SITE, all_once, delivered, rejected, single, work

UNREAL: Final = "+15555555555"
REAL: Final = "+46701234567"
OPTIONAL_FIELDS: Final[dict[str, Any]] = {
    "first_name": "Ada",
    "last_name": "Lovelace",
    "organization": "Analytical",
    "locale": "en-GB",
    "title": "Countess",
    "image": "https://images.example/ada.png",
    "location": {"city": "London", "country": "GB"},
    "external_id": "7",
    "phone_number": REAL,
    "value": 9.5,
    "value_currency": "XTS",
}
_receipts = itertools.count()


def event(unique_id: str, metric: str = "Placed Order", **attributes: Any) -> dict[str, Any]:
    named = {"data": {"type": "metric", "attributes": {"name": metric}}}
    return {"properties": {}, "metric": named, "unique_id": unique_id, **attributes}


def of(customer: str, *events: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    """Makes an entry of a customer's events."""
    profile = {"type": "profile", "attributes": {"email": f"{customer}@mail.example", **attributes}}
    content = [{"type": "event", "attributes": each} for each in events]
    return {
        "type": "event-bulk-create",
        "attributes": {"profile": {"data": profile}, "events": {"data": content}},
    }


def bulk(*entries: dict[str, Any], receipt: str | None = None) -> Message[Any]:
    attributes = {"events-bulk-create": {"data": entries}}
    body = msgspec.json.encode({"data": {"type": "event-bulk-create-job", "attributes": attributes}})
    read = parser.read(Surface.BULK, body, "2026-07-15", NOW)
    return Message(receipt or f"assumed-{next(_receipts)}", SITE, Surface.BULK, NOW, read.entries)


def world(**changes: Any) -> Scenario:
    made = Scenario({SITE: KEY}, workers=1)
    made.klaviyo.configure(**changes)
    return made


def reasons(of_world: Scenario) -> Counter[str]:
    return Counter(str(rejection.reason) for rejection in of_world.rejections)


LOST_ANSWER: Final = {"kind": "reset", "taken": True, "count": 1}


class TestAUniqueIdThatKlaviyoHas:
    def test_is_visible_where_the_event_was_never_sent_before(self) -> None:
        klaviyo = world()

        work(klaviyo, bulk(of("ada", event("order:1"))))
        work(klaviyo, bulk(of("ada", event("order:1", value=5.0))))

        assert delivered(klaviyo.klaviyo) == all_once("order:1")
        assert reasons(klaviyo) == {"duplicate_unique_id": 1}
        assert klaviyo.counts["DeliveredEvents"] == 1

    def test_is_a_delivery_of_a_replay_because_the_event_may_have_been_taken_before(self) -> None:
        klaviyo = world()
        work(klaviyo, bulk(of("ada", event("order:1"))))

        again = bulk(of("ada", event("order:1")), of("bob", event("order:2")), receipt="replay-1-0")
        again.replayed = ["record-1", "record-2"]
        work(klaviyo, again)

        assert delivered(klaviyo.klaviyo) == all_once("order:1", "order:2")
        assert klaviyo.rejections == []
        assert klaviyo.receipts[f"{SITE}#replay-1-0"] == {0, 1_000}

    def test_is_a_delivery_where_an_answer_was_lost(self) -> None:
        klaviyo = world(faults=[LOST_ANSWER])

        work(klaviyo, bulk(of("ada", event("order:1"), event("order:2"))), single("order-3"))

        assert delivered(klaviyo.klaviyo) == all_once("order:1", "order:2", "order-3")
        assert klaviyo.rejections == []
        assert klaviyo.counts["DeliveredEvents"] == 3

    def test_is_a_delivery_of_each_metric_that_shares_it(self) -> None:
        klaviyo = world(faults=[LOST_ANSWER])
        shared = [
            event("order:1", metric) for metric in ("Placed Order", "Fulfilled Order", "Refunded Order")
        ]

        work(klaviyo, bulk(of("ada", *shared)))

        assert delivered(klaviyo.klaviyo) == {"order:1": 3}
        assert klaviyo.rejections == []
        assert klaviyo.counts["DeliveredEvents"] == 3

    def test_is_visible_where_another_content_of_it_was_sent_just_before(self) -> None:
        klaviyo = world()

        work(klaviyo, bulk(of("ada", event("order:1", value=1.0), event("order:1", value=2.0))))

        assert delivered(klaviyo.klaviyo) == all_once("order:1")
        assert reasons(klaviyo) == {"duplicate_unique_id": 1}

    @pytest.mark.parametrize("scope", ["profile", "account"])
    def test_costs_few_requests_where_metrics_do_not_count(self, scope: str) -> None:
        klaviyo = world(duplicate_scope=scope)
        metrics = ("Placed Order", "Fulfilled Order", "Refunded Order")
        entries = [of(f"c{n}", *(event(f"order:{n}", metric) for metric in metrics)) for n in range(100)]

        work(klaviyo, bulk(*entries))

        assert delivered(klaviyo.klaviyo) == all_once(*(f"order:{n}" for n in range(100)))
        assert reasons(klaviyo) == {"duplicate_unique_id": 200}
        assert klaviyo.requests <= 6


class TestARefusalAfterALostAnswer:
    @pytest.mark.parametrize("pointer", ["event", "entry", "events", "none"])
    def test_is_told_as_probably_recorded(self, pointer: str) -> None:
        klaviyo = world(duplicate_pointer=pointer, faults=[LOST_ANSWER])

        work(klaviyo, single("order-1"))

        assert reasons(klaviyo) == {"probably_recorded": 1}
        assert klaviyo.requests == 2

    @pytest.mark.parametrize("pointer", ["entry", "events", "none"])
    def test_costs_a_whole_message_few_requests(self, pointer: str) -> None:
        klaviyo = world(duplicate_pointer=pointer, faults=[LOST_ANSWER])

        work(klaviyo, bulk(of("ada", *(event(f"order:{n}") for n in range(1_000)))))

        assert rejected(klaviyo) == all_once(*(f"order:{n}" for n in range(1_000)))
        assert reasons(klaviyo).keys() == {"probably_recorded"}
        assert klaviyo.requests <= 2 + RECORDED_SAMPLES

    @pytest.mark.parametrize("seed", range(4))
    def test_does_not_condemn_good_events_beside_several_bad_ones(self, seed: int) -> None:
        klaviyo = Scenario({SITE: KEY}, workers=1, seed=seed)
        klaviyo.klaviyo.configure(
            faults=[{"kind": "reset", "taken": False, "count": 1}],
            poison=[{"contains": "Bad", "attributed": False}],
        )
        good = [f"order:{n}" for n in range(12)]

        work(klaviyo, bulk(of("ada", *(event(f"bad:{n}", "Bad") for n in range(5)), *map(event, good))))

        assert delivered(klaviyo.klaviyo) == all_once(*good)
        assert rejected(klaviyo) == all_once(*(f"bad:{n}" for n in range(5)))

    def test_is_an_events_own_where_others_of_its_message_are_taken(self) -> None:
        klaviyo = world(faults=[{"kind": "reset", "taken": False, "count": 1}], attribution="none")
        klaviyo.klaviyo.configure(poison=[{"contains": "Bad", "attributed": False}])
        names = [f"order:{n}" for n in range(100)]

        work(klaviyo, bulk(of("ada", event("bad", "Bad"), *map(event, names))))

        assert delivered(klaviyo.klaviyo) == all_once(*names)
        assert rejected(klaviyo) == all_once("bad")
        assert reasons(klaviyo) == {"refused_by_upstream": 1}


class TestAFieldThatIsRefused:
    @pytest.mark.parametrize("attribution", ["all", "first", "none", "entry", "parameter"])
    def test_an_unreal_phone_number_is_left_out_beside_another_identifier(self, attribution: str) -> None:
        klaviyo = world(unreal_phone_numbers="refuse", attribution=attribution)

        work(
            klaviyo,
            bulk(
                of("ada", event("order:1"), phone_number=UNREAL),
                of("bob", event("order:2"), phone_number=REAL),
            ),
        )

        assert delivered(klaviyo.klaviyo) == all_once("order:1", "order:2")
        assert klaviyo.rejections == []
        assert klaviyo.counts["PartialFailures"] == klaviyo.counts["LeftOutFields"] == 1
        profiles = [taken.profile["attributes"] for taken in klaviyo.klaviyo.events()]
        assert sorted(profile.get("phone_number", "") for profile in profiles) == ["", REAL]

    @pytest.mark.parametrize("attribution", ["all", "none"])
    def test_an_unreal_phone_number_alone_is_a_rejection(self, attribution: str) -> None:
        klaviyo = world(unreal_phone_numbers="refuse", attribution=attribution)

        work(
            klaviyo, bulk(of("ada", event("order:1"), email=None, phone_number=UNREAL), of("bob", event("2")))
        )

        assert delivered(klaviyo.klaviyo) == all_once("2")
        assert rejected(klaviyo) == all_once("order:1")

    def test_one_that_klaviyo_ignores_is_counted(self) -> None:
        klaviyo = world(unreal_phone_numbers="ignore")

        work(klaviyo, bulk(of("ada", event("order:1"), phone_number=UNREAL)))

        assert delivered(klaviyo.klaviyo) == all_once("order:1")
        assert klaviyo.counts["PartialFailures"] == 1

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("first_name", "Ada"),
            ("locale", "xx-XX"),
            ("location", {"city": "Lund"}),
            ("external_id", "7"),
            ("value", 9.5),
            ("value_currency", "XTS"),
        ],
    )
    def test_any_field_is_left_out_that_an_event_can_do_without(self, name: str, value: Any) -> None:
        klaviyo = world(refused_fields=[name])
        is_of_event = name.startswith("value")
        spoiled = event("order:1", **{name: value}) if is_of_event else event("order:1")

        work(klaviyo, bulk(of("ada", spoiled, event("order:2"), **({} if is_of_event else {name: value}))))

        assert delivered(klaviyo.klaviyo) == all_once("order:1", "order:2")
        assert klaviyo.rejections == []
        assert klaviyo.counts["PartialFailures"] == 1

    @pytest.mark.parametrize("is_bulk", [False, True], ids=["single", "bulk"])
    @pytest.mark.parametrize("attribution", ["all", "first"])
    @pytest.mark.parametrize("name", OPTIONAL_FIELDS)
    def test_each_optional_field_is_left_out_on_each_route(
        self, name: str, attribution: str, is_bulk: bool
    ) -> None:
        klaviyo = world(refused_fields=[name], attribution=attribution)
        of_event = {name: OPTIONAL_FIELDS[name]} if name.startswith("value") else {}
        of_profile = {} if of_event else {name: OPTIONAL_FIELDS[name]}
        entries = [of(f"c{n}", event(f"order:{n}", **of_event), **of_profile) for n in range(3)]
        messages = [bulk(*entries)] if is_bulk else [bulk(entry) for entry in entries]

        work(klaviyo, *messages)

        assert delivered(klaviyo.klaviyo) == all_once("order:0", "order:1", "order:2")
        assert klaviyo.rejections == []
        assert klaviyo.counts["LeftOutFields"] == 3
        for taken in klaviyo.klaviyo.events():
            assert name not in taken.profile["attributes"]
            assert name not in taken.event

    @pytest.mark.parametrize("name", ["email", "metric", "time"])
    def test_none_is_left_out_that_makes_it_another_event(self, name: str) -> None:
        klaviyo = world(refused_fields=[name])

        work(klaviyo, bulk(of("ada", event("order:1", time="2026-10-01T00:00:00Z"))))

        assert delivered(klaviyo.klaviyo) == {}
        assert rejected(klaviyo) == all_once("order:1")

    def test_an_event_whose_every_property_is_refused_costs_few_requests(self) -> None:
        klaviyo = world()
        properties = {f"p{n}": n for n in range(100)}

        def refuse_next(body: bytes) -> Response:
            kept = msgspec.json.decode(body)["data"]["attributes"]["events-bulk-create"]["data"][0]
            names = list(kept["attributes"]["events"]["data"][0]["attributes"]["properties"])
            return refusal(f"{ENTRIES}/0/attributes/events/data/0/attributes/properties/{names[0]}")

        klaviyo.answer = refuse_next

        work(klaviyo, bulk(of("ada", event("order:1", properties=properties))))

        assert rejected(klaviyo) == all_once("order:1")
        assert klaviyo.requests <= 12


def refusal(pointer: str) -> Response:
    errors = [{"code": "invalid", "detail": "Invalid.", "source": {"pointer": pointer}}]
    return Response(400, {"content-type": "application/json"}, msgspec.json.encode({"errors": errors}))


@pytest.mark.parametrize("attribution", ["entry", "events"])
def test_a_pointer_at_a_list_of_events_takes_only_the_bad_one(attribution: str) -> None:
    klaviyo = world(attribution=attribution, poison=[{"contains": "Bad"}])
    names = [f"order:{n}" for n in range(200)]

    work(
        klaviyo,
        bulk(
            of("bob", event("before")),
            of("ada", event("bad", "Bad"), *map(event, names)),
            of("cy", event("after")),
        ),
    )

    assert delivered(klaviyo.klaviyo) == all_once("before", "after", *names)
    assert rejected(klaviyo) == all_once("bad")
    assert klaviyo.requests <= 25


MANNERS: Final = {
    "400 without a pointer": {"kind": "json", "status": 400},
    "413 as HTML": {"kind": "html", "status": 413},
    "400 of 5 MB": {"kind": "large", "status": 400},
}
EVERYTHING_REFUSED: Final = pytest.mark.parametrize("manner", MANNERS.values(), ids=MANNERS)


class TestARefusalOfEverything:
    @pytest.mark.rule
    @EVERYTHING_REFUSED
    @pytest.mark.parametrize("is_bulk", [False, True])
    def test_opens_the_circuit_and_rejects_nothing(self, manner: dict[str, Any], is_bulk: bool) -> None:
        klaviyo = world(faults=[manner])
        names = [f"s{n}" for n in range(170)]
        messages = [bulk(of("ada", *map(event, names)))] if is_bulk else list(map(single, names))

        work(klaviyo, *messages, limit=300)

        assert klaviyo.rejections == []
        assert klaviyo.circuits == {SITE: manner["status"]}
        assert klaviyo.counts["UnexplainedRefusals"] >= 1
        assert klaviyo.requests <= 150
        self.recover(klaviyo, *names)

    @EVERYTHING_REFUSED
    def test_is_seen_in_events_that_come_one_by_one(self, manner: dict[str, Any]) -> None:
        klaviyo = world(faults=[manner])
        names = [f"s{n}" for n in range(40)]

        async def scenario() -> None:
            async with klaviyo.working():
                for name in names:
                    klaviyo.put(single(name))
                    await klaviyo.sleep(60.0)

        klaviyo.run(scenario())

        assert klaviyo.rejections == []
        assert klaviyo.circuits == {SITE: manner["status"]}
        self.recover(klaviyo, *names)

    @pytest.mark.parametrize("fault", [{"kind": "json", "status": 503}, {"kind": "reset"}, {"kind": "hang"}])
    def test_is_seen_where_answers_were_lost_before(self, fault: dict[str, Any]) -> None:
        klaviyo = world(faults=[{**fault, "count": 2}, MANNERS["400 without a pointer"]])
        names = [f"s{n}" for n in range(170)]

        work(klaviyo, *map(single, names[:100]), bulk(of("ada", *map(event, names[100:]))), limit=300)
        work(klaviyo, single("late"), single("later"), single("last"), limit=300)
        klaviyo.klaviyo.configure(faults=[])
        work(klaviyo, limit=4 * HOUR)

        # The first few that may be recorded are told at once, as a lone event would be.
        assert len(klaviyo.rejections) < 3
        assert sum(delivered(klaviyo.klaviyo).values()) + len(klaviyo.rejections) == 173
        assert klaviyo.circuits == {}

    def test_ends_with_a_delivery_and_may_begin_anew(self) -> None:
        klaviyo = world(faults=[MANNERS["413 as HTML"]])
        names = [f"s{n}" for n in range(6)]
        for name in names:
            work(klaviyo, single(name), limit=120)
            self.recover(klaviyo, name)
            klaviyo.klaviyo.configure(faults=[MANNERS["413 as HTML"]])

        assert klaviyo.rejections == []
        assert delivered(klaviyo.klaviyo) == all_once(*names)

    @EVERYTHING_REFUSED
    @pytest.mark.parametrize("is_bulk", [False, True])
    def test_that_ends_between_two_events_costs_neither(self, manner: dict[str, Any], is_bulk: bool) -> None:
        klaviyo = world(faults=[{**manner, "count": 2}])  # of both, and of the first alone
        names = ["first", "second"]

        work(klaviyo, *([bulk(of("ada", *map(event, names)))] if is_bulk else map(single, names)), limit=300)

        assert klaviyo.rejections == []
        assert delivered(klaviyo.klaviyo) == all_once(*names)
        assert klaviyo.requests == 4

    def test_is_told_from_a_bad_event_by_one_request_more(self) -> None:
        klaviyo = world(poison=[{"contains": "badone", "attributed": False}])

        work(klaviyo, single("badone"), single("good"), limit=300)

        assert rejected(klaviyo) == all_once("badone")
        assert delivered(klaviyo.klaviyo) == all_once("good")
        assert klaviyo.requests <= 4

    def test_is_not_seen_in_a_single_bad_event(self) -> None:
        klaviyo = world(poison=[{"contains": "badone", "attributed": False}])

        work(klaviyo, single("badone"), limit=2 * HOUR)

        assert rejected(klaviyo) == all_once("badone")
        assert klaviyo.counts["CircuitsOpened"] == 0
        assert reasons(klaviyo) == {"refused_by_upstream": 1}

    @pytest.mark.parametrize("count", [1, 2, 3, 10])
    def test_is_not_seen_in_bad_events_beside_a_good_one(self, count: int) -> None:
        klaviyo = world(poison=[{"contains": "badone", "attributed": False}])
        bad = [f"badone-{n}" for n in range(count)]

        work(klaviyo, *map(single, [*bad, "good"]), limit=120)

        assert rejected(klaviyo) == all_once(*bad)
        assert delivered(klaviyo.klaviyo) == all_once("good")
        assert klaviyo.counts["CircuitsOpened"] == 0

    @EVERYTHING_REFUSED
    @pytest.mark.parametrize("place", range(4, 8))
    def test_that_begins_within_a_search_costs_no_good_event(
        self, manner: dict[str, Any], place: int
    ) -> None:
        before = {"kind": "latency", "seconds": 0, "count": 2}  # the job is refused, its first half is taken
        klaviyo = world(poison=[{"contains": "badone", "attributed": False}], faults=[before, manner])
        metrics = ["badone" if n == place else "Placed Order" for n in range(8)]

        work(
            klaviyo, bulk(of("ada", *(event(f"s{n}", metric) for n, metric in enumerate(metrics)))), limit=300
        )
        assert klaviyo.rejections == []
        klaviyo.klaviyo.configure(faults=[])
        work(klaviyo, single("last"), limit=4 * HOUR)

        assert sum(rejected(klaviyo).values()) == 1
        assert delivered(klaviyo.klaviyo) == all_once("last", *(f"s{n}" for n in range(8) if n != place))

    def test_a_bad_event_is_told_at_once_where_others_are_delivered(self) -> None:
        klaviyo = world(poison=[{"contains": "badone", "attributed": False}])

        work(klaviyo, single("good"), single("badone"), limit=20)

        assert rejected(klaviyo) == all_once("badone")

    def test_bad_events_wait_and_are_told_once_a_good_one_is_delivered(self) -> None:
        klaviyo = world(poison=[{"contains": "badone", "attributed": False}])
        bad = [f"badone-{n}" for n in range(5)]

        work(klaviyo, *map(single, bad), limit=600)
        assert (klaviyo.rejections, klaviyo.circuits) == ([], {SITE: 400})
        work(klaviyo, single("good"), limit=HOUR)

        assert rejected(klaviyo) == all_once(*bad)
        assert delivered(klaviyo.klaviyo) == all_once("good")
        assert klaviyo.circuits == {}

    def recover(self, klaviyo: Scenario, *names: str) -> None:
        """Lets the upstream be well again, and everything be delivered."""
        klaviyo.klaviyo.configure(faults=[])
        work(klaviyo, limit=HOUR)
        taken = delivered(klaviyo.klaviyo)
        assert {name: taken[name] for name in names} == dict.fromkeys(names, 1)
        assert klaviyo.rejections == []
        assert klaviyo.circuits == {}


@pytest.mark.parametrize("name", ["revision", "Authorization", "content_type", "Content-Type"])
def test_a_parameter_that_every_request_has_is_the_accounts(name: str) -> None:
    assert bulk_with_parameter(name).circuits == {SITE: 400}


@pytest.mark.parametrize("name", ["events", "filter", "profile", "include"])
def test_any_other_parameter_is_not(name: str) -> None:
    found = bulk_with_parameter(name)

    assert found.circuits == {}
    assert delivered(found.klaviyo) == all_once("order:1")


def bulk_with_parameter(name: str) -> Scenario:
    """Returns a world whose upstream refuses one event by only naming a parameter."""
    errors = [{"code": "invalid", "detail": "Invalid.", "source": {"parameter": name}}]
    given = Response(400, {"content-type": "application/json"}, msgspec.json.encode({"errors": errors}))
    made = world()
    is_account = name.lower().startswith(("rev", "auth", "cont"))
    made.answer = lambda body: given if is_account or b"bad" in body else None
    work(made, bulk(of("ada", event("bad"), event("order:1"))), limit=30)
    return made


LOST: Final[st.SearchStrategy[dict[str, Any]]] = st.builds(
    dict,
    kind=st.sampled_from(["reset", "hang"]),
    taken=st.booleans(),
    count=st.just(1),
    probability=st.sampled_from([0.3, 1.0]),
)
WORLDS: Final = st.fixed_dictionaries(
    {
        "attribution": st.sampled_from(["all", "first", "none", "entry", "events", "parameter"]),
        "duplicates": st.sampled_from(["fail", "ignore"]),
        "duplicate_scope": st.sampled_from(["metric", "profile", "account"]),
        "duplicate_pointer": st.sampled_from(["unique_id", "event", "entry", "events", "none"]),
        "unreal_phone_numbers": st.sampled_from(["take", "ignore", "refuse"]),
        "nulls": st.sampled_from(["take", "refuse"]),
        "rate_limit_headers": st.sampled_from(["steady", "binding", "none"]),
        # A second lost answer in a world in which metrics do not count can hide which event is recorded.
        "faults": st.lists(LOST, max_size=1),
        "seed": st.integers(0, 99),
    }
)
EVENTS: Final = st.lists(
    st.tuples(
        st.integers(0, 2),  # the message
        st.sampled_from("abc"),  # the customer
        st.sampled_from(["Placed Order", "Fulfilled Order", "Bad"]),
        st.sampled_from(["1", "2", "3", "own", "own", "own", "own"]),  # the unique_id
        st.sampled_from([None, None, REAL, UNREAL]),
        st.booleans(),  # whether anything else identifies the customer
    ),
    min_size=1,
    max_size=14,
)


@pytest.mark.rule
@given(WORLDS, EVENTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_true_each_event_gets_the_outcome_it_should_have(
    upstream: dict[str, Any], drawn: list[Any]
) -> None:
    klaviyo = world(**upstream, poison=[{"contains": "Bad"}])
    messages: dict[int, list[dict[str, Any]]] = {}
    unique_ids: dict[int, str] = {}
    is_bad: dict[int, bool] = {}
    for number, (message, customer, metric, name, phone_number, has_email) in enumerate(drawn):
        identifiers = {"phone_number": phone_number} if phone_number else {}
        if phone_number and not has_email:
            identifiers["email"] = None
        unique_ids[number] = f"own:{number}" if name == "own" else f"{customer}:{name}"
        is_alone = phone_number == UNREAL and not has_email
        is_bad[number] = metric == "Bad" or (is_alone and upstream["unreal_phone_numbers"] != "take")
        content = event(unique_ids[number], metric, properties={"number": number})
        messages.setdefault(message, []).append(of(f"{customer}{number % 2}", content, **identifiers))

    work(klaviyo, *(bulk(*entries) for entries in messages.values()), limit=3 * HOUR)

    everything = set(unique_ids)
    recorded = {taken.event["properties"]["number"] for taken in klaviyo.klaviyo.events()}
    recorded_ids = {unique_ids[number] for number in recorded}
    reason_of = {
        refused["properties"]["number"]: str(rejection.reason)
        for rejection in klaviyo.rejections
        for refused in msgspec.json.decode(rejection.payload)["events"]
    }
    counted = everything - reason_of.keys()
    assert not klaviyo.queue.messages
    assert not klaviyo.dead.messages
    assert klaviyo.circuits == {}
    for number in counted - recorded:
        # It repeats an event that is recorded, and Klaviyo answered 202 to it.
        assert upstream["duplicates"] == "ignore"
        assert unique_ids[number] in recorded_ids
    for number, reason in reason_of.items():
        is_there = unique_ids[number] in recorded_ids
        assert is_bad[number] or (is_there and reason in {"duplicate_unique_id", "probably_recorded"})
    assert klaviyo.counts["DeliveredEvents"] == len(counted)
