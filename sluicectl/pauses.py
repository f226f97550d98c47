"""Implements `sluicectl accounts`: pause and resume."""

from rich.console import Console

from sluice.operate.pauses import PAUSE, RESUME, PauseArguments, ResumeArguments
from sluicectl.deployment import Target, find
from sluicectl.operate_client import OperateClient
from sluicectl.screen import Screen


def pause(screen: Screen, target: Target, account: str, *, why: str) -> int:
    """Pauses an account, or says since when it is paused."""
    paused = OperateClient(find(target)).call(PAUSE, PauseArguments(account=account, why=why))

    def draw(console: Console) -> None:
        since = f"{paused.since:%Y-%m-%d %H:%M} UTC"
        if paused.changed:
            said = (
                f"{account} is paused. Its events are accepted and parked. A job that is being sent now "
                f"still goes out.\nTo go on: sluicectl accounts resume {account}"
            )
        else:
            said = f"{account} is paused already, since {since}, by {paused.who}: {paused.why}"
        console.print(said, markup=False, soft_wrap=True)

    screen.show(paused.model_dump(mode="json"), draw)
    return 0


def resume(screen: Screen, target: Target, account: str, *, why: str | None) -> int:
    """Ends the pause of an account."""
    resumed = OperateClient(find(target)).call(RESUME, ResumeArguments(account=account, why=why))

    def draw(console: Console) -> None:
        if resumed.changed:
            said = f"{account} is not paused any more. Its parked messages come back within a minute or two."
        else:
            said = f"{account} is not paused."
        console.print(said, markup=False, soft_wrap=True)

    screen.show(resumed.model_dump(mode="json"), draw)
    return 0
