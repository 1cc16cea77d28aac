"""Waits in a way that stops everybody else."""

import asyncio
import time

from chatcore.hooks import NoSettings, Plugin, hookimpl


class Blocks(Plugin[NoSettings]):
    """Holds the event loop up after having been polite once."""

    @hookimpl
    async def prepare_turn(self, turn):
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251  the fault that this plugin shows
