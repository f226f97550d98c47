"""Tests verification against the senders' libraries: their signatures pass, and what they refuse is
refused.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sluice.webhooks.signatures import SCHEMES, verified
from tests.support.signing import SECRETS, SIGNERS

PYTHON = Path(".venv-clients/bin/python")
SCHEME = {"stripe": "stripe", "standardwebhooks": "standard-webhooks", "svix": "standard-webhooks"}
BODY = '{"type": "invoice.paid", "name": "Zo\u00eb \U0001f389", "n": 1.0}'
OTHER = "whsec_" + "QUJD" * 8

type Headers = dict[str, str]

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="make test makes .venv-clients")


def ask(*cases: dict[str, Any]) -> list[Any]:
    """Returns the libraries' answer to each case."""
    command = [PYTHON, Path(__file__).with_name("senders.py")]
    run = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True)
    answers: list[Any] = json.loads(run.stdout)
    return answers


def accepted(library: str, secret: str, headers: Headers, body: str = BODY) -> bool:
    return verified(SCHEMES[SCHEME[library]], [secret], headers, body.encode(), datetime.now(UTC))


def test_what_the_libraries_sign_is_taken_only_as_it_is() -> None:
    now = int(time.time())
    libraries = list(SCHEME)

    for library, headers in zip(
        libraries,
        ask(
            *(
                {"library": each, "secret": SECRETS[SCHEME[each]], "body": BODY, "at": now}
                for each in libraries
            )
        ),
        strict=True,
    ):
        secret = SECRETS[SCHEME[library]]
        assert accepted(library, secret, headers), library
        assert not accepted(library, secret, headers, BODY + " "), library
        assert not accepted(library, OTHER, headers), library


def variants(library: str) -> Iterator[tuple[str, Headers]]:
    """Yields headers, true and false ones, by what was done to them."""
    secret = SECRETS[SCHEME[library]]
    sign = SIGNERS["standard-webhooks" if library == "standardwebhooks" else library]
    now = datetime.now(UTC)
    true, other = sign(secret, BODY.encode(), now), sign(OTHER, BODY.encode(), now)
    name = next(name for name in true if name.endswith("signature"))
    separator = "," if library == "stripe" else " "
    foreign = other[name].split(",")[1] if library == "stripe" else other[name]
    yield "true", true
    yield "another's", other
    yield "two, the first is another's", true | {name: _before(true[name], foreign, separator, library)}
    yield "none", {}
    yield "empty", true | {name: ""}
    yield "cut off", true | {name: true[name].partition(",v0")[0][:-3]}
    yield "another version alone", true | {name: true[name].replace("v1", "v2")}
    for seconds in (-400, -200):
        yield (
            f"{seconds} s",
            sign(secret, BODY.encode(), datetime.fromtimestamp(now.timestamp() + seconds, UTC)),
        )
    for header in true:
        yield f"without {header}", {key: value for key, value in true.items() if key != header}


def _before(header: str, foreign: str, separator: str, library: str) -> str:
    if library == "stripe":
        moment, _, rest = header.partition(",")
        return separator.join([moment, foreign, rest])
    return separator.join([foreign, header])


def test_the_libraries_say_the_same_of_every_variant() -> None:
    cases = [(library, what, headers) for library in SCHEME for what, headers in variants(library)]

    verdicts = ask(
        *(
            {"library": library, "secret": SECRETS[SCHEME[library]], "body": BODY, "headers": headers}
            for library, _, headers in cases
        )
    )

    for (library, what, headers), verdict in zip(cases, verdicts, strict=True):
        assert accepted(library, SECRETS[SCHEME[library]], headers) == verdict, f"{library}: {what}"
    assert verdicts.count(True) == 3 * 3  # the true one, the one of two, and the one 200 s old


def test_what_is_from_the_future_is_refused_even_where_a_library_forgives_it() -> None:
    soon = datetime.fromtimestamp(time.time() + 400, UTC)

    for library in SCHEME:
        sign = SIGNERS["standard-webhooks" if library == "standardwebhooks" else library]
        headers = sign(SECRETS[SCHEME[library]], BODY.encode(), soon)

        assert not accepted(library, SECRETS[SCHEME[library]], headers)
