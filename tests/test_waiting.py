"""Waiting, but not for ever (chatcore/waiting.py)."""

import asyncio

import pytest

from chatcore.waiting import within


async def test_what_comes_in_time_has_come() -> None:
    """At once, or later."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, event.set)
    assert await within(10, event.wait())
    assert await within(0, event.wait())


async def test_what_does_not_come_in_time_is_cancelled() -> None:
    """Whoever waits goes on."""
    waited = asyncio.ensure_future(asyncio.Event().wait())
    assert not await within(0.01, waited)
    assert waited.cancelled()


async def test_a_timeout_of_its_own_is_an_error() -> None:
    """It is not taken for the end of the patience."""

    async def fail() -> None:
        raise TimeoutError("of the database")

    with pytest.raises(TimeoutError, match="of the database"):
        await within(10, fail())
