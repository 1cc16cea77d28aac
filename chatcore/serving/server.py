"""The server process: an app on a socket, from the first signal to the last frame."""

import asyncio
import ctypes
import faulthandler
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from socket import socket
from typing import TypeVar

from quart import Quart

from chatcore import logs
from chatcore.app import create_app, opened
from chatcore.config import Config, Loaded
from chatcore.serving import sockets
from chatcore.serving.connections import Connections, allow_files
from chatcore.serving.reload import restart, source_changed
from chatcore.state import State

logger = logging.getLogger(__name__)

DRAIN_TIME = 3.0
"""Seconds that running answers have to store what they have when the server stops."""
STOP_TIME = 8.0
"""Seconds in which a server that is to end has ended, whatever its plugins do."""

SELDOM = 30
"""Collections of what is young, of which one is followed by a look at everything; Python's own number is 10."""
LARGE_BLOCK = 2**18
"""Bytes from which on a block of memory is one by itself."""
_M_MMAP_THRESHOLD = -3  # of malloc.h

T = TypeVar("T")


@asynccontextmanager
async def served(app: Quart, config: Config, listening: socket) -> AsyncIterator[Connections]:
    """Serves an app while the context is open; then ends streams, runs, connections, plugins and database, in order.

    Raises:
        ChatcoreError: it cannot start.
    """
    async with AsyncExitStack() as stack:
        stack.callback(listening.close)
        await stack.enter_async_context(opened(app))
        await app.startup()
        stack.push_async_callback(app.shutdown)
        allow_files(config)
        connections = Connections(app, config)
        await connections.accept(listening)
        stack.push_async_callback(connections.close)
        stack.push_async_callback(_drain, app.extensions["chatcore"])
        stack.callback(connections.refuse)
        yield connections


async def _drain(state: State) -> None:
    logger.info("stopping: %d answers under way", state.runs.count)
    state.streams.drain()
    try:
        async with asyncio.timeout(DRAIN_TIME):
            await state.runs.close()
    except TimeoutError:
        logger.warning("%d answers did not end in time; they are closed at the next start", state.runs.count)


@asynccontextmanager
async def serving(app: Quart, config: Config) -> AsyncIterator[str]:
    """Serves an app beside whatever else the running loop does, and gives its URL.

    Raises:
        ChatcoreError: it cannot start.
    """
    listening = sockets.listen(config)
    async with served(app, config, listening):
        yield sockets.url(config, listening)


def run(loaded: Loaded) -> None:
    """Serves until SIGINT, SIGTERM or SIGHUP. A second SIGINT ends it at once.

    Raises:
        ConfigError: the address cannot be listened on.
        PluginError: a plugin stops the start.
        DatabaseError: the database cannot be opened.
    """
    config = loaded.config
    logs.configure(config.log_level, config.log_format)
    app = create_app(loaded)
    if run_loop(_serve_until_signal(app, config)):
        restart()


def run_loop(main: Coroutine[None, None, T]) -> T:
    """Runs the event loop of a server process, in which everything is loaded."""
    pass_over_what_stays()
    # The database's threads need the interpreter for moments only; five milliseconds each time, which is how long the
    # busy main thread keeps it by default, would be most of what a request takes.
    sys.setswitchinterval(0.0005)
    _keep_large_blocks_apart()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _keep_large_blocks_apart() -> None:
    """Has the C library give large blocks back to the system as soon as they are free. Otherwise it begins to make them
    of its heap, after the first, where the little that is left between them keeps all of it."""
    with suppress(OSError, TypeError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)


def pass_over_what_stays() -> None:
    """Has the garbage collector pass over what there is when all is loaded, and when the server is ready: code and
    tables, which stay; and look at everything else seldom. It stops the loop while it does: for half a second, where a
    thousand answers are under way. What it would find is little: nearly all that a request leaves is gone without it,
    or while it is young."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(*gc.get_threshold()[:2], SELDOM)


def end_in_time() -> None:
    """Ends the process by force if it has not ended by itself in `STOP_TIME`, and says on the standard error where it
    hangs. What was told is stored by then, and what is half done the next start closes, as after any kill."""
    faulthandler.dump_traceback_later(STOP_TIME, exit=True)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415  not there on every platform
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve_until_signal(app: Quart, config: Config) -> bool:
    """Serves until a signal comes, or, with `reload`, until the code changes: then gives True."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the next one ends the process

    loop.add_signal_handler(signal.SIGINT, interrupted)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    watching = asyncio.create_task(source_changed(config.plugins_dir)) if config.reload else None
    if watching:
        watching.add_done_callback(lambda _: stop.set())
    listening = sockets.listen(config)
    async with served(app, config, listening):
        logger.info("listening on %s", sockets.url(config, listening))
        logger.info("plugins: %s", ", ".join(plugins_on(app)) or "none but the built-in ones")
        pass_over_what_stays()
        await stop.wait()
        end_in_time()
    return watching is not None and watching.done()


def plugins_on(app: Quart) -> Sequence[str]:
    """The plugins that are on, beside the built-in ones. What is off or has failed was said when it was loaded."""
    state: State = app.extensions["chatcore"]
    return [row.name for row in state.plugins.rows if row.state == "on" and not row.builtin]
