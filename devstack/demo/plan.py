"""Decides which purchases go which way, and which mistakes are made on purpose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from devstack.demo import purchases
from devstack.demo.purchases import Order, Purchase

BULK_EVENTS = 1_000
BULK_ROWS = 5_000
REPEATS = 3
REFUSED = 3
# The fake upstream refuses e-mails that contain this, as an upstream may refuse an address that looks valid.
REFUSED_EMAIL = "refused-upstream"


@dataclass(frozen=True)
class Plan:
    """Holds orders by the way they go.

    bulk and single are the data. refused are taken at first and refused by the upstream, repeats are some of
    single once more, invalid ones have to be refused at once.
    """

    bulk: Sequence[Order]
    single: Sequence[Order]
    refused: Sequence[Order]
    repeats: Sequence[Order]
    invalid: Sequence[Order]

    @property
    def one_by_one(self) -> Sequence[Order]:
        """Returns all valid orders that go one by one."""
        return [*self.single, *self.refused, *self.repeats]

    @property
    def messages(self) -> int:
        """Returns how many requests will be accepted: each becomes one message on the queue."""
        return math.ceil(len(self.bulk) / BULK_EVENTS) + len(self.one_by_one)


def plan(rows: Sequence[Purchase]) -> Plan:
    """Plans the first rows in bulk and the rest one by one; the wrong orders are made of the first rows."""
    orders = [purchases.order(row) for row in rows]
    cut = min(BULK_ROWS, len(orders) * 3 // 4)
    return Plan(
        bulk=purchases.backfilled(orders[:cut]),
        single=orders[cut:],
        refused=[
            purchases.of_somebody(order, f"refused-{number}", email=f"{REFUSED_EMAIL}-{number}@example.com")
            for number, order in enumerate(orders[:REFUSED], 1)
        ],
        repeats=orders[cut : cut + REPEATS],
        invalid=[
            purchases.of_somebody(orders[0], "bad-email", email="customer-at-example.com"),
            purchases.of_somebody(orders[0], "no-identifier"),
        ],
    )
