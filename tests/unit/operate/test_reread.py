"""Tests how archived payloads are read again: by the same rules, on the same way in, the same each time."""

import copy
import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from sluice import message
from sluice.accounts import Accounts, KlaviyoAccount, PipelessApp
from sluice.contract import Surface
from sluice.errors import Misconfigured
from sluice.message import Entry, Message, PipelessEvent, PipelessMessage, StoredMessage
from sluice.operate import reread
from sluice.operate.reread import Lookups, Replayable, StillRefused
from sluice.rejection import Reason, Rejection, UpstreamPayload
from sluice.webhooks import sources
from tests.support.factories import (
    APP,
    APP_ID,
    NOON,
    SITE_ID,
    batch,
    bulk,
    client_bulk,
    encoded,
    entry,
    event,
    flat,
    happening,
    profile,
    single,
)
from tests.support.parsing import read as parsed
from tests.support.stored_accounts import APP_REFERENCE, REFERENCE

LATER: Final = NOON + timedelta(days=3)
RECORD: Final = "0190000000000123456789abcdef0123"
SOURCES: Final = {"sources": {"shop": {"account": SITE_ID, "preset": "shopify", "secret": "shop"}}}


def lookups(**changes: Any) -> Lookups:
    accounts = Accounts((KlaviyoAccount(SITE_ID, REFERENCE),), (PipelessApp(APP_ID, APP_REFERENCE),))
    known = Lookups(accounts, lambda _: None, _no_excess)
    return msgspec.structs.replace(known, **changes)


def _no_excess(*_: object) -> frozenset[str]:
    return frozenset()


def rejected(payload: object, surface: str | None = Surface.BULK, **fields: Any) -> Rejection:
    raw = payload if isinstance(payload, msgspec.Raw) else msgspec.Raw(encoded(payload))
    known = Rejection(Reason.REFUSED, "No.", raw, LATER, account=SITE_ID, accepted=NOON, id=RECORD)
    return msgspec.structs.replace(known, surface=surface, **fields)


def again(rejection: Rejection, mended: object = None, **changes: Any) -> Replayable:
    payload = bytes(rejection.payload) if mended is None else encoded(mended)
    return reread.read_again(RECORD, rejection, payload, lookups(**changes))


def entries(of: Replayable) -> list[Entry[Any]]:
    assert isinstance(of.content, list)
    return [each for each in of.content if isinstance(each, Entry)]


def attributes(of: Replayable) -> list[Any]:
    return [
        msgspec.json.decode(msgspec.json.encode(event.attributes))
        for each in entries(of)
        for event in each.events
    ]


def upstream(**changes: Any) -> dict[str, Any]:
    """Makes a payload as the archive holds it: what its caller sent of one profile."""
    known = {"profile": profile()["data"], "events": [event()["attributes"]], "backfill": False}
    return known | changes


BODIES: Final[dict[Surface, Callable[[], dict[str, Any]]]] = {
    Surface.BULK: lambda: bulk(entry(event(value=1), event(unique_id="b"), backfill=True)),
    Surface.EVENT: lambda: single(value=2.5, value_currency="SEK"),
    Surface.CLIENT_BULK: lambda: client_bulk(event(), event(unique_id="c")),
    Surface.CLIENT_EVENT: lambda: single(of=profile(anonymous_id="who")),
}


