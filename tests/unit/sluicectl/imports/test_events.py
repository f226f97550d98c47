"""Tests what rows become, and the declarations of that."""

import json
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest

from sluice.contract import Surface
from sluicectl.errors import Failure
from sluicectl.imports import declaration, rows
from sluicectl.imports.declaration import Declaration
from sluicectl.imports.events import Mapper, Outcome

NOW = datetime(2026, 11, 29, tzinfo=UTC)
ONE = """\
metric: Points Given
profile: {email: email}
value: to_number(points)
value_currency: currency
properties: {City: city}
"""
SHOPIFY = """\
Name,Email,Financial Status,Currency,Total,Discount Code,Discount Amount,Created at,Lineitem quantity,\
Lineitem name,Lineitem price,Lineitem sku,Billing Country,Phone,Billing Phone,Payment Method,Vendor,Id,Tags
#1001,Ada@Mail.example,paid,EUR,53.91,WELCOME,11.00,2025-10-07 09:50:26 +0200,3,Mask,14.90,M-1,DE,,\
030 123456,Card,Leaf,7410991464714,vip
#1001,ada@mail.example,,,,,,2025-10-07 09:50:26 +0200,1,Soap,9.21,S-1,,,,,Leaf,,
"""


@pytest.fixture
def declared(tmp_path: Path) -> Declaration:
    return load(tmp_path, ONE)


def load(folder: Path, text: str) -> Declaration:
    file = folder / "map.yaml"
    file.write_text(text)
    return declaration.load_file(str(file))


def outcomes(declared: Declaration, text: str, backfill: bool = True) -> list[Outcome]:
    mapper = Mapper(declared.mappings, "0" * 32, NOW, backfill)
    return list(
        mapper.outcomes(rows.read(StringIO(text, newline=""), declared.file.columns, declared.file.separator))
    )


def bodies(found: list[Outcome]) -> list[dict[str, object]]:
    return [json.loads(event)["data"]["attributes"] for outcome in found for event in outcome.events]


def test_an_event_without_a_unique_id_gets_one_of_its_row(declared: Declaration) -> None:
    first, second = bodies(outcomes(declared, "email,points\na@mail.example,1\nb@mail.example,2\n"))

    assert (first["unique_id"], second["unique_id"]) == (f"{'0' * 32}:2:0", f"{'0' * 32}:3:0")
    assert first["backfill"] is True
    assert "backfill" not in bodies(outcomes(declared, "email\na@mail.example\n", backfill=False))[0]


def test_a_bad_field_is_left_out_and_an_event_of_nobody_is_bad(declared: Declaration) -> None:
    good, bad = outcomes(declared, "email,currency,points\na@mail.example,EURO,2\nnobody,EUR,1\n")

    assert [problem.pointer for problem in good.left_out] == ["/events/row/value_currency"]
    assert bodies([good])[0]["profile"] == {
        "data": {"type": "profile", "attributes": {"email": "a@mail.example"}}
    }
    assert (bad.events, len(bad.bad)) == ([], 1)
    assert bad.bad[0].surface is Surface.EVENT
    assert json.loads(bad.bad[0].text)["data"]["attributes"]["value"] == 1


def test_a_row_that_cannot_be_mapped_is_kept_as_it_was(tmp_path: Path) -> None:
    declared = load(tmp_path, ONE + "time: parse_time(day, '%Y-%m-%d')\n")

    [outcome] = outcomes(declared, "email,day\na@mail.example,yesterday\n")

    [bad] = outcome.bad
    assert (bad.line, bad.text, bad.surface) == (2, "a@mail.example,yesterday", None)
    assert bad.detail == "/events/row/time: parse_time() was given a string that is not of this form."


def test_rows_of_json_lines_are_mapped_with_all_their_levels(tmp_path: Path) -> None:
    declared = load(tmp_path, "metric: M\nprofile: {email: user.email}\nvalue: points\n")

    [event] = bodies(outcomes(declared, '{"user": {"email": "a@mail.example"}, "points": 1.5}\n'))

    assert event["value"] == 1.5


