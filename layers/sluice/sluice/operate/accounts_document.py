"""Changes the accounts document as it is written, and says what a change does.

A change is made to the JSON, so everything else of the document stays as it is, valid or not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from pydantic import BaseModel

from sluice import accounts
from sluice.accounts import Accounts, KeyReference, KlaviyoAccount, PipelessApp
from sluice.contract import KLAVIYO_BASE_URL, PIPELESS_BASE_URL
from sluice.errors import Misconfigured
from sluice.validation.json_text import NOT_DECODED

KEY_ID_DIGITS: Final = 12

type Entry = dict[str, Any]
type How = Literal["added", "removed", "changed"]


class Kind(msgspec.Struct, frozen=True):
    """Describes where the document has the accounts of a vendor, and what it calls their fields."""

    name: str
    list: str
    id_field: str
    key_field: str
    base_url: str


KLAVIYO: Final = Kind("klaviyo", "accounts", "site_id", "private_key", KLAVIYO_BASE_URL)
PIPELESS: Final = Kind("pipeless", "pipeless", "app_id", "api_key", PIPELESS_BASE_URL)
KINDS: Final = (KLAVIYO, PIPELESS)


class Change(BaseModel):
    """Describes one change of one account, without any key. `what` is the account itself if it is None."""

    account: str
    how: How
    what: str | None = None


class AccountsDocument:
    """Holds an accounts document that can be read as JSON; raises `Misconfigured` for another one.

    Until it is stored, private keys may stand in it in place of references to them.
    """

    def __init__(self, content: bytes) -> None:
        self.valid = accounts.read(content)
        if not self.valid.is_readable:
            raise Misconfigured(self.valid.flaws[0])
        self._document: dict[str, Any] = msgspec.json.decode(content)

    @property
    def content(self) -> bytes:
        """Returns the document, changed as it is by now."""
        return msgspec.json.encode(self._document)

    def is_as(self, content: bytes) -> bool:
        """Tells whether a document says the same, in whatever order and form."""
        try:
            return bool(self._document == msgspec.json.decode(content))
        except NOT_DECODED:
            return False

    def entries(self) -> dict[str, Entry]:
        """Returns the entries by account, valid or not; of several for one account, the first."""
        found: dict[str, Entry] = {}
        for kind in KINDS:
            for entry in self._document.get(kind.list, []):
                if id := accounts.id_of(entry):
                    found.setdefault(id, entry)
        return found

    def add(self, account_id: str, entry: Entry) -> None:
        """Adds the entry of an account that has none."""
        self._document.setdefault(kind_of(account_id).list, []).append({**entry})

    def remove(self, account_id: str) -> None:
        """Takes out every entry of an account."""
        name = kind_of(account_id).list
        self._document[name] = [
            each for each in self._document.get(name, []) if accounts.id_of(each) != account_id
        ]

    def keep_private_keys(self, stored: Mapping[str, Entry]) -> None:
        """Gives each entry without a private key the reference to the one that its account has stored."""
        for account_id, entry in self.entries().items():
            field = kind_of(account_id).key_field
            if field not in entry and field in stored.get(account_id, {}):
                entry[field] = stored[account_id][field]

    def references(self) -> dict[str, KeyReference]:
        """Returns where the private keys of accounts are, as far as that can be read."""
        return references_of(self.entries())

    def refer(self, references: Mapping[str, KeyReference]) -> None:
        """Puts references in place of private keys, by account."""
        entries = self.entries()
        for account_id, reference in references.items():
            entries[account_id][kind_of(account_id).key_field] = msgspec.to_builtins(reference)


def kind_of(account_id: str) -> Kind:
    """Returns the kind of an account, by its id."""
    return PIPELESS if account_id.startswith("pipeless-") else KLAVIYO


def new_entry(account_id: str, private_key: str, **fields: Any) -> Entry:
    """Returns the entry of a new account, with those fields that are not None."""
    kind = kind_of(account_id)
    id: str | int = account_id if kind is KLAVIYO else int(account_id.removeprefix("pipeless-"))
    given = {name: value for name, value in fields.items() if value is not None}
    return {kind.id_field: id, kind.key_field: private_key, **given}


def reference_of(entry: Entry, kind: Kind) -> KeyReference | None:
    """Returns where the private key of a stored entry is, if it says so."""
    try:
        return msgspec.convert(entry.get(kind.key_field), KeyReference)
    except msgspec.ValidationError:
        return None


def references_of(entries: Mapping[str, Entry]) -> dict[str, KeyReference]:
    """Returns where the private keys of stored entries are, by account, as far as they say so."""
    found = {id: reference_of(entry, kind_of(id)) for id, entry in entries.items()}
    return {id: reference for id, reference in found.items() if reference is not None}


def base_url_of(entry: Entry, kind: Kind) -> str:
    """Returns the address that an entry's private key is sent to."""
    return str(entry.get("base_url", kind.base_url))


