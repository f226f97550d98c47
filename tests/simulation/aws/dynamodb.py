"""Models DynamoDB: tables with one key or two, whose writes are atomic and may be conditional."""

import base64
from collections.abc import Callable, Iterable
from typing import Any

from tests.simulation.aws import expressions
from tests.simulation.aws.errors import error
from tests.simulation.aws.expressions import InvalidExpression, Item, Names

type Listener = Callable[[str, Item | None, Item | None], None]

MAX_ITEM_BYTES = 400 * 1024
MAX_BATCH_GET = 100
MAX_BATCH_WRITE = 25
_SETS = {"SS", "NS", "BS"}
_CONDITIONAL = {
    "ConditionExpression",
    "ExpressionAttributeNames",
    "ExpressionAttributeValues",
    "ReturnValues",
    "ReturnValuesOnConditionCheckFailure",
}


def _ignore(table: str, before: Item | None, after: Item | None) -> None:
    """Hears nothing."""


class DynamoDB:
    """Holds tables by name, each with its items by the values of its key attributes in one text.

    These are `pk`, and `sk` too in the tables that are named as `sorted_tables`. `heard` is told of every
    write: the table, and the item before and after it.
    """

    def __init__(
        self, tables: Iterable[str], heard: Listener = _ignore, *, sorted_tables: Iterable[str] = ()
    ) -> None:
        self._keys = dict.fromkeys(tables, ("pk",)) | dict.fromkeys(sorted_tables, ("pk", "sk"))
        self.tables: dict[str, dict[str, Item]] = {name: {} for name in self._keys}
        self._heard = heard

    def get_item(self, **given: Any) -> dict[str, Any]:
        """Reads one item; `Item` is missing where there is none."""
        _only(given, {"TableName", "Key", "ConsistentRead"})
        table = self._table(given["TableName"], "GetItem")
        found = table.get(self._key(given["TableName"], given["Key"], "GetItem"))
        return {} if found is None else {"Item": _copy(found)}

    def batch_get_item(self, **given: Any) -> dict[str, Any]:
        """Reads up to 100 items."""
        _only(given, {"RequestItems"})
        responses: dict[str, list[Item]] = {}
        total = 0
        for name, wanted in given["RequestItems"].items():
            _only(wanted, {"Keys", "ConsistentRead"})
            table = self._table(name, "BatchGetItem")
            keys = [self._key(name, each, "BatchGetItem") for each in wanted["Keys"]]
            total += len(keys)
            if len(set(keys)) != len(keys):
                raise error("ValidationException", "BatchGetItem", "duplicate keys")
            responses[name] = [_copy(table[each]) for each in keys if each in table]
        if not 1 <= total <= MAX_BATCH_GET:
            raise error("ValidationException", "BatchGetItem", f"{total} keys")
        return {"Responses": responses, "UnprocessedKeys": {}}

    def batch_write_item(self, **given: Any) -> dict[str, Any]:
        """Writes up to 25 items whole."""
        _only(given, {"RequestItems"})
        puts = [(name, each) for name, wanted in given["RequestItems"].items() for each in wanted]
        keys = []
        for name, each in puts:
            _only(each, {"PutRequest"})
            keys.append((name, self._key_of(name, each["PutRequest"]["Item"], "BatchWriteItem")))
        if not 1 <= len(puts) <= MAX_BATCH_WRITE or len(set(keys)) != len(keys):
            raise error("ValidationException", "BatchWriteItem", f"{len(puts)} items, or a key twice")
        for name, each in puts:
            self.put_item(TableName=name, Item=each["PutRequest"]["Item"])
        return {"UnprocessedItems": {}}

    def query(self, **given: Any) -> dict[str, Any]:
        """Reads the items of one partition that meet the conditions, in the order of their sort keys."""
        _only(
            given,
            {
                *(
                    "TableName",
                    "KeyConditionExpression",
                    "FilterExpression",
                    "ScanIndexForward",
                    "ConsistentRead",
                ),
                *("ExpressionAttributeNames", "ExpressionAttributeValues"),
            },
        )
        table, names = self._table(given["TableName"], "Query"), _names(given)
        conditions = [given["KeyConditionExpression"], given.get("FilterExpression")]
        try:
            names.check(*conditions)
            found = [
                _copy(item)
                for _, item in sorted(table.items(), reverse=not given.get("ScanIndexForward", True))
                if all(expressions.holds(each, item, names) for each in conditions if each)
            ]
        except InvalidExpression as invalid:
            raise error("ValidationException", "Query", str(invalid)) from None
        return {"Items": found, "Count": len(found)}

    def put_item(self, **given: Any) -> dict[str, Any]:
        """Writes one item whole, if its condition holds."""
        _only(given, {"TableName", "Item"} | _CONDITIONAL)
        _check_values(given["Item"].values(), "PutItem")
        key = self._key_of(given["TableName"], given["Item"], "PutItem")
        item = _copy(given["Item"])
        return self._write(given, key, "PutItem", lambda _: (item, set()))

    def delete_item(self, **given: Any) -> dict[str, Any]:
        """Deletes one item, if its condition holds; none being there is no error."""
        _only(given, {"TableName", "Key"} | _CONDITIONAL)
        key = self._key(given["TableName"], given["Key"], "DeleteItem")
        return self._write(given, key, "DeleteItem", lambda _: (None, set()))

    def update_item(self, **given: Any) -> dict[str, Any]:
        """Changes one item, or makes it, if its condition holds."""
        _only(given, {"TableName", "Key", "UpdateExpression"} | _CONDITIONAL)
        key = self._key(given["TableName"], given["Key"], "UpdateItem")

        def change(item: Item) -> tuple[Item, set[str]]:
            changed, touched = expressions.updated(given["UpdateExpression"], item, _names(given))
            if touched & given["Key"].keys():
                raise InvalidExpression("the key cannot be changed")
            return {**given["Key"], **changed}, touched

        return self._write(given, key, "UpdateItem", change)

    def _write(
        self,
        given: dict[str, Any],
        key: str,
        operation: str,
        change: Callable[[Item], tuple[Item | None, set[str]]],
    ) -> dict[str, Any]:
        table = self._table(given["TableName"], operation)
        names = _names(given)
        before = table.get(key)
        condition = given.get("ConditionExpression")
        try:
            names.check(condition, given.get("UpdateExpression"))
            met = condition is None or expressions.holds(condition, before or {}, names)
            after, touched = change(before or {}) if met else (None, set())
        except InvalidExpression as invalid:
            raise error("ValidationException", operation, str(invalid)) from None
        if not met:
            told: dict[str, Any] = {}
            if given.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD" and before is not None:
                told["Item"] = _copy(before)
            raise error(
                "ConditionalCheckFailedException", operation, "The conditional request failed", **told
            )
        if after is not None and item_size(after) > MAX_ITEM_BYTES:
            raise error("ValidationException", operation, "Item size has exceeded the maximum allowed size")
        if after is None:
            table.pop(key, None)
        else:
            table[key] = _copy(after)
        self._heard(given["TableName"], before, after)
        return _returned(given.get("ReturnValues", "NONE"), before, after, touched)

    def _key_of(self, table: str, item: Item, operation: str) -> str:
        """Returns the key of an item that is to be written."""
        self._table(table, operation)
        names = self._keys[table]
        return self._key(table, {name: item.get(name) for name in names}, operation)

    def _key(self, table: str, key: dict[str, Any], operation: str) -> str:
        self._table(table, operation)
        names = self._keys[table]
        values = [key.get(name) for name in names]
        if len(key) == len(names):
            match values:
                case [{"S": str(pk)}] if pk:
                    return pk
                case [{"S": str(pk)}, {"S": str(sk)}] if pk and sk:
                    return f"{pk}\0{sk}"
        raise error("ValidationException", operation, "The provided key does not match the schema")

    def _table(self, name: str, operation: str) -> dict[str, Item]:
        try:
            return self.tables[name]
        except KeyError:
            raise error("ResourceNotFoundException", operation) from None


