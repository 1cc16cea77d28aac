"""Waiting, but not for ever."""

import asyncio
from collections.abc import Awaitable


async def within(seconds: float, awaited: Awaitable[object]) -> bool:
    """Waits for something, but no longer than that: then it is cancelled. Gives whether it has come."""
    try:
        async with asyncio.timeout(seconds) as limit:
            await awaited
    except TimeoutError:
        if not limit.expired():  # it is one of what was waited for
            raise
        return False
    return True