def key_id(sha256: str) -> str:
    """Returns the id of an ingest key, by which operators name it."""
    return sha256[:KEY_ID_DIGITS]


def without_private_keys(stored: Accounts) -> dict[str, Any]:
    """Returns accounts as their document is written, but without private keys."""
    written: dict[str, Any] = {KLAVIYO.list: [_written(account) for account in stored.accounts]}
    if stored.pipeless:
        written[PIPELESS.list] = [_written(app) for app in stored.pipeless]
    return written


def _written(account: KlaviyoAccount | PipelessApp) -> Entry:
    fields = msgspec.structs.fields(account)
    given = {field.name for field in fields if getattr(account, field.name) != field.default}
    entry: Entry = msgspec.to_builtins(account, order="sorted")
    return {name: entry[name] for name in entry if name in given - {kind_of(account.id).key_field}}


def changes(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> list[Change]:
    """Returns what differs between two documents' entries, by account."""
    return [
        change
        for account_id in sorted(before.keys() | after.keys())
        for change in _changes_of(account_id, before.get(account_id), after.get(account_id))
    ]


def not_alone_any_more(before: Accounts, after: Accounts) -> list[str]:
    """Returns a warning for each account that takes messages of producers only while it is the only one."""
    kinds: list[tuple[Sequence[KlaviyoAccount | PipelessApp], Sequence[KlaviyoAccount | PipelessApp]]] = [
        (before.accounts, after.accounts),
        (before.pipeless, after.pipeless),
    ]
    ids = {old[0].id for old, new in kinds if len(old) == 1 and len(new) > 1}
    return [
        f"{each.id} is not the only account any more, and it names no producers: bodies that producers put "
        "on EventsQueue for it are rejected from now on."
        for each in after.every()
        if each.id in ids and each.producers is None
    ]


def _changes_of(account_id: str, before: Entry | None, after: Entry | None) -> Iterator[Change]:
    old, new = before or {}, after or {}
    if before is None or after is None:
        yield Change(account=account_id, how=_how(before, after))
    else:
        for name in sorted((old.keys() | new.keys()) - {"keys"}):
            if old.get(name) != new.get(name):
                what = _field(name, kind_of(account_id), old, new)
                yield Change(account=account_id, how="changed", what=what)
    old_keys, new_keys = keys_of(old), keys_of(new)
    for sha256 in sorted(old_keys.keys() | new_keys.keys()):
        was, is_now = old_keys.get(sha256), new_keys.get(sha256)
        if was != is_now:
            scopes = ", ".join((was if is_now is None else is_now) or ["no scopes"])
            what = f"ingest key {key_id(sha256)} ({scopes})"
            yield Change(account=account_id, how=_how(was, is_now), what=what)


def _how(before: object, after: object) -> How:
    if before is None:
        return "added"
    return "removed" if after is None else "changed"


def _field(name: str, kind: Kind, old: Entry, new: Entry) -> str:
    """Describes the change of a field; only documented ones are quoted, because another may hold a key."""
    types = KlaviyoAccount if kind is KLAVIYO else PipelessApp
    if name == kind.key_field or name not in types.__struct_fields__:
        return name
    shown = [_shown(each[name]) if name in each else "default" for each in (old, new)]
    return f"{name}: {shown[0]} to {shown[1]}"


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def keys_of(entry: Entry) -> dict[str, list[str]]:
    """Returns the scopes of an entry's ingest keys by their hash, as far as they can be read."""
    found: dict[str, list[str]] = {}
    for key in listed_keys(entry):
        match key:
            case {"sha256": str(sha256)}:
                scopes = key.get("scopes")
                found[sha256] = sorted(map(str, scopes)) if isinstance(scopes, list) else []
    return found


def listed_keys(entry: Entry) -> list[Any]:
    """Returns an entry's ingest keys as they are written."""
    listed = entry.get("keys")
    return listed if isinstance(listed, list) else []
