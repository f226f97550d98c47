"""The deprecated Create Event's flat shape, translated into the current one (contract: shapes)."""

from collections.abc import Iterator
from typing import Final

import msgspec
from msgspec import UNSET

from sluice.documents import (
    FlatAttributes,
    Location,
    Metric,
    MetricAttributes,
    MetricData,
    Profile,
    ProfileAttributes,
    ProfileData,
    SingleAttributes,
)
from sluice.explain import explain
from sluice.jsonapi import Problem

_ATTRIBUTES: Final = {
    "$email": "email",
    "$phone_number": "phone_number",
    "$first_name": "first_name",
    "$last_name": "last_name",
    "$image": "image",
    "$title": "title",
    "$organization": "organization",
    "$id": "external_id",
}
_LOCATION: Final = {
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
_PROFILE_PATH: Final = ("data", "attributes", "profile")


def is_flat(document: object) -> bool:
    """Whether a parsed single-event body has the flat shape: a profile with no `data` in it."""
    match document:
        case {"data": {"attributes": {"profile": {**profile}}}}:
            return "data" not in profile
        case _:
            return False


def explain_profile(document: object) -> Iterator[Problem]:
    """What is wrong with the types of a flat profile's `$` fields, at the caller's own names."""
    match document:
        case {"data": {"attributes": {"profile": {**profile}}}}:
            fields = {field.name: field.type for field in msgspec.structs.fields(ProfileAttributes)}
            places = {field.name: field.type for field in msgspec.structs.fields(Location)}
            for name, value in profile.items():
                if name in _ATTRIBUTES:
                    yield from explain(fields[_ATTRIBUTES[name]], value, (*_PROFILE_PATH, name))
                elif name in _LOCATION:
                    yield from explain(places[_LOCATION[name]], value, (*_PROFILE_PATH, name))


def translate(event: FlatAttributes) -> SingleAttributes:
    """The current shape of a flat event whose profile `explain_profile` found nothing wrong with.

    `$consent` stays a custom property: an event never subscribes anybody.
    """
    profile = event.profile
    attributes = {_ATTRIBUTES[name]: value for name, value in profile.items() if name in _ATTRIBUTES}
    location = {_LOCATION[name]: value for name, value in profile.items() if name in _LOCATION}
    rest = {name: value for name, value in profile.items() if name not in _ATTRIBUTES | _LOCATION}
    data = ProfileData(
        "profile",
        ProfileAttributes(
            **attributes,
            location=Location(**location) if location else UNSET,
            properties=rest or UNSET,
        ),
    )
    return SingleAttributes(
        profile=Profile(data),
        metric=Metric(MetricData("metric", MetricAttributes(event.metric.name, event.metric.service))),
        properties=event.properties,
        time=event.time,
        value=event.value,
        unique_id=event.unique_id,
    )


def caller_tail(tail: str) -> str:
    """A pointer within an upstream entry or event, as one from the flat document's `data`."""
    profile = "/attributes/profile/data"
    if not tail.startswith(profile):
        return tail.replace("/metric/data/attributes", "/metric")
    names = {new: old for old, new in (_ATTRIBUTES | _LOCATION).items()}
    name = tail.rsplit("/", 1)[-1]
    return "/attributes/profile" + (f"/{names.get(name, name)}" if tail != profile + "/attributes" else "")
