"""Tests the mapping language: the results of its functions, and that no input takes it beyond its bounds."""

import base64
import gzip
import json
import time
from typing import Any

import pytest

from sluice.webhooks import expressions
from sluice.webhooks.expressions import Evaluation, LimitExceeded, MappingError, measure, parse

PAYLOAD: dict[str, Any] = {
    "email": " Ann@Example.COM ",
    "cents": 1999,
    "price": "0.1",
    "items": [{"id": 1, "tags": ["a", "b"]}, {"id": 2, "tags": ["c"]}],
    "json": '{"a": [1, 2]}',
    "nothing": None,
    "tags": "red, , blue ",
}
HEADERS = {"x-topic": "orders/create"}


def evaluate(text: str, payload: Any = PAYLOAD) -> Any:
    return Evaluation(payload, HEADERS, "d-1").of(parse(text), payload)


def zipped(plain: bytes) -> str:
    return base64.b64encode(gzip.compress(plain, mtime=0)).decode()


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("items[*].id", [1, 2]),
        ("items[].tags[]", ["a", "b", "c"]),
        ("items[?id == `2`] | [0].payload().cents", 1999),
        ("header('X-Topic')", "orders/create"),
        ("header('missing')", None),
        ("delivery_id()", "d-1"),
        ("lower(trim(email))", "ann@example.com"),
        ("upper('usd')", "USD"),
        ("lower(nothing)", None),
        ("default(nothing, 'x')", "x"),
        ("default('', 'x')", "x"),
        ("default(`false`, 'x')", False),
        ("concat('a', `1`, nothing, `true`, '-', `1.5`)", "a1true-1.5"),
        ("split(tags, ',')", ["red", "blue"]),
        ("split(nothing, ',')", None),
        ("multiply(price, `3`)", 0.3),
        ("multiply('19.99', `3`)", 59.97),
        ("add('1', `2`)", 3),
        ("subtract(`1`, `2.5`)", -1.5),
        ("divide(`1`, `4`)", 0.25),
        ("divide(nothing, `0`)", None),
        ("from_cents(cents, 'usd')", 19.99),
        ("from_cents(cents, 'JPY')", 1999),
        ("from_cents(cents, 'KWD')", 1.999),
        ("from_cents(cents, 'ISK')", 19.99),
        ("from_cents(nothing, 'USD')", None),
        ("from_cents(cents, nothing)", 19.99),
        ("total(`[0.1, 0.1, 0.1]`)", 0.3),
        ('total(`["19.99", 1, null, "0.01"]`)', 21),
        ("total(`[]`)", 0),
        ("total(nothing)", None),
        ("total(nothing[].quantity)", None),
        ("seconds_between('2026-11-20T10:00:00+01:00', '2026-11-20T10:00:01.5Z')", 3601.5),
        ("seconds_between('2026-11-20T10:00:00', '2026-11-20')", -36000),
        ("seconds_between(nothing, '2026-11-20')", None),
        ("seconds_between('2026-11-20', nothing)", None),
        ("unix_time(`1771236000`)", "2026-02-16T10:00:00+00:00"),
        ("unix_time('1771236000.5')", "2026-02-16T10:00:00.500000+00:00"),
        ("unix_time(`1771236000123`)", "2026-02-16T10:00:00.123000+00:00"),
        ("unix_time(nothing)", None),
        ("parse_time('19970118', '%Y%m%d')", "1997-01-18T00:00:00+00:00"),
        ("parse_time('7.10.2025 09:50 +0200', '%d.%m.%Y %H:%M %z')", "2025-10-07T09:50:00+02:00"),
        ("parse_time(nothing, '%Y')", None),
        ("parse_time('', '%Y')", None),
        ("e164('+1 (500) 555-0006')", "+15005550006"),
        ("e164('(500) 555-0006', '1')", "+15005550006"),
        ("e164('(500) 555-0006', `1`)", "+15005550006"),
        ("e164(`5005550006`, '+1')", "+15005550006"),
        ("e164(`5005550006.0`, '1')", "+15005550006"),
        ("e164(`301234567.5`, '49')", None),
        ("e164('(500) 555-0006', nothing)", None),
        ("e164('(500) 555-0006', 'US')", "+15005550006"),
        ("e164('020 7946 0958', 'gb')", "+442079460958"),
        ("e164('+1 500 555 0006', items)", "+15005550006"),
        ("e164('(500) 555-0006', items)", None),
        ("e164(nothing, '1')", None),
        ("e164(nothing)", None),
        ("powertools_json(json).a", [1, 2]),
        (f"powertools_base64('{base64.b64encode(b'plain').decode()}')", "plain"),
        (f"powertools_base64_gzip('{zipped(b'plain')}')", "plain"),
        ("to_string(items[0])", '{"id":1,"tags":["a","b"]}'),
        ("join('-', items[].tags[])", "a-b-c"),
        ("contains(items[0].tags, 'b')", True),
        ("contains(items, items[1])", True),
        ("contains(items[0].tags, items)", False),
        ("contains(email, 'Ann')", True),
        ("items == payload().items", True),
        ("items != `[1]`", True),
        ("items[?id == `true`]", []),
    ],
)
def test_an_expression_gives(text: str, result: Any) -> None:
    assert evaluate(text) == result


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("items[", "This is not a JMESPath expression: Incomplete expression."),
        ("", "This is not a JMESPath expression: cannot be empty."),
        ("a = b", "This is not a JMESPath expression: Unknown token '='."),
        (
            "a b",
            "This is not a JMESPath expression: Unexpected token: b: "
            'Parse error at column 2, token "b" (UNQUOTED_IDENTIFIER).',
        ),
        ("(" * 1_500, "not a JMESPath expression"),
        ("bogus(@)", "no function bogus()"),
        ("lower()", "lower() takes 1 argument(s), and was given 0"),
        ("lower(@, @)", "was given 2"),
        ("concat()", "at least 1"),
        ("items[?bogus(@)]", "no function bogus()"),
        ("lower(" * 70 + "a" + ")" * 70, "nested"),
        ("a" * 4_001, "4000 characters"),
    ],
)
def test_what_cannot_be_written_so_is_found_before_there_is_a_payload(text: str, said: str) -> None:
    with pytest.raises(MappingError) as raised:
        parse(text)

    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("divide(cents, `0`)", "a division by zero"),
        ("divide(cents, '0.00')", "a division by zero"),
        ("multiply('1e999999', '1e999999')", "out of range"),
        ("multiply('1e200', '1e200')", "out of range"),
        ("add(email, `1`)", "not a number"),
        ("add('nan', `1`)", "not a number"),
        ("lower(cents)", "lower() takes string or null, and was given number"),
        ("unix_time(`1e300`)", "not a time"),
        ("parse_time('yesterday', '%Y')", "not of this form"),
        ("parse_time('2026', '%Q')", "not of this form"),
        ("parse_time(cents, '%Y')", "parse_time() takes string or null"),
        (f"parse_time('{'1' * 101}', '%Y')", "too long for a time"),
        ("total(email)", "total() takes an array"),
        ("total(items)", "not a number"),
        ('total(`["1e999999"]`)', "out of range"),
        ("seconds_between('yesterday', '2026-11-20')", "not a time"),
        ("seconds_between(cents, '2026-11-20')", "takes string or null"),
        ("concat(items)", "concat() takes"),
        ("powertools_json(email)", "failed"),
        ("powertools_base64(email)", "failed"),
        ("powertools_base64_gzip('aGVsbG8=')", "not gzip"),
        ("sort_by(items, &tags)", "sort_by() takes string or number, and was given array"),
        ("to_string(&email)", "not a JSON value"),
    ],
)
def test_what_fails_says_why_and_quotes_nothing(text: str, said: str) -> None:
    with pytest.raises(MappingError) as raised:
        evaluate(text)

    assert said in str(raised.value)
    assert "Ann" not in str(raised.value)


