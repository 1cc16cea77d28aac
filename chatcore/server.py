"""The server process: an app on a socket, from the first signal to the last frame.

hypercorn runs in this process through `worker_serve`; its own command line loses open streams when it stops.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from socket import socket

from hypercorn.asyncio.run import worker_serve
from hypercorn.config import Config as HypercornConfig
from hypercorn.config import Sockets
from hypercorn.utils import wrap_app
from quart import Quart

from chatcore import logs
from chatcore.app import create_app, opened
from chatcore.config import Config, Loaded
from chatcore.errors import ConfigError
from chatcore.reload import restart, source_changed
from chatcore.state import State

logger = logging.getLogger(__name__)

DRAIN_TIME = 4.0
"""Seconds that running answers have to store what they have when the server stops."""


def run(loaded: Loaded) -> None:
    """Serves until SIGINT or SIGTERM.

    Raises:
        ConfigError: the address cannot be listened on.
        PluginError: a plugin stops the start.
        DatabaseError: the database cannot be opened.
    """
    config = loaded.config
    if config.workers > 1:
        raise ConfigError("this version of chatcore serves with one worker", hint="leave workers at 1")
    logs.configure(config.log_level, config.log_format)
    app = create_app(loaded)
    # The database's threads need the interpreter for moments only; five milliseconds each time, which is how long the
    # busy main thread keeps it by default, would be most of what a request takes.
    sys.setswitchinterval(0.0005)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        changed = runner.run(_serve_until_signal(app, config))
    if changed:
        restart()


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
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    watching = asyncio.create_task(source_changed(config.plugins_dir)) if config.reload else None
    if watching:
        watching.add_done_callback(lambda _: stop.set())
    await serve(app, config, listen(config), until=stop.wait)
    return watching is not None and watching.done()


def listen(config: Config) -> Sockets:
    """The sockets of the configured address.

    Raises:
        ConfigError: the address is taken, or not this machine's.
    """
    try:
        return _hypercorn(config).create_sockets()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port}: {error.strerror or error}",
            hint="choose another with --port",
        ) from error


async def serve(app: Quart, config: Config, sockets: Sockets, *, until: Callable[[], Awaitable[object]]) -> None:
    """Serves an app until `until` returns; then ends streams, runs, plugins and database, in this order."""
    state: State = app.extensions["chatcore"]

    async def shutdown() -> None:
        _announce(state, config, [*sockets.secure_sockets, *sockets.insecure_sockets])
        await until()
        logger.info("stopping: %d answers under way", state.runs.count)
        state.streams.drain()
        try:
            async with asyncio.timeout(DRAIN_TIME):
                await state.runs.close()
        except TimeoutError:
            logger.warning("%d answers did not end in time; they are closed at the next start", state.runs.count)

    try:
        async with opened(app):
            wrapped = wrap_app(app, config.max_body, "asgi")
            await worker_serve(wrapped, _hypercorn(config), sockets=sockets, shutdown_trigger=shutdown)
    finally:
        for sock in [*sockets.secure_sockets, *sockets.insecure_sockets]:
            sock.close()


@asynccontextmanager
async def serving(app: Quart, config: Config) -> AsyncIterator[str]:
    """Serves an app beside whatever else the running loop does, and gives its URL.

    Raises:
        ChatcoreError: it cannot start.
    """
    sockets = listen(config)
    started, stop = asyncio.Event(), asyncio.Event()

    async def until() -> None:
        started.set()
        await stop.wait()

    server = asyncio.create_task(serve(app, config, sockets, until=until))
    server.add_done_callback(lambda _: started.set())
    try:
        await started.wait()
        if server.done():
            await server
        host, port = sockets.insecure_sockets[0].getsockname()[:2]
        yield f"http://{host}:{port}"
    finally:
        stop.set()
        await server


def _hypercorn(config: Config) -> HypercornConfig:
    host = f"[{config.host}]" if ":" in config.host else config.host
    settings = HypercornConfig()
    settings.bind = [f"{host}:{config.port}"]
    settings.backlog = 4096
    settings.graceful_timeout = 1.0
    settings.include_server_header = False
    settings.errorlog = logging.getLogger("hypercorn.error")  # at warning: our own line says the address
    settings.certfile = str(config.certfile) if config.certfile else None
    settings.keyfile = str(config.keyfile) if config.keyfile else None
    return settings


def _announce(state: State, config: Config, sockets: Sequence[socket]) -> None:
    """Says where the server is and what it consists of. What is off or has failed was said when it was loaded."""
    scheme = "https" if config.certfile else "http"
    for address in [sock.getsockname() for sock in sockets]:
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        logger.info("listening on %s://%s:%d", scheme, host, address[1])
    names = [row.name for row in state.plugins.rows if row.state == "on" and not row.builtin]
    logger.info("plugins: %s", ", ".join(names) or "none but the built-in ones")
