"""The handle: what it takes, and what a unit of work may rely on."""

import asyncio
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chatcore.database import Database, Documents, tables
from chatcore.errors import DatabaseError, NotFound, RequestError
from chatcore.types import Principal

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def test_making_one_costs_nothing() -> None:
    """Importing and making a handle imports no peewee and makes no file."""
    code = "import sys; from chatcore.database import Database; Database('no/where.db'); print('peewee' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_every_public_name_can_be_had() -> None:
    """The names that are imported late are those of `__all__`, and no others."""
    from chatcore import database

    for name in database.__all__:
        assert getattr(database, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = database.nothing_like_it  # type: ignore[attr-defined]


async def test_unit_gives_its_result_after_the_commit(database: Database, database_url: str) -> None:
    """What a write stored is there for another connection as soon as the write returns."""
    await Documents(database).put(Principal("ann"), "n", "k", 1)
    other = Database(database_url)
    await other.open()
    assert await Documents(other).get(Principal("ann"), "n", "k") == 1
    await other.close()


async def test_failing_unit_leaves_nothing(database: Database) -> None:
    """A unit that raises stores nothing, and its own error comes out."""

    def work() -> None:
        tables.Conversation.insert(id="c", owner="ann", created_at=NOW, updated_at=NOW).execute()
        raise NotFound("what I was looking for")

    with pytest.raises(NotFound, match="what I was looking for"):
        await database.write(work)
    assert await database.read(tables.Conversation.select().count) == 0


async def test_cancelled_caller_cuts_nothing(database: Database) -> None:
    """A unit whose caller is cancelled is stored whole all the same; units before and after it are not touched."""
    chance = random.Random(1)

    def put(number: int) -> None:
        for part in range(2):
            tables.Conversation.insert(id=f"{number}.{part}", owner="ann", created_at=NOW, updated_at=NOW).execute()

    for number in range(0, 600, 2):
        cancelled = asyncio.create_task(database.write(lambda n=number: put(n)))
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        cancelled.cancel()
        await database.write(lambda n=number: put(n + 1))
    stored = {row.id for row in await database.read(lambda: list(tables.Conversation.select()))}
    kept = {number for number in range(600) if f"{number}.0" in stored}
    assert stored == {f"{number}.{part}" for number in kept for part in range(2)}
    assert kept >= set(range(1, 600, 2))


async def test_read_sees_one_moment(database: Database) -> None:
    """All queries of a unit that reads see the same state, whatever is written meanwhile."""
    documents, ann = Documents(database), Principal("ann")
    begun, written = threading.Event(), threading.Event()

    def work() -> tuple[int, int]:
        first = tables.Document.select().count()
        begun.set()
        written.wait()
        return first, tables.Document.select().count()

    reading = asyncio.create_task(database.read(work))
    await asyncio.to_thread(begun.wait)
    await documents.put(ann, "n", "k", 1)
    written.set()
    assert await reading == (0, 0)


async def test_reading_cannot_write(database: Database) -> None:
    """A unit given to `read` that writes after all is refused."""
    with pytest.raises(DatabaseError, match="read-only"):
        await database.read(lambda: tables.Document.delete().execute())


async def test_reads_run_beside_a_long_write(database: Database) -> None:
    """Readers do not wait for the writer."""
    started, hold = threading.Event(), threading.Event()
    writing = asyncio.create_task(database.write(lambda: (started.set(), hold.wait())))
    await asyncio.to_thread(started.wait)
    assert await database.read(tables.Document.select().count) == 0
    hold.set()
    await writing


async def test_table_outside_a_unit(database: Database) -> None:
    """A query that runs in the wrong place is told where the right one is."""
    with pytest.raises(DatabaseError, match="outside a unit of work") as caught:
        tables.Document.select().count()
    assert "database.read" in (caught.value.hint or "")
    with pytest.raises(DatabaseError, match="outside a unit of work"):
        list(await database.read(tables.Document.select))


async def test_databases_do_not_mix(tmp_path: Path) -> None:
    """Several databases may be open at once: the same models serve each in its own threads."""
    names = [f"{number}.db" for number in range(3)]
    databases = [Database(str(tmp_path / name)) for name in names]
    await asyncio.gather(*(database.open() for database in databases))
    ann = Principal("ann")
    await asyncio.gather(
        *(
            Documents(database).put(ann, "n", "k", {"in": name})
            for name, database in zip(names, databases, strict=True)
        ),
        *(Documents(database).put(ann, "n", "l", [name]) for name, database in zip(names, databases, strict=True)),
    )
    for name, database in zip(names, databases, strict=True):
        assert await Documents(database).list(ann, "n") == {"k": {"in": name}, "l": [name]}
        await database.close()


def test_one_database_serves_several_loops(tmp_path: Path) -> None:
    """A handle may be used from loops in several threads, and from one loop after another."""
    database = Database(str(tmp_path / "x.db"))
    asyncio.run(_opened(database))

    async def put(number: int) -> None:
        for part in range(20):
            await Documents(database).put(Principal("ann"), "n", f"{number}.{part}", part)

    threads = [threading.Thread(target=asyncio.run, args=(put(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asyncio.run(Documents(database).list(Principal("ann"), "n"))) == 80
    asyncio.run(database.close())


async def _opened(database: Database) -> None:
    assert await database.open() == {}


def test_loop_that_ends_first_hurts_nobody(tmp_path: Path) -> None:
    """A write whose loop is gone is stored, and the writer goes on."""
    database = Database(str(tmp_path / "x.db"))
    started, hold = threading.Event(), threading.Event()

    async def leave() -> None:
        await database.open()
        asyncio.create_task(database.write(lambda: (started.set(), hold.wait())))  # noqa: RUF006  it is to be forgotten
        asyncio.create_task(Documents(database).put(Principal("ann"), "n", "k", 1))  # noqa: RUF006  as above
        await asyncio.to_thread(started.wait)

    async def look() -> object:
        await database.write(lambda: None)
        return await Documents(database).get(Principal("ann"), "n", "k")

    asyncio.run(leave())
    hold.set()
    assert asyncio.run(look()) == 1
    asyncio.run(database.close())


async def test_close_finishes_what_was_asked(tmp_path: Path) -> None:
    """Writes that wait when the database is closed are done first; later ones are refused; it opens again."""
    database, ann = Database(str(tmp_path / "x.db")), Principal("ann")
    await database.open()
    documents = Documents(database)
    waiting = [asyncio.create_task(documents.put(ann, "n", f"k{number:03}", number)) for number in range(250)]
    await asyncio.sleep(0)
    await database.close()
    assert all(task.done() or task.get_loop() for task in waiting)
    await asyncio.gather(*waiting)
    with pytest.raises(DatabaseError, match="not open"):
        await documents.get(ann, "n", "k000")
    assert _names(tmp_path) == ["x.db"]
    await database.open()
    assert len(await documents.list(ann, "n")) == 250
    with pytest.raises(DatabaseError, match="open already"):
        await database.open()
    await database.close()
    await database.close()


def _names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (lambda: next(iter(())), RuntimeError),
        (lambda: tables.Document.get(tables.Document.key == "\ud800"), RequestError),
        (lambda: tables.Conversation.get(tables.Conversation.key == 2**70), RequestError),
        (lambda: tables.bound.execute_sql("SELECT nonsense"), DatabaseError),  # none that waiting would mend
        (lambda: tables.execute_many("INSERT INTO nonsense VALUES (?)", [(1,)]), DatabaseError),
        (lambda: [][0], IndexError),
        (lambda: sys.exit("no"), SystemExit),
    ],
)
@pytest.mark.parametrize("how", ["read", "write"])
async def test_errors_of_a_unit(database: Database, how: str, work: object, error: type[BaseException]) -> None:
    """Every error reaches the caller, as one that a route can answer where the caller's data are to blame; the
    threads survive it."""
    with pytest.raises(error) as caught:
        await getattr(database, how)(work)
    assert caught.type is error
    assert await database.read(lambda: 1) == await database.write(lambda: 1) == 1
