"""Lists every command of operators, by name."""

from typing import Final

from sluice.operate import index, job_commands, pauses, rejections, replay_commands, sources, transfers
from sluice.operate.command import AnyCommand

_ALL: Final[tuple[AnyCommand, ...]] = (
    pauses.PAUSE,
    pauses.RESUME,
    rejections.GROUPS,
    rejections.LIST,
    rejections.SHOW,
    rejections.EXPORT,
    index.INDEX,
    replay_commands.PLAN,
    replay_commands.RUN,
    replay_commands.DISCARD,
    replay_commands.RESTORE,
    job_commands.LIST,
    job_commands.SHOW,
    job_commands.WORK,
    job_commands.CANCEL,
    job_commands.TICK,
    sources.SHOW,
    sources.PUT,
    transfers.UPLOAD,
)
COMMANDS: Final = {each.name: each for each in _ALL}
