"""Reads the presets: sources of known senders, a TOML file for each."""

import hashlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

_FOLDER: Final = Path(__file__).parent


@cache
def names() -> tuple[str, ...]:
    """Returns the names of the presets that ship with this package."""
    return tuple(sorted(each.stem for each in _FOLDER.glob("*.toml")))


@cache
def load(name: str) -> dict[str, Any]:
    """Returns a preset as it would stand in a source."""
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text())


@cache
def digest() -> str:
    """Returns a digest of all presets, which changes with any of them."""
    content = hashlib.blake2b(digest_size=16)
    for name in names():
        content.update((_FOLDER / f"{name}.toml").read_bytes())
    return content.hexdigest()


def merge(source: dict[str, Any]) -> dict[str, Any]:
    """Merges a source over its preset, as RFC 7396 says: objects merge, null removes, all else replaces.

    Then merges what each event says of its profile over what the source says of every profile.
    """
    named = source.get("preset")
    base = load(named) if isinstance(named, str) and named in names() else {}
    return with_profile(_patched(base, source))


def with_profile(source: dict[str, Any]) -> dict[str, Any]:
    """Merges what each event says of its profile over what the source says of every profile."""
    shared, events = source.get("profile"), source.get("events")
    if not isinstance(shared, dict) or not isinstance(events, dict):
        return source
    return source | {
        "events": {
            name: {**event, "profile": _patched(shared, event.get("profile", {}))}
            if isinstance(event, dict)
            else event
            for name, event in events.items()
        }
    }


def _patched(base: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(base) if isinstance(base, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _patched(result.get(name), value)
    return result
