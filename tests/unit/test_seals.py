"""Tests seals: what no live key made is not believed, and a change of keys loses nothing."""

import pytest

from sluice import seals
from sluice.errors import Misconfigured
from sluice.seals import SealingKeys, UnknownKey

OLD, NEW, NEWER = (f"{name} key of thirty-two characters " for name in ("old", "new", "newer"))
KEYS = SealingKeys(OLD)
SEAL = seals.make(KEYS, seals.MESSAGE, "body")


def test_a_seal_is_that_of_its_content_and_place() -> None:
    assert seals.is_genuine(KEYS, SEAL, seals.MESSAGE, "body")
    assert seals.is_genuine(KEYS, SEAL, seals.MESSAGE, b"body")
    assert not seals.is_genuine(KEYS, SEAL, seals.MESSAGE, "other body")
    assert not seals.is_genuine(KEYS, SEAL, "parked/AbC123/1", "body")


def test_place_and_content_do_not_flow_into_each_other() -> None:
    assert seals.make(KEYS, "ab", "c") != seals.make(KEYS, "a", "bc")
    assert seals.make(KEYS, "a", "1 b") != seals.make(KEYS, "a1", " b")


def test_text_that_no_encoding_has_is_sealed_too() -> None:
    lone = "\ud83d"

    assert seals.is_genuine(KEYS, seals.make(KEYS, "m", lone), "m", lone)


@pytest.mark.parametrize("seal", ["", ".", "..", "1.é.", "é" + SEAL, SEAL[:-1], SEAL + "0", f"2{SEAL[1:]}"])
def test_anything_else_is_no_seal(seal: str) -> None:
    assert not seals.is_genuine(KEYS, seal, seals.MESSAGE, "body")


@pytest.mark.parametrize("seal", ["1", "1..", "1.0000.", SEAL.replace(".", ".0", 1)])
def test_a_seal_of_no_live_key_is_told_apart(seal: str) -> None:
    with pytest.raises(UnknownKey):
        seals.is_genuine(KEYS, seal, seals.MESSAGE, "body")


def test_a_seal_of_the_key_before_is_believed_until_the_change_after_next() -> None:
    once, twice = SealingKeys(NEW, OLD), SealingKeys(NEWER, NEW)

    assert seals.is_genuine(once, SEAL, seals.MESSAGE, "body")
    assert seals.make(once, seals.MESSAGE, "body") != SEAL
    with pytest.raises(UnknownKey):
        seals.is_genuine(twice, SEAL, seals.MESSAGE, "body")


@pytest.mark.parametrize(
    "document", ["", "{}", "[]", '{"current": "short"}', '{"current": 5}', f'{{"current": "{OLD}", "x": 1}}']
)
def test_keys_that_cannot_be_right_are_an_operators_to_mend(document: str) -> None:
    with pytest.raises(Misconfigured) as raised:
        seals.parse(document)

    assert OLD not in str(raised.value)


def test_keys_are_read_from_the_document_that_the_stack_makes() -> None:
    assert seals.parse(f'{{"current": "{OLD}"}}') == KEYS
    assert seals.parse(f'{{"current": "{NEW}", "previous": "{OLD}"}}') == SealingKeys(NEW, OLD)