def _returned(wanted: str, before: Item | None, after: Item | None, touched: set[str]) -> dict[str, Any]:
    if wanted == "NONE":
        return {}
    if wanted == "ALL_OLD":
        return {} if before is None else {"Attributes": _copy(before)}
    if wanted == "ALL_NEW":
        return {"Attributes": _copy(after or {})}
    if wanted == "UPDATED_NEW":
        found = {name: value for name, value in (after or {}).items() if name in touched}
        return {"Attributes": _copy(found)} if found else {}
    raise NotImplementedError(f"ReturnValues {wanted}")


def _names(given: dict[str, Any]) -> Names:
    values = given.get("ExpressionAttributeValues", {})
    _check_values(values.values(), "expression")
    return Names(given.get("ExpressionAttributeNames", {}), values)


def _check_values(values: Iterable[Any], operation: str) -> None:
    for value in values:
        [(kind, content)] = value.items()
        if kind in _SETS and not content:
            raise error("ValidationException", operation, "A set must not be empty")
        if kind in _SETS and len(set(content)) != len(content):
            raise error("ValidationException", operation, "A set must not hold a value twice")


def _copy(item: Item) -> Item:
    # Values are never changed in place, so a copy of the outer level is a copy.
    return {
        name: {
            kind: list(content) if isinstance(content, list) else content for kind, content in value.items()
        }
        for name, value in item.items()
    }


def item_size(item: Item) -> int:
    """Returns the bytes of an item as DynamoDB counts them."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Any) -> int:
    [(kind, content)] = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return len(content) // 2 + 2
        case "B":
            return len(content if isinstance(content, bytes) else base64.b64decode(content))
        case "SS":
            return sum(len(each.encode()) for each in content)
        case "NS":
            return sum(len(each) // 2 + 2 for each in content)
        case "L":
            return 3 + sum(1 + _value_size(each) for each in content)
    return 1


def _only(given: dict[str, Any], known: set[str]) -> None:
    if unknown := given.keys() - known:
        raise NotImplementedError(f"parameters {sorted(unknown)}")
