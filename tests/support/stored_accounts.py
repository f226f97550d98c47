"""Turns accounts documents with private keys into what is stored: a document without, and secrets."""

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from sluice import private_keys
from sluice.accounts import KEY, KeyReference, id_of
from sluice.operate.accounts_document import KINDS
from sluice.private_keys import PrivateKey

REFERENCE: Final = KeyReference("klaviyo-1", "0" * 32)
APP_REFERENCE: Final = KeyReference("pipeless-1", "0" * 32)
ACCOUNT_SECRETS: Final = "sluice/accounts/"
_WRITTEN: Final = 4_000_000_000  # so late that none is ever old


def split(document: str) -> tuple[str, dict[str, str]]:
    """Returns a document with references in place of private keys, and the texts of secrets by their names.

    All else stays as it is, valid or not. An account has each key under one and the same id.
    """
    try:
        content: Any = json.loads(document)
    except ValueError:
        return document, {}
    secrets: dict[str, dict[str, PrivateKey]] = {}
    for kind in KINDS:
        listed = content.get(kind.list) if isinstance(content, dict) else None
        for entry in listed if isinstance(listed, list) else []:
            if isinstance(entry, dict) and isinstance(key := entry.get(kind.key_field), str):
                made = PrivateKey(
                    id_of(entry) or "", key, str(entry.get("base_url", kind.base_url)), _WRITTEN
                )
                id = sha256(repr((made.account, key, made.base_url)).encode()).hexdigest()[:32]
                secrets.setdefault(f"{kind.name}-1", {})[id] = made
                entry[kind.key_field] = {"secret": f"{kind.name}-1", "id": id}
    return json.dumps(content), {name: private_keys.encode(keys) for name, keys in secrets.items()}


def join(document: str, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Returns a stored document with private keys in place of the references to them."""
    content: dict[str, Any] = json.loads(document)
    for kind in KINDS:
        for entry in content.get(kind.list, []):
            if kind.key_field in entry:
                place = entry[kind.key_field]
                entry[kind.key_field] = private_keys.decode(secrets[place["secret"]])[place["id"]].key
    return content


def write(document: str, s3: Any, secrets: dict[str, str]) -> None:
    """Writes a document with private keys to a model of S3, and its keys into a model's secrets."""
    content, texts = split(document)
    secrets.update({ACCOUNT_SECRETS + name: text for name, text in texts.items()})
    s3.put_object(Bucket="configuration", Key=KEY, Body=content.encode())