class TestWhatWasGoingUpstream:
    @pytest.mark.parametrize("surface", BODIES)
    def test_is_read_as_the_same_events_on_the_same_surface(self, surface: Surface) -> None:
        [stamped] = parsed(surface, BODIES[surface]()).entries
        stored = [msgspec.Raw(msgspec.json.encode(each.attributes)) for each in stamped.events]
        payload = UpstreamPayload(msgspec.Raw(msgspec.json.encode(stamped.profile)), stored, stamped.backfill)

        found = again(rejected(msgspec.Raw(msgspec.json.encode(payload)), surface))

        [read] = entries(found)
        assert (found.account, found.surface, found.events) == (SITE_ID, surface, len(stored))
        assert (read.key, read.backfill) == (stamped.key, stamped.backfill)
        assert msgspec.json.encode(read.profile) == bytes(payload.profile)
        assert [each.id for each in read.events] == [each.id for each in stamped.events]
        assert [msgspec.json.encode(each.attributes) for each in read.events] == list(map(bytes, stored))

    def test_has_a_time_and_a_unique_id_that_follow_from_its_acceptance_and_its_record(self) -> None:
        several = upstream(events=[event()["attributes"], event(unique_id=None)["attributes"]])
        for payload, unique_ids in ((upstream(), [RECORD]), (several, [f"{RECORD}-0", f"{RECORD}-1"])):
            read = attributes(again(rejected(payload)))
            assert [each["unique_id"] for each in read] == unique_ids
            assert {each["time"] for each in read} == {"2026-07-20T12:00:00Z"}

    def test_is_refused_with_the_place_in_its_payload(self) -> None:
        for payload, place in (
            (upstream(events=[event()["attributes"], event(value="5")["attributes"]]), "/events/1/value"),
            (upstream(profile=profile(email="no")["data"]), "/profile/attributes/email"),
        ):
            with pytest.raises(StillRefused) as raised:
                again(rejected(payload))
            assert raised.value.pointer == place

    def test_passes_once_it_is_mended(self) -> None:
        bad = upstream(events=[event(value_currency="EURO", value=1)["attributes"]])
        good = copy.deepcopy(bad)
        good["events"][0]["value_currency"] = "EUR"
        assert attributes(again(rejected(bad), good))[0]["value_currency"] == "EUR"

    def test_may_be_an_entry_in_which_no_event_was_found(self) -> None:
        bad = entry(of={"daat": {}})
        assert again(rejected(bad), entry()).events == 1
        with pytest.raises(StillRefused):
            again(rejected(bad))

    @pytest.mark.parametrize("payload", [[], 1, None, {"events": 1}, {"profile": 1}, {}])
    def test_may_be_mended_into_nothing_that_can_be_sent(self, payload: object) -> None:
        with pytest.raises(StillRefused):
            again(rejected(upstream()), payload if payload is not None else [None])

    def test_keeps_a_unique_id_that_another_event_has_only_if_it_is_mended(self) -> None:
        taken = upstream(events=[event(unique_id="order-1")["attributes"]])
        duplicate = rejected(taken, reason=Reason.DUPLICATE_ID)
        with pytest.raises(StillRefused, match="set a unique_id of its own"):
            again(duplicate)
        mended = upstream(events=[event(unique_id="order-1-again")["attributes"]])
        assert again(duplicate, mended).events == 1

    @pytest.mark.parametrize("surface", [None, "unheard of"])
    def test_of_no_surface_is_not_sent(self, surface: str | None) -> None:
        with pytest.raises(StillRefused, match="by which way it came in"):
            again(rejected(upstream(), surface))

    def test_that_no_job_can_hold_is_sent_only_where_the_mend_makes_it_fit(self) -> None:
        large = {f"n{number}": "x" * 100_000 for number in range(52)}
        oversized = rejected(
            upstream(events=[event(properties=large)["attributes"]]), reason=Reason.OVERSIZED
        )
        with pytest.raises(StillRefused):
            again(oversized)
        fits = dict(list(large.items())[:40])
        assert again(oversized, upstream(events=[event(properties=fits)["attributes"]])).events == 1

    def test_is_held_to_the_metrics_that_its_account_may_have(self) -> None:
        asked: list[Any] = []

        def excess(account: str, names: Iterable[str], is_anonymous: bool) -> frozenset[str]:
            asked.append((account, list(names), is_anonymous))
            return frozenset(asked[-1][1])

        limited = Accounts((KlaviyoAccount(SITE_ID, REFERENCE, limit_metrics=True),))
        with pytest.raises(StillRefused, match="all the metrics"):
            again(rejected(upstream(), Surface.CLIENT_EVENT), accounts=limited, excess_metrics=excess)
        assert asked == [(SITE_ID, ["Viewed Product"], True)]


