"""Bounds what a JSON text can make a decoder build, before it is decoded.

A text of nothing but brackets decodes into objects of forty times its size. To count brackets takes less than
a tenth of the time of decoding. Those within strings count too, so the bounds are generous.
"""

from typing import Final

import msgspec


class Density(msgspec.Struct, frozen=True):
    """Says how many objects and arrays a text of a size may hold.

    A request of the smallest events holds one in 20 bytes. It needs no more than `few_containers`.
    """

    bytes_per_container: int
    few_containers: int = 12_000

    def excess(self, body: bytes) -> str | None:
        """Returns a sentence about what a JSON text holds too much of; None if it does not."""
        if len(body) <= 2 * self.few_containers:  # each of them takes two bytes
            return None
        containers = self.few_containers + len(body) // self.bytes_per_container
        if body.count(b"[") + body.count(b"{") > containers:
            return f"A body of this size must not hold more than {containers} arrays and objects."
        return None


KNOWN_CALLERS: Final = Density(bytes_per_container=25)
# A stranger may not use memory of more than three times what is sent.
ANYBODY: Final = Density(bytes_per_container=100)