# One value that holds itself, so to speak: written out it would be 2 to the power of 40 values.
FOLDED = "(@" + "|[@,@]" * 40 + ")"
MANY = {
    "items": [{"items": list(range(1_000))}] * 1_000,
    "text": "x" * 1_000_000,
    "bomb": zipped(b"0" * 10**7),
    "many": [1] * 50_000,
    "members": {str(number): 1 for number in range(10_000)},
    "commas": "," * 100_000,
    "fewer": "a," * 10_000,
    "lists": "[" + "[]," * 1_000_000 + "[]]",
}


@pytest.mark.parametrize(
    "text",
    [
        "@" + "|[@,@][]" * 40,
        "items[].items[]",
        "items[].payload().items[]",
        "concat(text, text, text, text, text, text)",
        "join(text, ['a', 'b', 'c', 'd', 'e', 'f', 'g'])",
        "to_string(items[].payload())",
        "powertools_base64_gzip(bomb)",
        "items[].concat(payload().text, 'x')",
        "items[].{all: reverse(payload().many)}",
        "items[].merge(payload().members, {x: `1`})",
        f"{FOLDED} == {FOLDED}",
        f"{FOLDED} != {FOLDED}",
        f"contains({FOLDED}, {FOLDED})",
        "contains(items[].payload().items, items)",
        "contains(many[].payload().text, text)",
        "sort(many[].payload().text)",
        "max(many[].payload().text)",
        "min(many[].payload().text)",
        "sort_by(many, &payload().text)",
        "max_by(many, &payload().text)",
        "min_by(many, &payload().text)",
        f"merge({', '.join(['members'] * 11)})",
        "split(commas, ',')",
        "items[].split(payload().fewer, ',')",
        "powertools_json(lists)",
    ],
)
def test_what_blows_up_is_stopped(text: str) -> None:
    with pytest.raises(LimitExceeded):
        evaluate(text, MANY)


