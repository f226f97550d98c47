"""Tests verification: every scheme takes what its sender signed, and nothing else."""

import hashlib
import hmac
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sluice.errors import Misconfigured
from sluice.webhooks.signatures import SCHEMES, Hmac, Token, live_secrets, verified
from tests.support.signing import SECRETS, SIGNERS, body_of, scheme_of

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SENDERS = sorted(SIGNERS)
SIGNING = [sender for sender in SENDERS if sender not in {"bearer", "basic"}]
TIMED = ["stripe", "standard-webhooks", "svix", "klaviyo"]

type Headers = dict[str, str]

every_sender = pytest.mark.parametrize("sender", SENDERS)
every_signing = pytest.mark.parametrize("sender", SIGNING)
every_timed = pytest.mark.parametrize("sender", TIMED)


def secret_of(sender: str) -> str:
    return SECRETS[scheme_of(sender)]


def sent(sender: str, body: bytes = b"", at: datetime = NOW, secret: str | None = None) -> Headers:
    return SIGNERS[sender](secret or secret_of(sender), body or body_of(at), at)


def accepts(sender: str, headers: Headers, body: bytes = b"", secrets: list[str] | None = None) -> bool:
    return verified(
        SCHEMES[scheme_of(sender)], secrets or [secret_of(sender)], headers, body or body_of(NOW), NOW
    )


def other(sender: str) -> str:
    """Returns another secret of the same form."""
    secret = secret_of(sender)
    return secret[:-4] + secret[-4:].swapcase()[::-1]


@every_sender
def test_what_its_sender_signed_is_taken(sender: str) -> None:
    assert accepts(sender, sent(sender))


@every_sender
def test_another_secret_is_not(sender: str) -> None:
    assert not accepts(sender, sent(sender, secret=other(sender)))
    assert not accepts(sender, sent(sender), secrets=[other(sender)])


@every_sender
def test_either_of_two_live_secrets_is_taken(sender: str) -> None:
    both = [other(sender), secret_of(sender)]

    assert accepts(sender, sent(sender), secrets=both)
    assert accepts(sender, sent(sender, secret=other(sender)), secrets=both)
    assert not accepts(sender, sent(sender, secret="whsec_" + "A" * 32), secrets=both)


@every_signing
@pytest.mark.parametrize("change", [lambda body: body + b" ", lambda body: body[:-1], lambda _: b"{}"])
def test_another_body_is_not(sender: str, change: Callable[[bytes], bytes]) -> None:
    assert not accepts(sender, sent(sender), change(body_of(NOW)))


@every_sender
def test_no_header_may_be_missing_or_empty(sender: str) -> None:
    headers = sent(sender)
    for name in headers:
        if name == "klaviyo-webhook-id":
            continue
        assert not accepts(sender, {key: value for key, value in headers.items() if key != name})
        assert not accepts(sender, headers | {name: ""})
        assert not accepts(sender, headers | {name: " "})
    assert not accepts(sender, {})


@pytest.mark.parametrize(
    ("scheme", "prefix", "taken"),
    [
        ("bearer", "Bearer ", True),
        ("bearer", "bearer ", True),
        ("bearer", "Digest ", False),
        ("bearer", "Bearer=", False),
        ("basic", "Basic ", True),
        ("basic", "BASIC ", True),
        ("basic", "Other ", False),
    ],
)
def test_a_secret_is_shown_as_its_scheme_has_it(scheme: str, prefix: str, taken: bool) -> None:
    shown = sent(scheme)["authorization"].partition(" ")[2]

    assert accepts(scheme, {"authorization": prefix + shown}) == taken


def signature_header(sender: str, headers: Headers) -> str:
    return next(name for name in headers if "signature" in name or "hmac" in name or name == "authorization")


@every_sender
@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-4],
        lambda value: value + "AAAA",
        lambda value: value[: len(value) // 2],
        lambda value: value[::-1],
        lambda value: value + "\u00e9",
        lambda value: value[:-1] + "\ud800",
        lambda value: f"{value[:-4]}!!!!",
        lambda value: "v1=",
        lambda value: "v1,",
        lambda value: "sha256=",
        lambda value: "Basic",
        lambda value: "0" * 10_000,
    ],
)
def test_a_signature_that_is_damaged_is_not(sender: str, change: Callable[[str], str]) -> None:
    headers = sent(sender)
    name = signature_header(sender, headers)
    if sender == "stripe":  # what is behind its own signature belongs to another scheme
        headers[name] = headers[name].partition(",v0")[0]

    assert not accepts(sender, headers | {name: change(headers[name])})


