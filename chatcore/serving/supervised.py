"""One worker of several: the same server, which a supervisor has started and will end."""

import asyncio
import logging
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from socket import socket

from quart import Quart

from chatcore import logs
from chatcore.app import create_app
from chatcore.config import Config, Loaded
from chatcore.errors import ChatcoreError, ConfigError
from chatcore.serving.server import end_in_time, pass_over_what_stays, plugins_on, run_loop, served
from chatcore.state import State

logger = logging.getLogger(__name__)

RETIRE_TIME = 30.0
"""Seconds that running answers have to come to their ends when a worker is replaced by another."""
LINGER = 1.0
"""Seconds in which a client that has connected to such a worker may still say what it wants."""


def work(loaded: Loaded, slot: int, listening: socket, line: Connection, *, quiet: bool) -> None:
    """Serves as worker number `slot` until SIGTERM, or until the supervisor is gone.

    On `line` it tells the supervisor that it is ready, with the plugins that are on, or why it cannot start. Later it
    gives back what it hears there; but when that is that another has taken its place, it lets nobody in any more, and
    ends when the answers under way have ended. With `quiet` it does not log what is off or has failed: another has.
    """
    config = loaded.config
    logs.configure(config.log_level, config.log_format, worker=slot)
    if quiet:
        logging.getLogger("chatcore.plugins.load").setLevel(logging.CRITICAL)
    try:
        run_loop(_serve_until_told(create_app(loaded, slot=slot), config, listening, line))
    except ChatcoreError as error:
        kind = ConfigError if isinstance(error, ConfigError) else ChatcoreError  # the supervisor knows no plugin's own
        _tell(line, kind(error.message, hint=error.hint))
        sys.exit(1)


async def _serve_until_told(app: Quart, config: Config, listening: socket, line: Connection) -> None:
    state: State = app.extensions["chatcore"]
    loop = asyncio.get_running_loop()
    stop, replace = asyncio.Event(), asyncio.Event()

    def heed() -> None:
        try:
            said = line.recv()
            if said == "replaced":
                replace.set()
            else:
                _tell(line, said)
        except (EOFError, ConnectionError):
            loop.remove_reader(line.fileno())
            logger.warning("the supervisor is gone")
            stop.set()

    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(line.fileno(), heed)
    stopped, replaced = (asyncio.create_task(event.wait()) for event in (stop, replace))
    async with served(app, config, listening) as connections:
        _tell(line, plugins_on(app))
        pass_over_what_stays()
        await asyncio.wait([stopped, replaced], return_when=asyncio.FIRST_COMPLETED)
        connections.refuse()
        if not stop.is_set():
            logger.info("replaced by another: %d answers under way", state.runs.count)
            answered = asyncio.create_task(_answered(state))
            await asyncio.wait([stopped, answered], timeout=RETIRE_TIME, return_when=asyncio.FIRST_COMPLETED)
            answered.cancel()
        end_in_time()


async def _answered(state: State) -> None:
    """Waits until nothing is under way that counts as an answer, nor asked for by a client that came in before."""
    await asyncio.sleep(LINGER)
    while state.busy:
        await state.runs.idle()
        await asyncio.sleep(LINGER)


def _tell(line: Connection, what: object) -> None:
    with suppress(ConnectionError):  # the supervisor is gone, which `heed` finds
        line.send(what)
