"""A server to talk to, for commands that are clients of one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import click

from chatcore.config import Loaded


@asynccontextmanager
async def reached(ctx: click.Context, url: str | None = None) -> AsyncIterator[str]:
    """The URL of a server: the one that is named, the configured one if it runs, or one that is started here.

    `ctx` is that of the command, which knows the configuration.

    Raises:
        ChatcoreError: it cannot be started.
    """
    # Plugins import this module with their commands, also where a server starts, which needs none of them.
    from chatcore.terminal.client import is_chatcore, url_of  # noqa: PLC0415

    loaded = ctx.find_object(Loaded) or Loaded()
    if url or await is_chatcore(url_of(loaded.config)):
        yield url or url_of(loaded.config)
        return
    # A whole server, which is rarely needed and takes long to import.
    from chatcore.app import create_app  # noqa: PLC0415
    from chatcore.serving.server import serving  # noqa: PLC0415

    config = attrs.evolve(loaded.config, host="127.0.0.1", port=0, certfile=None, keyfile=None)
    async with serving(create_app(attrs.evolve(loaded, config=config)), config) as started:
        yield started
