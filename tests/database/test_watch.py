"""Watching for what other processes change."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from chatcore.database import Database, Documents, tables
from chatcore.errors import DatabaseError
from chatcore.types import Principal


@pytest_asyncio.fixture
async def other(database_url: str, database: Database) -> AsyncIterator[Database]:
    """A second handle, as another process has one."""
    other = Database(database_url)
    await other.open()
    yield other
    await other.close()


def put_and_announce(number: int) -> None:
    tables.execute("DELETE FROM document")
    tables.Document.insert(
        owner="ann", namespace="n", key="k", value=number, updated_at=tables.Moment().python_value(0)
    ).execute()
    tables.announce("numbers")


async def test_everybody_sees_the_last_announcement(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks after each `changed` sees what was announced last, in this process and in the other."""
    monkeypatch.setattr("chatcore.database.postgres._HEARD_EVERY", 60)  # it is the announcement that wakes them

    async def follow(handle: Database) -> None:
        async with handle.watch("numbers") as watcher:
            await watcher.changed()
            while await Documents(handle).get(Principal("ann"), "n", "k") != 50:
                await watcher.changed()

    followers = [asyncio.create_task(follow(handle)) for handle in (database, other, other)]
    for number in range(1, 51):
        await database.write(lambda n=number: put_and_announce(n))
    async with asyncio.timeout(20):
        await asyncio.gather(*followers)


async def test_first_time_returns_at_once(database: Database) -> None:
    """A watcher looks once before it waits, so nothing that happened before is missed."""
    async with database.watch("numbers") as watcher:
        async with asyncio.timeout(0):
            await watcher.changed()


async def test_unit_that_fails_announces_nothing(database: Database) -> None:
    """An announcement belongs to its unit of work; others go on."""

    def fail() -> None:
        tables.announce("numbers")
        raise KeyError("no")

    with pytest.raises(KeyError):
        await database.write(fail)
    await database.write(lambda: put_and_announce(1))
    assert await Documents(database).get(Principal("ann"), "n", "k") == 1


async def test_waiting_may_be_given_up(database: Database) -> None:
    """A watcher whose waiting is cancelled can wait again, and is woken then."""
    async with database.watch("numbers") as watcher:
        await watcher.changed()
        for _ in range(3):
            waiting = asyncio.ensure_future(watcher.changed())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        async with asyncio.timeout(5):
            while await Documents(database).get(Principal("ann"), "n", "k") is None:
                await database.write(lambda: put_and_announce(1))
                await watcher.changed()


async def test_closing_ends_the_waiting(database: Database, other: Database) -> None:
    """Who waits when the database is closed is told, and so is who begins to; opened again, it works again."""
    async with other.watch("numbers") as watcher:
        await watcher.changed()

        async def wait() -> None:
            while True:
                await watcher.changed()

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        await other.close()
        with pytest.raises(DatabaseError, match="closed"):
            await waiting
    with pytest.raises(DatabaseError, match="not open"):
        await other.watch("numbers").__aenter__()
    await other.open()
    async with other.watch("numbers") as watcher:
        await watcher.changed()