@every_timed
@pytest.mark.parametrize(
    ("seconds", "taken"),
    [(0, True), (-299, True), (300, True), (-301, False), (301, False), (-(10**6), False)],
)
def test_a_time_that_is_not_now_is_not(sender: str, seconds: int, taken: bool) -> None:
    at = NOW + timedelta(seconds=seconds)

    assert accepts(sender, sent(sender, body_of(at), at), body_of(at)) == taken


@pytest.mark.parametrize(
    "timestamp",
    ["", "now", "-1", "1e9", "9" * 15, "9" * 400, "2026-13-01", "\u0661\u0662", "12:00", "Tue, 99 Foo"],
)
def test_a_time_that_is_none_is_not(timestamp: str) -> None:
    body = body_of(NOW)
    digest = hmac.new(b"key", timestamp.encode() + body, hashlib.sha256).hexdigest()
    scheme = Hmac("x-signature", signed="{timestamp}{body}", timestamp_header="x-time")

    assert not verified([scheme], ["key"], {"x-signature": digest, "x-time": timestamp}, body, NOW)


@pytest.mark.parametrize(
    "timestamp",
    [
        "1795262400",
        "1795262400000",
        "2026-11-21T12:00:00Z",
        "2026-11-21T13:00:00.5+01:00",
        "2026-11-21T12:00:00",
        "Sat, 21 Nov 2026 12:00:00 GMT",
    ],
)
def test_a_time_may_be_written_as_senders_do(timestamp: str) -> None:
    body = body_of(NOW)
    digest = hmac.new(b"key", timestamp.encode() + body, hashlib.sha256).hexdigest()
    scheme = Hmac("x-signature", signed="{timestamp}{body}", timestamp_header="x-time")

    assert verified([scheme], ["key"], {"x-signature": digest, "x-time": timestamp}, body, NOW)


@pytest.mark.parametrize(
    "body",
    [b'{"meta": 1}', b'{"meta": {"timestamp": 1}}', b"[]", b"not JSON", b'{"meta": {"timestamp": "x"}}'],
)
def test_a_body_that_does_not_say_when_it_was_sent_is_not(body: bytes) -> None:
    assert not accepts("klaviyo", sent("klaviyo", body), body)


def test_one_of_several_signatures_is_enough() -> None:
    body = body_of(NOW)
    stripe, standard = sent("stripe"), sent("standard-webhooks")
    other_stripe = sent("stripe", secret=other("stripe"))["stripe-signature"].split(",")[1]
    other_standard = sent("standard-webhooks", secret=other("standard-webhooks"))["webhook-signature"]
    time, mine, _ = stripe["stripe-signature"].split(",")

    assert accepts("stripe", {"stripe-signature": f"{time},{other_stripe},{mine}"}, body)
    assert not accepts("stripe", {"stripe-signature": f"{time},{other_stripe}"}, body)
    both = f"v1a,AAAA {other_standard} {standard['webhook-signature']}"
    assert accepts("standard-webhooks", standard | {"webhook-signature": both}, body)
    many = " ".join([other_standard] * 10 + [standard["webhook-signature"]])
    assert not accepts("standard-webhooks", standard | {"webhook-signature": many}, body)


def test_two_times_are_none() -> None:
    header = sent("stripe")["stripe-signature"]

    assert not accepts("stripe", {"stripe-signature": f"t=1,{header}"})


def test_the_two_names_of_a_scheme_are_not_mixed() -> None:
    forged = sent("svix", secret=other("svix"))

    assert not accepts("svix", forged | sent("standard-webhooks"))


@pytest.mark.parametrize(
    ("scheme", "header"),
    [
        (Hmac("x-sig", algorithm="sha1"), hmac.new(b"k", b"{}", "sha1").hexdigest()),
        (Hmac("x-sig", algorithm="sha512"), hmac.new(b"k", b"{}", "sha512").hexdigest().upper()),
        (Hmac("x-sig", prefix="hmac "), f"hmac {hmac.new(b'k', b'{}', 'sha256').hexdigest()}"),
        (Hmac("x-sig", signed="a{body}b"), hmac.new(b"k", b"a{}b", "sha256").hexdigest()),
        (Token("x-token", prefix=""), "k"),
    ],
)
def test_a_scheme_of_ones_own(scheme: Any, header: str) -> None:
    assert verified([scheme], ["k"], {scheme.header: header}, b"{}", NOW)
    assert not verified([scheme], ["k"], {scheme.header: f"{header}0"}, b"{}", NOW)
    assert not verified([scheme], ["other"], {scheme.header: header}, b"{}", NOW)


