"""Translates the deprecated flat shape of Create Event: documents to the current shape, pointers back.

Only places change. Mistakes in values are found in the current shape, like all others.
"""

from typing import Any, Final

from sluice.jsonapi import Problem

ATTRIBUTES: Final = {
    "$email": "email",
    "$phone_number": "phone_number",
    "$first_name": "first_name",
    "$last_name": "last_name",
    "$image": "image",
    "$title": "title",
    "$organization": "organization",
    "$id": "external_id",
}
LOCATION: Final = {
    f"${name}": name
    for name in (
        "city",
        "region",
        "country",
        "zip",
        "address1",
        "address2",
        "latitude",
        "longitude",
        "timezone",
    )
}
_FLAT_NAMES: Final = {
    **{new: old for old, new in ATTRIBUTES.items()},
    **{f"location/{new}": old for old, new in LOCATION.items()},
}

_PROFILE: Final = "/attributes/profile"
_PROFILE_DATA: Final = f"{_PROFILE}/data"
_PROFILE_ATTRIBUTES: Final = f"{_PROFILE_DATA}/attributes"
_METRIC: Final = "/attributes/metric"
_UNIDENTIFIED: Final = "A profile needs at least one identifier: $email, $phone_number or $id."


def to_current(document: object) -> dict[Any, Any] | None:
    """Returns a flat event's document in the current shape; None if it is not flat.

    A document is flat if its profile has no `data`, and its metric or its profile looks flat. `$consent`
    stays a custom property: an event never subscribes anybody.
    """
    match document:
        case {"data": {"attributes": {"profile": {**profile}, **others}, **data}, **rest} if (
            "data" not in profile and _is_flat(profile, others.get("metric"))
        ):
            attributes = {**others, "profile": {"data": _profile_data(profile)}}
            if isinstance(metric := others.get("metric"), dict):
                attributes["metric"] = {"data": {"type": "metric", "attributes": metric}}
            return {**rest, "data": {**data, "attributes": attributes}}
        case _:
            return None


def caller_tail(tail: str) -> str:
    """Translates a pointer within the current shape's event (from `data` on) into the flat one's."""
    if tail.startswith(_METRIC):
        return _METRIC + tail.removeprefix(_METRIC).removeprefix("/data").removeprefix("/attributes")
    if not tail.startswith(_PROFILE_DATA):
        return tail
    within = tail.removeprefix(_PROFILE_DATA).removeprefix("/attributes").removeprefix("/")
    if within in {"", "location", "properties"}:
        return _PROFILE
    return f"{_PROFILE}/{_FLAT_NAMES.get(within) or within.removeprefix('properties/')}"


def to_caller(problem: Problem) -> Problem:
    """Translates a problem of the current shape's document into one of the flat document."""
    tail = (problem.pointer or "").removeprefix("/data")
    where = caller_tail(tail)
    current, name = (path.rpartition("/")[2] for path in (tail, where))
    renamed = problem.detail.replace(f"'{current}'", f"'{name}'")
    detail = _UNIDENTIFIED if tail == _PROFILE_ATTRIBUTES else renamed
    return Problem(problem.code, detail, f"/data{where}")


def _is_flat(profile: dict[Any, Any], metric: object) -> bool:
    """Tells a flat event from one of the current shape whose profile lacks its `data`."""
    if isinstance(metric, dict) and metric.keys() & {"data", "name"}:
        return "name" in metric
    return any(str(name).startswith("$") for name in profile)


def _profile_data(profile: dict[Any, Any]) -> dict[str, Any]:
    attributes = {ATTRIBUTES[name]: value for name, value in profile.items() if name in ATTRIBUTES}
    location = {LOCATION[name]: value for name, value in profile.items() if name in LOCATION}
    rest = {name: value for name, value in profile.items() if name not in ATTRIBUTES | LOCATION}
    if location:
        attributes["location"] = location
    if rest:
        attributes["properties"] = rest
    return {"type": "profile", "attributes": attributes}
