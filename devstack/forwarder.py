"""Forwards TCP connections to an address of this machine on to its loopback address, port by port.

    python -m devstack.forwarder --listen 172.18.0.1 4566 4600

`sam local` runs functions in containers, which do not reach 127.0.0.1. Their own network has an address of
this machine, which nothing outside reaches. A port that is open there is open for the containers alone.
"""

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

LOOPBACK = "127.0.0.1"
PIECE_BYTES = 65_536


async def forward(listen: str, ports: list[int], ready_file: Path | None) -> None:
    """Forwards until SIGTERM or Ctrl-C."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with contextlib.AsyncExitStack() as servers:
        for port in ports:
            await servers.enter_async_context(await serve(listen, port))
        if ready_file:
            ready_file.write_text(listen)
        await ended.wait()


async def serve(listen: str, port: int) -> asyncio.Server:
    """Starts to forward one port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection(LOOPBACK, port)
        except OSError:  # nobody listens: the caller sees its connection closed
            writer.close()
            return
        await asyncio.gather(_copy(reader, onward[1]), _copy(onward[0], writer))

    return await asyncio.start_server(accept, listen, port)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m devstack.forwarder", description=__doc__.split("\n")[0])
    parser.add_argument("--listen", required=True, metavar="ADDRESS")
    parser.add_argument("--ready-file", type=Path, help="written once connections are taken")
    parser.add_argument("ports", nargs="+", type=int)
    chosen = parser.parse_args()
    asyncio.run(forward(chosen.listen, chosen.ports, chosen.ready_file))


if __name__ == "__main__":
    main()
