"""Tests where a private key is found, and where it is not sent."""

import pytest

from sluice import private_keys, runtime
from sluice.accounts import KeyReference, KlaviyoAccount
from sluice.errors import Retryable
from sluice.private_keys import LOOK_SECONDS, PrivateKey, PrivateKeysCache
from tests.support.factories import KEY, SITE_ID

ID = "0" * 32
ACCOUNT = KlaviyoAccount(SITE_ID, KeyReference("klaviyo-1", ID))


class Secrets:
    """Plays secrets of private keys, and the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys = {ID: PrivateKey(SITE_ID, KEY, ACCOUNT.base_url, 0)}
        self.fetched: list[str] = []
        self.is_down = False
        self.now = 1_000.0
        self.cache = PrivateKeysCache(self._fetch)
        monkeypatch.setattr(runtime, "monotonic", lambda: self.now)

    def _fetch(self, name: str) -> str:
        self.fetched.append(name)
        if self.is_down:
            raise Retryable("it cannot be read")
        return private_keys.encode(self.keys)


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    return Secrets(monkeypatch)


def test_a_secret_is_read_once_and_its_keys_outlast_it(secrets: Secrets) -> None:
    assert secrets.cache.find(ACCOUNT) == KEY

    secrets.is_down = True
    secrets.now += 100_000

    assert secrets.cache.find(ACCOUNT) == KEY
    assert secrets.fetched == ["klaviyo-1"]


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        (PrivateKey("XyZ789", KEY, ACCOUNT.base_url, 0), "has no private key of"),
        (PrivateKey(SITE_ID, KEY, "https://elsewhere.example", 0), "is for another base_url"),
    ],
)
def test_a_key_goes_to_its_own_account_and_address_alone(
    secrets: Secrets, kept: PrivateKey, said: str
) -> None:
    secrets.keys = {ID: kept}

    with pytest.raises(Retryable, match=said) as raised:
        secrets.cache.find(ACCOUNT)
    assert KEY not in str(raised.value)


def test_a_missing_key_is_looked_for_every_five_seconds(secrets: Secrets) -> None:
    keys, secrets.keys = secrets.keys, {}
    for _ in range(3):
        with pytest.raises(Retryable):
            secrets.cache.find(ACCOUNT)
    assert len(secrets.fetched) == 1

    secrets.keys = keys
    secrets.now += LOOK_SECONDS

    assert secrets.cache.find(ACCOUNT) == KEY


@pytest.mark.parametrize("text", ["", "{}", '{"keys": {"x": {"key": "pk_never_said"}}}', "[" * 9_999])
def test_a_secret_that_is_not_valid_is_not_quoted(text: str) -> None:
    with pytest.raises(Retryable) as raised:
        private_keys.decode(text)

    assert str(raised.value) == "a secret of private keys is not valid"
