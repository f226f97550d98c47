"""Interprets a function's answer to a batch."""

import json
from collections.abc import Collection


def failed_ids(payload: bytes, batch: Collection[str]) -> frozenset[str]:
    """Returns the messages of a batch that failed, by the partial response that a function returned.

    payload: the answer as Invoke gives it. batch: the batch's message ids. An empty answer (nothing, null,
    `{}`, no list, a null or an empty one) is success. An answer that is not JSON, is no object, or lists
    anything but ids of this batch fails the whole batch. Source: Lambda developer guide, Handling errors for
    an SQS event source, Success and failure conditions.
    """
    everything = frozenset(batch)
    try:
        answer = json.loads(payload or b"null")
    except ValueError:
        return everything
    match answer:
        case None:
            listed = None
        case dict():
            listed = answer.get("batchItemFailures")
        case _:
            return everything
    if listed is None:
        return frozenset()
    named = {_identifier(item) for item in listed} if isinstance(listed, list) else {None}
    return everything & named if named <= everything else everything


def _identifier(item: object) -> str | None:
    """Returns the id that an entry names, or None, which is no message's id."""
    identifier = item.get("itemIdentifier") if isinstance(item, dict) else None
    return identifier if isinstance(identifier, str) else None