def test_an_order_that_shopify_exported_becomes_its_events() -> None:
    found = outcomes(declaration.load_preset("shopify-orders"), SHOPIFY)

    assert [outcome.bad for outcome in found] == [[], []]
    placed, mask, soap = bodies(found)
    assert placed["metric"] == {"data": {"type": "metric", "attributes": {"name": "Placed Order"}}}
    assert placed["unique_id"] == "order:7410991464714"
    assert (placed["time"], placed["value"], placed["value_currency"]) == (
        "2025-10-07T09:50:26+02:00",
        53.91,
        "EUR",
    )
    assert placed["profile"] == {
        "data": {
            "type": "profile",
            "attributes": {"email": "ada@mail.example", "phone_number": "+4930123456"},
        }
    }
    assert placed["properties"] == {
        "Order Number": "#1001",
        "Discount Codes": "WELCOME",
        "Discount Value": 11,
        "Payment Method": "Card",
        "Tags": "vip",
    }
    assert (mask["value"], soap["value"]) == (44.7, 9.21)
    assert soap["properties"] == {
        "Name": "Soap",
        "SKU": "S-1",
        "Quantity": 1,
        "Price": 9.21,
        "Vendor": "Leaf",
        "Order Number": "#1001",
    }


def test_every_preset_is_valid() -> None:
    assert declaration.presets() == ("cdnow", "shopify-orders")
    assert len({declaration.load_preset(name).digest for name in declaration.presets()}) == 2


def test_a_file_has_several_mappings_and_says_what_the_rows_do_not(tmp_path: Path) -> None:
    declared = load(
        tmp_path,
        "file: {separator: blanks, columns: [who, what]}\n"
        "profile: {email: who}\n"
        "events:\n"
        "  one: {metric: One, profile: {external_id: what}}\n"
        "  two: {metric: Two, profile: {}, when: \"what == '2'\"}\n",
    )

    found = outcomes(declared, "a@mail.example 1\nb@mail.example  2\n")

    assert [len(outcome.events) for outcome in found] == [1, 2]
    assert "external_id" not in json.dumps(bodies(found)[2])


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("metric: M\nprofile: {}\n", ["2:1: A profile needs one of"]),
        ("metric: M\nprofile:\n  email: 'a('\n", ["3:3: This is not a JMESPath expression"]),
        ("events:\n  a: {metric: M, profile: {email: e}, tme: t}\n", ["2:39: 'tme' is not a valid field"]),
        (
            "metric: M\nprofile: {email: e}\nfile: {separator: x, b: 1}\n",
            ["3:8: Input should be", "3:22: Extra"],
        ),
        ("metric: M\nprofile: {email: e}\nevents: {}\n", ["3:1: 'events' is not a valid field"]),
        ("- a\n", ["1:1: "]),
        ("", ["1:1: There is nothing in it."]),
    ],
)
def test_every_mistake_of_a_declaration_is_told_with_its_line(
    tmp_path: Path, text: str, mistakes: list[str]
) -> None:
    with pytest.raises(Failure) as failure:
        load(tmp_path, text)

    lines = str(failure.value).splitlines()
    assert len(lines) == len(mistakes)
    for line, mistake in zip(lines, mistakes, strict=True):
        assert line.startswith(f"{tmp_path / 'map.yaml'}:{mistake}")


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="cannot be read: No such file"):
        declaration.load_file(str(tmp_path / "none.yaml"))


def test_a_preset_that_is_not_valid_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declaration, "_FOLDER", tmp_path)
    (tmp_path / "own.toml").write_text('metric = "M"')

    with pytest.raises(Failure, match="The preset own is not valid: /profile: 'profile' is a required field"):
        declaration.load_preset("own")
