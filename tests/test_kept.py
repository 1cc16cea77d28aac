"""A value that is fetched once for all who ask, and kept."""

import asyncio
import logging

import pytest

from chatcore.errors import ProviderUnavailable
from chatcore.kept import Kept


class Source:
    """Gives 1, 2, 3 …, when it is let."""

    def __init__(self) -> None:
        self.calls = 0
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None

    async def fetch(self) -> int:
        self.calls += 1
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return self.calls


async def test_it_is_fetched_once_for_all_who_ask_together() -> None:
    """Fifty who ask while it is being fetched get the same answer from one fetch."""
    source = Source()
    kept = Kept("it", source.fetch, ttl=60)
    assert await asyncio.gather(*(kept.get() for _ in range(50))) == [1] * 50
    assert await kept.get() == 1
    assert source.calls == 1


async def test_it_is_fetched_again_when_it_is_old() -> None:
    """With no time to live, each time."""
    kept = Kept("it", Source().fetch, ttl=0)
    assert [await kept.get() for _ in range(3)] == [1, 2, 3]


async def test_the_last_known_is_used_while_it_cannot_be_had(caplog: pytest.LogCaptureFixture) -> None:
    """The log says so; when it can be had again, it is new."""
    source = Source()
    kept = Kept("the list", source.fetch, ttl=0)
    assert await kept.get() == 1
    source.error = ProviderUnavailable("down")
    with caplog.at_level(logging.WARNING):
        assert await kept.get() == 1
    assert "the list cannot be refreshed, so the last known is used: down" in caplog.text
    source.error = None
    assert await kept.get() == 3


async def test_it_is_not_asked_for_all_the_time_while_it_cannot_be_had() -> None:
    """A failed fetch counts as one: the next is due when the time has passed."""
    source = Source()
    kept = Kept("it", source.fetch, ttl=60)
    await kept.get()
    kept._fresh_until = 0
    source.error = ProviderUnavailable("down")
    assert [await kept.get() for _ in range(5)] == [1] * 5
    assert source.calls == 2


async def test_nobody_waits_long_for_a_new_value_while_there_is_an_old_one(caplog: pytest.LogCaptureFixture) -> None:
    """Who asked while the source was silent gets the last known, once for all in the log; what comes later counts."""
    source = Source()
    kept = Kept("the list", source.fetch, ttl=60, patience=0.01)
    await kept.get()
    kept._fresh_until = 0
    source.open.clear()
    with caplog.at_level(logging.WARNING):
        assert await asyncio.gather(*(kept.get() for _ in range(3))) == [1] * 3
        assert await kept.get() == 1
    assert caplog.text.count("the list cannot be refreshed, so the last known is used: nothing has come yet") == 1
    assert kept._fetching is not None
    source.open.set()
    await kept._fetching
    assert await kept.get() == 2


async def test_without_an_earlier_value_everybody_gets_the_error() -> None:
    """And the next who asks tries again."""
    source = Source()
    source.error = ProviderUnavailable("down")
    kept = Kept("it", source.fetch, ttl=60)
    results = await asyncio.gather(*(kept.get() for _ in range(3)), return_exceptions=True)
    assert [str(result) for result in results] == ["down"] * 3
    assert source.calls == 1
    source.error = None
    assert await kept.get() == 2


async def test_one_who_goes_away_does_not_take_it_from_the_others() -> None:
    """Also if it is the one who asked first."""
    source = Source()
    source.open.clear()
    kept = Kept("it", source.fetch, ttl=60)
    first, second = asyncio.create_task(kept.get()), asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    source.open.set()
    assert await second == 1
    assert first.cancelled()


async def test_an_error_that_nobody_waits_for_is_silent() -> None:
    """No warning of an exception that was never retrieved (warnings are errors here)."""
    source = Source()
    source.error = ProviderUnavailable("down")
    source.open.clear()
    kept = Kept("it", source.fetch, ttl=60)
    asking = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    asking.cancel()
    source.open.set()
    await asyncio.gather(asking, return_exceptions=True)
    with pytest.raises(ProviderUnavailable):
        await kept.get()


async def test_closing_ends_a_fetch() -> None:
    """Those who wait get an error that they can handle, and are not cancelled; closing twice is fine."""
    source = Source()
    source.open.clear()
    kept = Kept("it", source.fetch, ttl=60)
    asking = [asyncio.create_task(kept.get()) for _ in range(2)]
    await asyncio.sleep(0)
    kept.close()
    for error in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(error, ProviderUnavailable)
        assert (error.kind, error.message) == ("closed", "it was not fetched: the provider is closed")
        assert error.hint is not None
    kept.close()


async def test_closing_gives_those_who_wait_the_last_known() -> None:
    """As whenever a new value cannot be had."""
    source = Source()
    kept = Kept("it", source.fetch, ttl=60)
    await kept.get()
    kept._fresh_until = 0
    source.open.clear()
    asking = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    kept.close()
    assert await asking == 1


async def test_one_who_is_cancelled_while_it_closes_is_cancelled() -> None:
    """The error is for those who still want an answer."""
    source = Source()
    source.open.clear()
    kept = Kept("it", source.fetch, ttl=60)
    asking = asyncio.create_task(kept.get())
    await asyncio.sleep(0)
    asking.cancel()
    kept.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
