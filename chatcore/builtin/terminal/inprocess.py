"""A server in this process, for a terminal that finds none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from chatcore.app import create_app
from chatcore.config import Loaded
from chatcore.server import listen, serve


@asynccontextmanager
async def serving(loaded: Loaded) -> AsyncIterator[str]:
    """Serves on a free port of loopback, with everything else as configured, and gives the URL.

    Raises:
        ChatcoreError: the server cannot start.
    """
    config = attrs.evolve(loaded.config, host="127.0.0.1", port=0, certfile=None, keyfile=None)
    app = create_app(attrs.evolve(loaded, config=config))
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
        yield f"http://127.0.0.1:{sockets.insecure_sockets[0].getsockname()[1]}"
    finally:
        stop.set()
        await server