class TestWhatAnAnonymousCallerSent:
    def test_stays_anonymous_whatever_the_mend_says(self) -> None:
        sent = upstream(profile=profile(email="ann@example.com")["data"])
        wish = copy.deepcopy(sent)
        wish["profile"]["attributes"]["properties"] = {"$email": "bob@example.com", "plan": "a"}
        wish["profile"]["meta"] = {"patch_properties": {"append": {"$id": "7", "x": 1}}}

        [read] = entries(again(rejected(sent, Surface.CLIENT_EVENT), wish))

        assert msgspec.to_builtins(read.profile) == {
            "type": "profile",
            "attributes": {"email": "ann@example.com", "properties": {"plan": "a"}},
            "meta": {"patch_properties": {"append": {"x": 1}}},
        }

    @pytest.mark.parametrize("surface", [Surface.CLIENT_EVENT, Surface.CLIENT_BULK])
    @pytest.mark.parametrize("name", ["id", "email", "phone_number", "external_id", "_kx"])
    def test_gets_no_identifier_by_a_mend(self, surface: Surface, name: str) -> None:
        sent = upstream(profile=profile(anonymous_id="who")["data"])
        wish = copy.deepcopy(sent)
        holder = wish["profile"] if name == "id" else wish["profile"]["attributes"]
        holder[name] = "+46701234567" if name == "phone_number" else "bob@example.com"

        with pytest.raises(StillRefused, match=f"cannot add the identifier {name}"):
            again(rejected(sent, surface), wish)
        assert again(rejected(sent, Surface.EVENT), wish).events == 1  # what a key's holder sent may get one

    @pytest.mark.parametrize("wish", ["new", "anonymous/new"])
    def test_gets_no_unique_id_of_a_servers_event_by_a_mend(self, wish: str) -> None:
        sent = rejected(
            upstream(events=[event(unique_id="anonymous/old")["attributes"]]), Surface.CLIENT_EVENT
        )
        mended = upstream(events=[event(unique_id=wish)["attributes"]])
        sharing = Accounts((KlaviyoAccount(SITE_ID, REFERENCE, shared_unique_ids=True),))
        assert attributes(again(sent))[0]["unique_id"] == "anonymous/old"
        assert attributes(again(sent, mended))[0]["unique_id"] == "anonymous/new"
        assert attributes(again(sent, mended, accounts=sharing))[0]["unique_id"] == wish

    def test_may_have_its_own_identifier_mended(self) -> None:
        sent = upstream(profile=profile(email="ann@example,com")["data"])
        assert again(rejected(sent, Surface.CLIENT_EVENT), upstream()).events == 1


class TestABodyThatCouldNotBeRead:
    def rejected(self, text: str, surface: str | None = None, **fields: Any) -> Rejection:
        return rejected(text, surface, reason=Reason.MALFORMED, **fields)

    @pytest.mark.parametrize(
        ("body", "surface"),
        [
            (bulk(entry(event(), event())), Surface.BULK),
            (single(), Surface.EVENT),
            (client_bulk(), Surface.CLIENT_BULK),
            (flat(), Surface.EVENT),
        ],
    )
    def test_is_read_as_the_body_it_is(self, body: dict[str, Any], surface: Surface) -> None:
        found = again(self.rejected("{"), encoded(body).decode())
        read = attributes(found)
        numbers = [RECORD] if len(read) == 1 else [f"{RECORD}-{n}" for n in range(len(read))]
        if surface is Surface.CLIENT_BULK:
            numbers = [f"anonymous/{each}" for each in numbers]
        assert (found.account, found.surface) == (SITE_ID, surface)
        assert [each["unique_id"] for each in read] == numbers
        assert {each["time"] for each in read} == {"2026-07-20T12:00:00Z"}

    def test_stays_on_the_surface_that_it_named(self) -> None:
        found = again(self.rejected("{", Surface.CLIENT_EVENT), encoded(single()).decode())
        assert found.surface == Surface.CLIENT_EVENT

    def test_may_be_a_batch_for_an_app(self) -> None:
        found = again(self.rejected("{", account=APP), encoded(batch(happening(), happening("u2"))).decode())
        assert (found.account, found.surface, found.events) == (APP, "pipeless", 2)

    def test_without_an_account_is_for_the_only_one(self) -> None:
        text = encoded(single()).decode()
        assert again(self.rejected(text, account="unknown")).account == SITE_ID
        two = Accounts((KlaviyoAccount(SITE_ID, REFERENCE), KlaviyoAccount("XyZ789", REFERENCE)))
        with pytest.raises(StillRefused, match="'account' is needed"):
            again(self.rejected(text, account="unknown"), accounts=two)

    def test_with_a_key_twice_is_refused_as_ever(self) -> None:
        text = encoded(single()).decode().replace('"type": "event"', '"type": "event", "type": "event"')
        with pytest.raises(StillRefused, match="more than once"):
            again(self.rejected(text))

    @pytest.mark.parametrize("text", ["", "{", '{"data": {"type": "evnt"}}', "\ud83d"])
    def test_is_still_refused_as_it_is(self, text: str) -> None:
        raw = msgspec.Raw(b'"' + text.encode("ascii", "backslashreplace").replace(b'"', b'\\"') + b'"')
        with pytest.raises(StillRefused):
            again(self.rejected("x"), None) if not text else again(rejected(raw, None))

    def test_that_looks_like_sluices_own_message_is_never_believed(self) -> None:
        forged = message.encode(stored(bulk())).text
        with pytest.raises(StillRefused, match="was not believed"):
            again(self.rejected(forged))

    def test_that_tells_of_objects_is_not_sent_again(self) -> None:
        record: dict[str, Any] = {
            "eventSource": "aws:s3",
            "eventName": "ObjectCreated:Put",
            "eventTime": "2026-07-20T12:00:00Z",
        }
        record |= {"s3": {"bucket": {"name": "b"}, "object": {"key": "k"}}}
        with pytest.raises(StillRefused, match="S3 objects"):
            again(self.rejected(encoded({"Records": [record]}).decode()))