def test_what_is_signed_is_not_read_as_a_template() -> None:
    scheme = Hmac("x-sig", signed="{id}.{body}", id_header="x-id")
    digest = hmac.new(b"k", b"{body}.{id}", "sha256").hexdigest()

    assert verified([scheme], ["k"], {"x-sig": digest, "x-id": "{body}"}, b"{id}", NOW)


@pytest.mark.parametrize(
    ("text", "secrets"),
    [
        ("s3cret", ["s3cret"]),
        ("s3cret\n", ["s3cret\n", "s3cret"]),
        ("k9x~;2 ", ["k9x~;2 ", "k9x~;2"]),
        (" s3cret \n", [" s3cret \n", " s3cret ", "s3cret"]),
        ('["new ", "old"]', ["new ", "new", "old"]),
        ('["new", "old"]', ["new", "old"]),
        ("[not a list", ["[not a list"]),
        ('{"a": 1}', ['{"a": 1}']),
    ],
)
def test_a_secret_is_one_or_several(text: str, secrets: list[str]) -> None:
    assert live_secrets(text) == secrets


@pytest.mark.parametrize("text", ["", " \n", "[]", '[""]', '["a", " "]'])
def test_a_secret_is_never_empty(text: str) -> None:
    with pytest.raises(Misconfigured):
        live_secrets(text)


@every_sender
@pytest.mark.parametrize("stored", ["{} ", " {}", "{}\n", " {}\r\n"])
def test_blanks_around_a_stored_secret_do_no_harm(sender: str, stored: str) -> None:
    secret = secret_of(sender)
    secrets = live_secrets(stored.format(secret))

    assert accepts(sender, sent(sender), secrets=secrets)
    assert not accepts(sender, sent(sender, secret=other(sender)), secrets=secrets)


def test_a_secret_that_ends_in_a_blank_is_taken_with_it() -> None:
    """Tests what WooCommerce does: it generates such secrets, and signs with all of it."""
    secret = "k9x~;2 "

    assert accepts("woocommerce", sent("woocommerce", secret=secret), secrets=live_secrets(secret))


@pytest.mark.parametrize("secret", ["whsec_", "whsec_\u00e9"])
def test_a_secret_that_is_no_key_is_an_operators_mistake(secret: str) -> None:
    with pytest.raises(Misconfigured):
        accepts("standard-webhooks", sent("standard-webhooks"), secrets=[secret])


@pytest.mark.parametrize("secret", ["password", ":", "user:"])
def test_a_secret_without_a_password_is_an_operators_mistake(secret: str) -> None:
    with pytest.raises(Misconfigured):
        accepts("basic", sent("basic", secret=secret), secrets=[secret])


@every_signing
def test_what_is_signed_need_not_be_utf_8(sender: str) -> None:
    body = body_of(NOW).replace(b"Zo", b"Zo\xff\xc3")

    assert accepts(sender, sent(sender, body), body)
    assert not accepts(sender, sent(sender, body), body.replace(b"\xff", b"\xfe"))


def test_a_body_is_hashed_once_for_each_secret_however_many_signatures_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    headers = sent("stripe")
    headers["stripe-signature"] += f",v1={'0' * 64}" * 9
    hashed = []

    def digest(key: bytes, message: bytes, algorithm: str) -> bytes:
        hashed.append(key)
        return hmac.new(key, message, algorithm).digest()

    monkeypatch.setattr(hmac, "digest", digest)

    assert accepts("stripe", headers, secrets=["new", secret_of("stripe")])
    assert len(hashed) == 2


def test_comparisons_take_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(left: Any, right: Any) -> bool:
        compared.append(right)
        return bool(left == right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for sender in SENDERS:
        accepts(sender, sent(sender), secrets=[secret_of(sender), other(sender)])

    assert len(compared) == 2 * len(SENDERS)
