"""A server to talk to, for commands that are clients of one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs

from chatcore.config import Loaded


@asynccontextmanager
async def reached(loaded: Loaded, url: str | None = None) -> AsyncIterator[str]:
    """The URL of a server: the one that is named, the configured one if it runs, or one that is started here.

    Raises:
        ChatcoreError: it cannot be started.
    """
    # Plugins import this module with their commands, also where a server starts, which needs none of them.
    from chatcore.terminal.client import is_chatcore, url_of  # noqa: PLC0415

    configured = url_of(loaded.config)
    if url or await is_chatcore(configured):
        yield url or configured
        return
    # A whole server, which is rarely needed and takes long to import.
    from chatcore.app import create_app  # noqa: PLC0415
    from chatcore.serving.server import serving  # noqa: PLC0415

    config = attrs.evolve(loaded.config, host="127.0.0.1", port=0, certfile=None, keyfile=None)
    app = create_app(attrs.evolve(loaded, config=config))
    async with serving(app, config) as started:
        yield started
