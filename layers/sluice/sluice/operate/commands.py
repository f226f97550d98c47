"""Lists every command of operators, by name."""

from typing import Final

from sluice.operate import index, rejections, sources, transfers
from sluice.operate.command import AnyCommand

_ALL: Final[tuple[AnyCommand, ...]] = (
    rejections.GROUPS,
    rejections.LIST,
    rejections.SHOW,
    rejections.EXPORT,
    index.INDEX,
    sources.SHOW,
    sources.PUT,
    transfers.UPLOAD,
)
COMMANDS: Final = {each.name: each for each in _ALL}
