"""Lists every command of operators, by name."""

from typing import Final

from sluice.operate import (
    accounts,
    imports,
    index,
    job_commands,
    parked,
    pauses,
    rejections,
    replay_commands,
    sources,
    status,
    transfers,
)
from sluice.operate.command import AnyCommand

_ALL: Final[tuple[AnyCommand, ...]] = (
    accounts.LIST,
    accounts.SHOW,
    accounts.ADD,
    accounts.ROTATE,
    accounts.ADD_KEY,
    accounts.REVOKE_KEY,
    accounts.PUT,
    accounts.REMOVE,
    status.STATUS,
    parked.LIST,
    parked.RELEASE,
    parked.REROUTE,
    parked.DISCARD,
    pauses.PAUSE,
    pauses.RESUME,
    rejections.GROUPS,
    rejections.LIST,
    rejections.SHOW,
    rejections.EXPORT,
    index.INDEX,
    replay_commands.CHECK,
    replay_commands.PLAN,
    replay_commands.RUN,
    replay_commands.DISCARD,
    replay_commands.RESTORE,
    job_commands.LIST,
    job_commands.SHOW,
    job_commands.WORK,
    job_commands.CANCEL,
    job_commands.TICK,
    imports.BEGIN,
    imports.PART,
    imports.SEND,
    sources.SHOW,
    sources.PUT,
    transfers.UPLOAD,
)
COMMANDS: Final = {each.name: each for each in _ALL}