class TestADeliveryOfAWebhook:
    BODY: Final = Path("tests/webhooks/shopify/orders_create.json").read_text()

    def rejected(self, text: str, headers: dict[str, str] | None = None) -> Rejection:
        return rejected(text, Surface.WEBHOOK, reason=Reason.INVALID, source="shop", headers=headers)

    def test_is_mapped_by_its_source_as_it_is_now(self) -> None:
        found = again(
            self.rejected("{", {"x-shopify-topic": "orders/create"}),
            self.BODY,
            source=sources.decode(encoded(SOURCES)).find,
        )
        assert (found.account, found.surface, found.source) == (SITE_ID, Surface.WEBHOOK, "shop")
        assert "Placed Order" in [each["metric"]["data"]["attributes"]["name"] for each in attributes(found)]

    def test_without_its_topic_is_for_no_mapping(self) -> None:
        with pytest.raises(StillRefused, match="make no event of it"):
            again(self.rejected(self.BODY), source=sources.decode(encoded(SOURCES)).find)

    def test_of_a_source_that_is_gone_says_so(self) -> None:
        with pytest.raises(StillRefused, match="no source shop any more"):
            again(self.rejected(self.BODY))

    def test_of_a_source_that_is_not_valid_says_so(self) -> None:
        def broken(_: str) -> None:
            raise Misconfigured("/sources/shop/account: it must be a site id")

        with pytest.raises(StillRefused, match="Its source is not valid: /sources/shop/account"):
            again(self.rejected(self.BODY), source=broken)

    def test_that_still_cannot_be_mapped_says_why(self) -> None:
        headers = {"x-shopify-topic": "orders/create"}
        with pytest.raises(StillRefused):
            again(
                self.rejected("{", headers),
                '{"email": "no address", "line_items": []}',
                source=sources.decode(encoded(SOURCES)).find,
            )


def stored(body: dict[str, Any], surface: Surface = Surface.BULK) -> StoredMessage:
    read = parsed(surface, body)
    made = message.as_stored(Message("r1", SITE_ID, surface, NOON, read.entries, line="s3://b/k:9"))
    assert isinstance(made, Message)
    return made


