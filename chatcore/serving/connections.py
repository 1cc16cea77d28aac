"""Connections: hypercorn's protocols on a socket of ours.

hypercorn's own loop, `worker_serve`, closes in one step what listens and what is idle, and so drops clients that have
connected and not yet said what they want. Here these are two steps.

What a client can make the server hold is bounded: by how many there may be, and for each by what hypercorn keeps of a
request that is coming and of an answer that is going, 64 KiB or so. Both time out.
"""

import asyncio
import logging
import resource
import socket
from functools import partial

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config as HypercornConfig
from hypercorn.utils import wrap_app
from quart import Quart

from chatcore.config import Config
from chatcore.errors import ConfigError
from chatcore.serving import http2  # noqa: F401  it mends hypercorn
from chatcore.serving.direct import WithDirect
from chatcore.serving.sockets import BACKLOG

logger = logging.getLogger(__name__)

CLOSE_TIME = 1.0
"""Seconds that requests under way have to end when the server stops."""


HANDSHAKE_TIME = 10.0
"""Seconds that a client has for the TLS handshake."""
PING_INTERVAL = 20.0
"""Seconds between two pings on a WebSocket: the other end is asked whether it is there."""
LARGEST_MESSAGE = 2**20
"""Bytes of a message that comes on a WebSocket."""


def most(config: Config) -> int:
    """How many connections there may be: some for each stream, and some for everything else."""
    return 1000 + 4 * config.max_streams


def allow_files(config: Config) -> None:
    """Lets this process open as many files as that takes, as far as the system lets it. Many begin with 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 500 + config.max_streams + most(config)  # each stream also has a connection to its model's server
    if resource.RLIM_INFINITY != soft < needed:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard)
        )


class _Connection(TCPServer):
    """hypercorn's, which keeps what it has of a client that has gone until it would have been idle for too long."""

    _gone = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._gone = True
        await self.idle_task.stop()

    async def _idle_timeout(self) -> None:
        if not self._gone:
            await super()._idle_timeout()


class Connections:
    """Everybody who is connected to an app. Made where a loop runs."""

    def __init__(self, app: Quart, config: Config) -> None:
        self._app = wrap_app(app, config.max_body, "asgi")
        self._settings = _settings(config)
        self._context = WorkerContext(None)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._most = most(config)

    async def accept(self, listening: socket.socket) -> None:
        """Begins to serve those who connect.

        Raises:
            ConfigError: the certificate cannot be used.
        """
        try:
            tls = self._settings.create_ssl_context()
        except OSError as error:
            raise ConfigError(
                f"the certificate cannot be used: {error}",
                hint="certfile and keyfile are PEM files that belong together and that the server's user may read",
            ) from error
        self._server = await asyncio.start_server(
            self._connected,
            sock=listening,
            backlog=BACKLOG,
            ssl=tls,
            ssl_handshake_timeout=HANDSHAKE_TIME if tls else None,
        )

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= self._most:
            writer.transport.abort()
            return
        loop = asyncio.get_running_loop()
        app = WithDirect(self._app, writer.transport)
        connection = _Connection(app, loop, self._settings, self._context, {}, reader, writer)
        task = loop.create_task(connection.run())
        self._tasks.add(task)
        task.add_done_callback(partial(self._disconnected, connection))

    def _disconnected(self, connection: TCPServer, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        vars(connection).clear()  # its parts hold each other, and would stay until garbage is collected, which is dear
        if not task.cancelled() and (error := task.exception()):
            # The other end has let go in a way that hypercorn does not expect, such as by taking nothing any more.
            level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
            logger.log(level, "a connection has failed: %s", error, exc_info=error)

    def refuse(self) -> None:
        """Lets nobody in any more, and closes this process's handle of the socket. Who is in stays."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Closes all connections, those with a request under way when it has been answered or its time is up."""
        self.refuse()
        await self._context.terminated.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSE_TIME)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _settings(config: Config) -> HypercornConfig:
    settings = HypercornConfig()
    settings.include_server_header = False
    settings.keep_alive_timeout = config.keep_alive  # also for the head of a request, to its last byte
    # No bound: what comes is taken at once, and bounded, by `requests`. With one, what comes for a view that has ended
    # would fill the queue, and the news that it has ended would wait in front of it for ever.
    settings.max_app_queue_size = 0
    settings.websocket_ping_interval = PING_INTERVAL
    settings.websocket_max_message_size = LARGEST_MESSAGE
    settings.errorlog = logging.getLogger("hypercorn.error")
    settings.certfile = str(config.certfile) if config.certfile else None
    settings.keyfile = str(config.keyfile) if config.keyfile else None
    return settings