@pytest.mark.parametrize("text", ["@", "[*]", "[]", "reverse(@)"])
def test_a_list_has_a_hundred_thousand_elements_and_no_more(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expressions, "MAX_CPU_SECONDS", 60)
    most = [0] * 100_000

    assert len(evaluate(text, most)) == 100_000
    with pytest.raises(LimitExceeded, match="more than 100000 elements"):
        evaluate(text, [*most, 0])


def test_lists_in_a_list_have_a_hundred_thousand_elements_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_CPU_SECONDS", 60)
    half = [0] * 50_000

    assert len(evaluate("[]", [half, half])) == 100_000
    with pytest.raises(LimitExceeded, match="more than 100000 elements"):
        evaluate("[]", [half, [*half, 0]])


def test_functions_have_so_much_memory_for_all_expressions_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_MADE_BYTES", 2_500_000)
    evaluation = Evaluation(MANY, {})
    text = parse("length(concat(text, 'x'))")
    evaluation.of(parse("items[].length(payload().text)"), MANY)  # to look at something makes nothing of it
    evaluation.of(text, MANY)
    evaluation.of(text, MANY)

    with pytest.raises(LimitExceeded, match="2500000 bytes"):
        evaluation.of(text, MANY)


def test_what_a_string_holds_is_held_once() -> None:
    first, second, other = evaluate("[powertools_json(json), powertools_json(json), powertools_json('[1]')]")

    assert first is second
    assert (first, other) == ({"a": [1, 2]}, [1])


def test_what_strings_hold_is_made_by_functions_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_CPU_SECONDS", 60.0)  # a slow machine would stop it sooner
    objects = '{"":' * 900 + "1" + "}" * 900

    with pytest.raises(LimitExceeded, match="134217728 bytes"):
        evaluate("strings[].powertools_json(@)", {"strings": [objects + " " * n for n in range(1_000)]})


def test_what_is_sorted_compared_and_merged_in_bounds_is_so() -> None:
    payload = {"texts": ["b" * 1_000_000, "a" * 1_000_000, "c"], "d": {"a": 1, "b": 2}, "e": {"b": 3}}

    assert evaluate("sort(texts)[2]", payload) == "c"
    assert evaluate("[max(texts), length(min(texts)), contains(texts, 'c')]", payload) == [
        "c",
        1_000_000,
        True,
    ]
    assert evaluate("sort_by(texts, &@)[2]", payload) == "c"
    assert evaluate("merge(d, e)", payload) == {"a": 1, "b": 3}


def test_what_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_CPU_SECONDS", 0.1)
    evaluation = Evaluation(MANY, {})
    began = time.thread_time()

    with pytest.raises(LimitExceeded, match="processor time"):
        evaluation.of(parse("items[?items[?contains(payload().items[0].items, @)]]"), MANY)

    assert time.thread_time() - began < 1


def test_the_time_is_that_of_all_expressions_together(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.thread_time()
    monkeypatch.setattr(expressions, "MAX_CPU_SECONDS", 0.05)
    evaluation = Evaluation(PAYLOAD, {})
    text = parse("items[].id")
    evaluation.of(text, PAYLOAD)
    while time.thread_time() < began + 0.2:
        pass

    with pytest.raises(LimitExceeded):
        evaluation.of(text, PAYLOAD)


def test_a_deep_payload_is_no_way_out() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    twin: Any = 1
    for _ in range(100_000):
        twin = [twin]

    for text in ("a == b", "to_string(a)"):
        with pytest.raises(MappingError):
            evaluate(text, {"a": deep, "b": twin})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {"a": [float("nan")]}])
def test_what_json_does_not_have_is_no_result(value: object) -> None:
    with pytest.raises(MappingError):
        measure(value, 1_000)


def test_a_result_is_measured_no_further_than_there_is_room() -> None:
    shared = ["x" * 1_000] * 1_000

    with pytest.raises(LimitExceeded):
        measure([shared] * 100_000, 5_000_000)
    assert measure(shared, 5_000_000) <= len(json.dumps(shared))