class TestADeadLetter:
    def rejected(self, letter: Message[Any] | PipelessMessage) -> Rejection:
        raw = msgspec.Raw(msgspec.json.encode(letter))
        return rejected(raw, letter.surface, account=letter.account, reason=Reason.DEAD_LETTER)

    def test_goes_back_as_what_it_was_whatever_the_rules_say_today(self) -> None:
        letter = stored(bulk(entry(event(value=1)), entry(of=profile(email="bob@example.com"))))
        letter.entries[0].profile = msgspec.Raw(b'{"type":"profile","attributes":{"email":"no"}}')
        found = again(self.rejected(letter))
        assert isinstance(found.content, Message)
        assert msgspec.json.encode(found.content) == msgspec.json.encode(letter)
        assert found.events == 2

    def test_passes_the_rules_again_where_it_is_mended(self) -> None:
        letter = stored(bulk(entry(event(value=1), event(unique_id="x"))))
        wish = msgspec.json.decode(msgspec.json.encode(letter))
        wish["entries"][0]["events"][1]["attributes"]["value"] = 7
        found = again(self.rejected(letter), wish)
        assert isinstance(found.content, Message)
        [read] = found.content.entries
        values = [msgspec.json.decode(each.attributes)["value"] for each in read.events]
        assert values == [1, 7]
        assert [(each.entry_index, each.event_index) for each in read.events] == [(0, 0), (0, 1)]
        wish["entries"][0]["events"][1]["attributes"]["value"] = "7"
        with pytest.raises(StillRefused) as raised:
            again(self.rejected(letter), wish)
        assert raised.value.pointer == "/events/1/value"

    @pytest.mark.parametrize(
        ("name", "value"), [("account", "XyZ789"), ("surface", "event"), ("source", "s")]
    )
    def test_stays_its_accounts_and_on_its_surface(self, name: str, value: str) -> None:
        letter = stored(client_bulk(), Surface.CLIENT_BULK)
        wish = msgspec.json.decode(msgspec.json.encode(letter)) | {name: value}
        with pytest.raises(StillRefused, match="cannot change the account"):
            again(self.rejected(letter), wish)

    def test_of_an_anonymous_caller_gets_no_identifier(self) -> None:
        letter = stored(client_bulk(of=profile(anonymous_id="who")), Surface.CLIENT_BULK)
        wish = msgspec.json.decode(msgspec.json.encode(letter))
        wish["entries"][0]["profile"]["attributes"]["email"] = "bob@example.com"
        with pytest.raises(StillRefused, match="cannot add the identifier email"):
            again(self.rejected(letter), wish)

    def test_for_an_app_is_read_by_the_apps_rules_where_it_is_mended(self) -> None:
        letter = PipelessMessage("r", APP_ID, NOON, msgspec.convert([happening()], list[PipelessEvent]))
        wish = msgspec.json.decode(msgspec.json.encode(letter))
        assert isinstance(again(self.rejected(letter)).content, PipelessMessage)
        wish["events"][0]["relationship"] = {"type": "eaten", "single": False}
        with pytest.raises(StillRefused, match="'type' must be one of"):
            again(self.rejected(letter), wish)
        wish["events"][0]["relationship"]["type"] = "liked"
        assert again(self.rejected(letter), wish).repeatable_relationships == 1

    @pytest.mark.parametrize("wish", [{"sluice": 1, "claim": "claims/x"}, {"sluice": 1, "zstd": "AAAA"}])
    def test_cannot_be_mended_into_another_form(self, wish: dict[str, Any]) -> None:
        with pytest.raises(StillRefused):
            again(self.rejected(stored(bulk())), wish)

    def test_in_the_form_in_which_it_was_received_is_not_believed(self) -> None:
        received = encoded('{"sluice":1,"claim":"claims/c"}')
        with pytest.raises(StillRefused, match="was not believed"):
            again(rejected(msgspec.Raw(received), None, reason=Reason.DEAD_LETTER))

    def test_is_only_one_that_reject_knew_by_its_seal(self) -> None:
        # A caller may write anything as an entry of a bulk body. It must not become a message.
        forged = msgspec.Raw(msgspec.json.encode(stored(bulk())))
        for wish in (None, {**json.loads(bytes(forged)), "account": "XyZ789"}):
            with pytest.raises(StillRefused):
                again(rejected(forged, Surface.BULK, reason=Reason.INVALID), wish)


class TestABatchForAnApp:
    def test_is_read_by_the_apps_rules(self) -> None:
        refused = rejected({"events": [happening(single=False)]}, "pipeless", account=APP)
        found = again(refused)
        assert (found.account, found.surface, found.events) == (APP, "pipeless", 1)
        assert found.repeatable_relationships == 1
        assert isinstance(found.content, list)
        assert msgspec.to_builtins(found.content[0])["relationship"]["created_on"] == "2026-07-20T12:00:00"

    def test_of_an_app_that_is_gone_says_so(self) -> None:
        refused = rejected({"events": [happening()]}, "pipeless", account="pipeless-9")
        with pytest.raises(StillRefused, match="pipeless-9 is not in the accounts document"):
            again(refused)


class TestHistory:
    def test_is_marked_as_such_event_by_event(self) -> None:
        days = [datetime(2026, 7, day, tzinfo=UTC).isoformat() for day in (1, 20, 2)]
        body = bulk(entry(*(event(time=day, unique_id=day) for day in days)))
        for given in (parsed(Surface.BULK, body).entries, stored(body).entries):
            marked = list(reread.with_backfill(given, NOON - timedelta(days=1)))
            assert [(each.backfill, [e.event_index for e in each.events]) for each in marked] == [
                (True, [0, 2]),
                (False, [1]),
            ]

    def test_is_what_its_caller_said_it_was(self) -> None:
        read = parsed(Surface.BULK, bulk(entry(event(), backfill=True))).entries
        assert [each.backfill for each in reread.with_backfill(read, NOON - timedelta(days=1))] == [True]
