"""Tests the sources document: each mistake is found with its place, and a bad document replaces nothing."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sluice.errors import Misconfigured, Retryable
from sluice.webhooks import normalised, presets, sources
from sluice.webhooks.signatures import SCHEMES
from sluice.webhooks.sources import SourcesCache
from tests.support.factories import SITE_ID
from tests.support.webhook_samples import document, own, source

HMAC = {"scheme": "hmac", "header": "X-Signature"}
HOOK = "/sources/shop"


def signed(**signature: Any) -> dict[str, Any]:
    return own() | document(
        preset=None, signature=signature, events={"a": {"metric": "A", "profile": {"id": "b"}}}
    )


@pytest.mark.parametrize(
    "written",
    [
        {"sources": {}},
        *[document(preset=preset) for preset in presets.names()],
        document(events={"placed-order": None}),
        document(events={"placed-order": {"metric": "Bought", "properties": {"Tags": None, "Note": "note"}}}),
        document(on_invalid="refuse", delivery_id="token"),
        document(topic="header('x-topic')", events={"refund": {"topics": ["refunds/create", "refund"]}}),
        own(topics=["a"], object_id="id", unique_id="id", waits_for_identity=True),
        own(metric={"expression": "topic"}, properties={"a": {"b": ["c", 1, True]}}, each="items"),
        *[signed(scheme=scheme) for scheme in SCHEMES],
        signed(scheme="bearer", header="X-Gitlab-Token"),
        signed(**HMAC),
        signed(**HMAC, algorithm="sha1", encoding="base64", prefix="sha1=", separator=","),
        signed(**HMAC, signed="{timestamp}:{body}", timestamp_header="X-Time"),
        signed(
            **HMAC, signed="{id}.{timestamp}.{body}", timestamp_prefix="t=", separator=",", id_header="X-Id"
        ),
    ],
)
def test_a_good_document_has_no_problems(written: dict[str, Any]) -> None:
    data = json.dumps(written).encode()

    assert sources.problems(written) == []
    assert sources.decode(data).sources.keys() == written["sources"].keys()
    assert normalised.find(json.loads(sources.to_store(data))) is not None
    assert sources.decode(sources.to_store(data)) == sources.decode(data)


@pytest.mark.parametrize(
    ("written", "where"),
    [
        ([], "/"),
        ({}, "/sources"),
        ({"sources": [], "more": 1}, "/sources"),
        ({"sources": {"shop": None}}, HOOK),
        ({"sources": {"Shop!": document()["sources"]["shop"]}}, "/sources/Shop!"),
        (document(account=None), f"{HOOK}/account"),
        (document(account="AbC12"), f"{HOOK}/account"),
        (document(secret=None), f"{HOOK}/secret"),
        (document(secret=""), f"{HOOK}/secret"),
        (document(secret="../accounts"), f"{HOOK}/secret"),
        (document(preset="shopfy"), f"{HOOK}/preset"),
        (document(preset=None), f"{HOOK}/signature"),
        (document(signature={"scheme": "none"}), f"{HOOK}/signature/scheme"),
        (document(events={}, preset=None, signature={"scheme": "basic"}), f"{HOOK}/events"),
        (document(on_invalid="ignore"), f"{HOOK}/on_invalid"),
        (document(delivery_id="id["), f"{HOOK}/delivery_id"),
        (document(topic="header("), f"{HOOK}/topic"),
        (document(extra=1), f"{HOOK}/extra"),
        (own(topics=[]), f"{HOOK}/events/seen/topics"),
        (own(topics="orders/create"), f"{HOOK}/events/seen/topics"),
        (own(topics=[5]), f"{HOOK}/events/seen/topics/0"),
        (own(object_id="id[", unique_id="id"), f"{HOOK}/events/seen/object_id"),
        (own(object_id="id"), f"{HOOK}/events/seen/object_id"),
        (own(waits_for_identity=True), f"{HOOK}/events/seen/waits_for_identity"),
        (own(waits_for_identity="yes"), f"{HOOK}/events/seen/waits_for_identity"),
        (
            document(events={"placed-order": {"unique_id": None}}),
            f"{HOOK}/events/placed-order/object_id",
        ),
        (document(events={"placed-order": {"value": "total["}}), f"{HOOK}/events/placed-order/value"),
        (document(events={"placed-order": {"metric": None}}), f"{HOOK}/events/placed-order/metric"),
        (document(events={"placed-order": {"vaule": "total"}}), f"{HOOK}/events/placed-order/vaule"),
        (document(events={"placed-order": 1}), f"{HOOK}/events/placed-order"),
        (document(events={"new": {"metric": "New", "when": "a = b"}}), f"{HOOK}/events/new/when"),
        (document(profile={"email": "lower(a"}), f"{HOOK}/profile/email"),
        (document(profile={"mail": "a"}), f"{HOOK}/profile/mail"),
        (own(profile=None), f"{HOOK}/events/seen/profile"),
        (own(profile={"properties": {"a": {"b": "c("}}}), f"{HOOK}/events/seen/profile/properties/a/b"),
        (own(profile={"location": {"city": "bogus()"}}), f"{HOOK}/events/seen/profile/location/city"),
        (own(profile={"first_name": "a"}), f"{HOOK}/events/seen/profile"),
        (own(metric=""), f"{HOOK}/events/seen/metric"),
        (own(metric="x" * 128), f"{HOOK}/events/seen/metric"),
        (own(metric={"expression": "a["}), f"{HOOK}/events/seen/metric/expression"),
        (own(properties={"a": ["b", {"c": "d("}]}), f"{HOOK}/events/seen/properties/a/1/c"),
        (signed(scheme="hmac"), f"{HOOK}/signature/header"),
        (signed(scheme="shopify", header="X-Other"), f"{HOOK}/signature/header"),
        (signed(scheme="basic", prefix="Digest "), f"{HOOK}/signature/prefix"),
        (signed(scheme="hmac", header="X Signature"), f"{HOOK}/signature/header"),
        (signed(**HMAC, algorithm="md5"), f"{HOOK}/signature/algorithm"),
        (signed(**HMAC, signed="{timestamp}"), f"{HOOK}/signature/signed"),
        (signed(**HMAC, signed="{body}{nonce}"), f"{HOOK}/signature/signed"),
        (signed(**HMAC, signed="{timestamp}.{body}"), f"{HOOK}/signature/signed"),
        (signed(**HMAC, timestamp_header="X-Time"), f"{HOOK}/signature/signed"),
        (
            signed(**HMAC, signed="{timestamp}{body}", timestamp_prefix="", separator=","),
            f"{HOOK}/signature/signed",
        ),
        (
            signed(
                **HMAC,
                signed="{timestamp}{body}",
                timestamp_prefix="t=",
                timestamp_header="X-Time",
                separator=",",
            ),
            f"{HOOK}/signature/signed",
        ),
        (
            signed(**HMAC, signed="{timestamp}{body}", timestamp_prefix="t="),
            f"{HOOK}/signature/timestamp_prefix",
        ),
        (signed(**HMAC, signed="{id}.{body}"), f"{HOOK}/signature/signed"),
    ],
)
def test_a_mistake_is_found_where_it_stands(written: Any, where: str) -> None:
    found = sources.problems(written)

    assert where in [problem.pointer for problem in found]
    with pytest.raises(Misconfigured, match="sources document is not valid"):
        sources.decode(json.dumps(written).encode())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (own(topics=[]), "'topics' must name at least one topic."),
        (own(object_id="id"), "'object_id' goes with 'unique_id'"),
        (own(waits_for_identity=True), "'waits_for_identity' goes with 'object_id'"),
    ],
)
def test_a_mistake_about_objects_says_what_would_be_right(written: Any, said: str) -> None:
    [problem] = sources.problems(written)

    assert said in problem.detail


def test_every_mistake_is_found_at_once() -> None:
    events = {"placed-order": {"value": "a["}, "ordered-product": {"when": "b["}}
    written = {"sources": {"a": document(events=events)["sources"]["shop"], "b": {"account": 1}}}

    where = {problem.pointer for problem in sources.problems(written)}

    assert {"/sources/a/events/placed-order/value", "/sources/a/events/ordered-product/when"} <= where
    assert {"/sources/b/account", "/sources/b/secret", "/sources/b/signature", "/sources/b/events"} <= where


def test_a_mistake_in_the_structure_hides_no_other() -> None:
    events = {
        "new": {"metric": "New", "colour": "blue", "value": "a[", "profile": {"mail": "x", "email": "b["}},
        "none": 5,
        "nobody": {"metric": "", "profile": {"title": 1}},
    }
    signature = {"scheme": "hmac", "header": "a header", "signed": "{bdy}"}
    written = document(
        account="AbC1", secret="a secret", delivery_id="c[", events=events, signature=signature, colour="red"
    )

    where = sorted((problem.pointer or "").removeprefix(HOOK) for problem in sources.problems(written))

    assert where == [
        "/account",
        "/colour",
        "/delivery_id",
        "/events/new/colour",
        "/events/new/profile/email",
        "/events/new/profile/mail",
        "/events/new/value",
        "/events/nobody/metric",
        "/events/nobody/profile/title",
        "/events/none",
        "/secret",
        "/signature/header",
        "/signature/signed",
    ]


def test_what_an_unknown_preset_would_have_is_not_missing() -> None:
    found = sources.problems(document(preset="shopfy", secret=None, delivery_id=1))

    assert {each.pointer for each in found} == {
        f"{HOOK}/{name}" for name in ("preset", "secret", "delivery_id")
    }


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"sources": 1}', b"[" * 100_000])
def test_what_is_no_document_is_refused(data: bytes) -> None:
    with pytest.raises(Misconfigured, match="sources document"):
        sources.decode(data)


def test_a_document_has_a_mebibyte_and_no_more() -> None:
    largest = json.dumps(document()).encode().ljust(2**20)

    assert sources.decode(largest).sources.keys() == {"shop"}
    with pytest.raises(Misconfigured, match="exceeds 1048576 bytes"):
        sources.decode(largest + b" ")


def test_a_source_says_more_than_its_preset() -> None:
    events = {"placed-order": {"metric": "Bought", "properties": {"Tags": None}}, "refund": None}
    of = source(document(events=events, profile={"last_name": None}))
    by_name = {mapping.name: mapping for mapping in of.mappings}

    assert by_name["placed-order"].metric == "Bought"
    assert "refund" not in by_name
    assert "last_name" not in by_name["placed-order"].profile
    assert "email" in by_name["placed-order"].profile
    assert "Tags" not in by_name["placed-order"].attributes["properties"]  # type: ignore[operator]
    assert (of.account, of.secret, of.refuses) == (SITE_ID, "shop", False)


GOOD = json.dumps(document()).encode()
OTHER = json.dumps(document(secret="new")).encode()


class Bucket:
    """Plays one object, as it is read with the ETag of the copy at hand."""

    def __init__(self, content: bytes = GOOD) -> None:
        self.content = content
        self.reads = 0
        self.fails = False

    def fetch(self, etag: str | None) -> tuple[str, bytes] | None:
        self.reads += 1
        if self.fails:
            raise Retryable("the sources document cannot be read")
        current = str(hash(self.content))
        return None if etag == current else (current, self.content)


@pytest.fixture
def shelf() -> tuple[Bucket, SourcesCache, list[str], Callable[[float], None]]:
    bucket, now = Bucket(), [100.0]
    reported: list[str] = []

    def later(seconds: float) -> None:
        now[0] += seconds

    return bucket, SourcesCache(bucket.fetch, reported.append, lambda: now[0]), reported, later


def test_a_document_is_looked_at_once_a_minute(shelf: Any) -> None:
    bucket, kept, _, later = shelf

    assert kept.sources() is kept.sources()
    bucket.content = OTHER
    assert kept.sources().sources["shop"].secret == "shop"
    later(60)
    assert kept.sources().sources["shop"].secret == "new"
    later(60)
    assert kept.sources().sources["shop"].secret == "new"
    assert bucket.reads == 3


def test_a_bad_document_replaces_nothing(shelf: Any) -> None:
    bucket, kept, said, later = shelf
    kept.sources()

    bucket.content = b"{}"
    later(60)

    assert kept.sources().sources["shop"].secret == "shop"
    assert "/sources" in said[0]
    bucket.content = OTHER
    later(60)
    assert kept.sources().sources["shop"].secret == "new"


def test_a_document_that_cannot_be_read_is_kept(shelf: Any) -> None:
    bucket, kept, said, later = shelf
    kept.sources()

    bucket.fails = True
    later(60)

    assert kept.sources().sources["shop"].secret == "shop"
    assert said == ["the sources document cannot be read"]
    kept.sources()
    assert bucket.reads == 2


def test_without_a_document_at_hand_the_fault_is_told(shelf: Any) -> None:
    bucket, kept, _, _ = shelf

    bucket.fails = True
    with pytest.raises(Retryable):
        kept.sources()
    bucket.fails, bucket.content = False, b"{}"
    with pytest.raises(Misconfigured):
        kept.sources()
    bucket.content = GOOD
    assert kept.sources().sources.keys() == {"shop"}


def test_where_there_is_no_document_there_are_no_sources(shelf: Any) -> None:
    bucket, kept, _, later = shelf
    bucket.content = b""

    assert kept.sources().sources == {}
    bucket.content = GOOD
    later(60)
    assert kept.sources().sources.keys() == {"shop"}


BAD = {"secret": "shop"}  # without an account


def two(**changes: Any) -> bytes:
    """Makes a document of the sources "shop" and "other", of which some are changed."""
    good = document()["sources"]["shop"]
    return json.dumps({"sources": {"shop": good, "other": good, **changes}}).encode()


def test_a_bad_source_takes_no_other_down(shelf: Any) -> None:
    bucket, kept, said, _ = shelf
    bucket.content = two(shop=BAD)

    found = kept.sources()

    assert found.find("other").name == "other"
    with pytest.raises(Misconfigured, match="/sources/shop/account: 'account' is a required field"):
        found.find("shop")
    assert found.find("unknown") is None
    assert len(said) == 1


@pytest.mark.parametrize(
    "bad",
    [
        None,
        BAD,
        {**document()["sources"]["shop"], "colour": "red"},
        {**document()["sources"]["shop"], "delivery_id": "id["},
    ],
)
def test_the_last_good_copy_of_a_bad_source_is_kept_and_the_others_are_renewed(shelf: Any, bad: Any) -> None:
    bucket, kept, said, later = shelf
    bucket.content = two()
    kept.sources()

    bucket.content = two(shop=bad, other=document(secret="new")["sources"]["shop"])
    later(60)
    found = kept.sources()

    assert (found.find("shop").secret, found.find("other").secret) == ("shop", "new")
    assert len(said) == 1
    assert "/sources/shop" in said[0]


def test_a_bad_source_is_reported_at_each_look_until_it_is_mended(shelf: Any) -> None:
    bucket, kept, said, later = shelf
    bucket.content = two(shop=BAD)
    kept.sources()
    kept.sources()
    later(60)
    kept.sources()
    assert len(said) == 2

    bucket.content = two()
    later(60)

    assert kept.sources().find("shop").name == "shop"
    assert len(said) == 2


def test_a_source_that_is_removed_is_gone_whatever_is_wrong_with_another(shelf: Any) -> None:
    bucket, kept, _, later = shelf
    bucket.content = two()
    kept.sources()

    bucket.content = json.dumps({"sources": {"shop": BAD}}).encode()
    later(60)

    assert kept.sources().find("other") is None
    assert kept.sources().find("shop") is not None


def test_an_unknown_field_beside_the_sources_takes_none_down(shelf: Any) -> None:
    bucket, kept, said, _ = shelf
    bucket.content = json.dumps({**document(), "version": 2}).encode()

    assert kept.sources().find("shop") is not None
    [told] = said
    assert told.endswith("/version: 'version' is not a valid field for the resource 'document'.")


def test_a_source_that_is_nested_too_deeply_takes_no_other_down() -> None:
    """Checks a source that the parser reads although it is deeper than Python recurses."""
    properties = '{"a": ' * 900 + "1" + "}" * 900
    other = json.dumps(own(properties="here")["sources"]["shop"]).replace('"here"', properties)

    found = sources.decode_valid(two(other="here").replace(b'"here"', other.encode()))

    assert list(found.sources) == ["shop"]
    with pytest.raises(Misconfigured, match="nested"):
        found.find("other")


WORDS: list[tuple[Any, str, str]] = [
    ([], "/", "The document must be an object."),
    ({}, "/sources", "'sources' is a required field for the resource 'document'."),
    ({"sources": 1}, "/sources", "'sources' must be an object."),
    (
        {"sources": {}, "more": 1},
        "/more",
        "'more' is not a valid field for the resource 'document'.",
    ),
    (
        {"sources": {"Shop!": document()["sources"]["shop"]}},
        "/sources/Shop!",
        "A source's name has a to z, 0 to 9 and hyphens only, at most 63.",
    ),
    (document(account=5), f"{HOOK}/account", "'account' must be a string."),
    (
        document(account="AbC12"),
        f"{HOOK}/account",
        "'account' must be a site id: six letters or digits.",
    ),
    (
        document(secret="a b"),
        f"{HOOK}/secret",
        "'secret' is a name of letters, digits, hyphens and underscores.",
    ),
    (
        document(preset="shopfy"),
        f"{HOOK}/preset",
        f"There is no such preset: take one of {', '.join(presets.names())}.",
    ),
    (document(signature=5), f"{HOOK}/signature", "'signature' must be an object."),
    (
        document(preset=None, signature={}, events={"a": {"metric": "A", "profile": {"id": "b"}}}),
        f"{HOOK}/signature/scheme",
        "'scheme' is a required field for the resource 'source'.",
    ),
    (
        document(signature={"scheme": "md5"}),
        f"{HOOK}/signature/scheme",
        "'scheme' must be 'basic' or 'bearer' or 'github' or 'hmac' or 'klaviyo' or 'shopify' "
        "or 'standard-webhooks' or 'stripe' or 'woocommerce'.",
    ),
    (
        signed(scheme="hmac"),
        f"{HOOK}/signature/header",
        "'hmac' needs the name of the header with the signature.",
    ),
    (
        signed(scheme="shopify", header="X-Other"),
        f"{HOOK}/signature/header",
        "'header' is not for the scheme 'shopify'.",
    ),
    (
        signed(scheme="shopify", colour="red"),
        f"{HOOK}/signature/colour",
        "'colour' is not a valid field for the resource 'source'.",
    ),
    (
        signed(scheme="hmac", header="X Signature"),
        f"{HOOK}/signature/header",
        "'header' must be the name of a header.",
    ),
    (
        signed(**HMAC, algorithm="md5"),
        f"{HOOK}/signature/algorithm",
        "'algorithm' must be 'sha256', 'sha1' or 'sha512'.",
    ),
    (
        signed(**HMAC, signed="{timestamp}{nonce}{id}"),
        f"{HOOK}/signature/signed",
        "'signed' holds {body} once, and may hold {timestamp} and {id}. "
        "A time is signed and found: {timestamp} goes with 'timestamp_header' or 'timestamp_prefix'. "
        "{id} goes with 'id_header'.",
    ),
    (
        signed(**HMAC, signed="{timestamp}{body}", timestamp_prefix="t="),
        f"{HOOK}/signature/timestamp_prefix",
        "'timestamp_prefix' goes with the 'separator' between the time and the signature.",
    ),
    (document(on_invalid="ignore"), f"{HOOK}/on_invalid", "'on_invalid' must be 'accept' or 'refuse'."),
    (
        document(events=dict.fromkeys(presets.load("shopify")["events"])),
        f"{HOOK}/events",
        "A source needs at least one event.",
    ),
    (document(events=[]), f"{HOOK}/events", "'events' must be an object."),
    (own(metric=5), f"{HOOK}/events/seen/metric", "'metric' must be a string or an object."),
    (own(metric=""), f"{HOOK}/events/seen/metric", "'metric' must not be empty."),
    (own(metric="x" * 128), f"{HOOK}/events/seen/metric", "'metric' must have at most 127 characters."),
    (
        own(profile={"title": "a"}),
        f"{HOOK}/events/seen/profile",
        "A profile needs one of id, email, phone_number, external_id, anonymous_id, _kx.",
    ),
    (own(profile={"_kx": 1}), f"{HOOK}/events/seen/profile/_kx", "'_kx' must be a string."),
    (own(topics="a"), f"{HOOK}/events/seen/topics", "'topics' must be an array."),
    (own(topics=["a", 1]), f"{HOOK}/events/seen/topics/1", "Item 1 of 'topics' must be a string."),
    (own(topics=[]), f"{HOOK}/events/seen/topics", "'topics' must name at least one topic."),
    (
        own(waits_for_identity="yes"),
        f"{HOOK}/events/seen/waits_for_identity",
        "'waits_for_identity' must be true or false.",
    ),
    (own(when="a = b"), f"{HOOK}/events/seen/when", "This is not a JMESPath expression: "),
    (own(properties=[]), f"{HOOK}/events/seen/properties", "'properties' must be an object."),
]


@pytest.mark.parametrize(("written", "where", "detail"), WORDS)
def test_a_mistake_is_told_in_words_that_say_what_would_be_right(
    written: Any, where: str, detail: str
) -> None:
    told = [each.detail for each in sources.problems(written) if each.pointer == where]

    assert len(told) == 1
    assert told[0].startswith(detail)
    assert told[0] == detail or detail.endswith(" ")


@pytest.mark.parametrize("name", ["<text>", "<object>", "[key]", "~/", "hmac", "events", "profile", ""])
def test_names_that_look_like_parts_of_a_path_confuse_nothing(name: str) -> None:
    event = {"metric": "A", "profile": {name: "a[", "email": "b["}, "properties": {name: {name: "c["}}}
    bad = {
        **own()["sources"]["shop"],
        "signature": {**HMAC, name: 1},
        "events": {name: event, "events": event},
    }
    good = document()["sources"]["shop"]

    found = sources.decode_valid(json.dumps({"sources": {"good": good, name: bad}}).encode())

    assert found.find("good") is not None
    with pytest.raises(Misconfigured):
        found.find(name)


def test_a_mistake_that_events_share_is_told_once() -> None:
    assert [each.pointer for each in sources.problems(document(profile={"email": "lower(a"}))] == [
        f"{HOOK}/profile/email"
    ]


def test_properties_may_be_nested_twenty_levels_deep_and_no_deeper() -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = "a"
        for level in range(levels):
            value = {"a": value} if level % 2 else [value]
        return own(properties={"a": value})

    assert sources.problems(nested(19)) == []
    [problem] = sources.problems(nested(20))
    assert problem.pointer == f"{HOOK}/events/seen/properties"
    assert problem.detail == "'properties' may be nested 20 levels deep at most."
