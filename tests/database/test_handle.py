"""The handle: what it takes, and what a unit of work may rely on."""

import asyncio
import random
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from chatcore.database import Database, Documents, tables
from chatcore.errors import ConfigError, DatabaseError, NotFound, RequestError
from chatcore.types import Principal

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("data/x.db", "data/x.db"),
        ("sqlite:///data/x.db", "data/x.db"),
        ("sqlite:////srv/x.db", "/srv/x.db"),
        ("sqlite:///my%20data/x.db", "my data/x.db"),
        ("100%25.db", "100%25.db"),
    ],
)
def test_url_names_a_file(url: str, path: str) -> None:
    """A plain path is taken as it is, that of a URL is unquoted; four slashes make it absolute."""
    with pytest.raises(DatabaseError, match="not open") as caught:
        asyncio.run(Database(url).write(lambda: None))
    assert str(caught.value).startswith(f"{path} ")


@pytest.mark.parametrize(
    "url",
    [
        "",
        ":memory:",
        "sqlite:///:memory:",
        "sqlite:///",
        "sqlite://data/x.db",
        "sqlite:///x.db?mode=ro",
        "mysql://u:secret@h/d",
        "postgresql://u:secret@h/d",
        "a\0b",
    ],
)
def test_url_that_cannot_be_used(url: str) -> None:
    """Anything else is refused at once, without printing a password."""
    with pytest.raises(ConfigError) as caught:
        Database(url)
    assert caught.value.hint
    assert "secret" not in str(caught.value)


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


async def test_unit_gives_its_result_after_the_commit(database: Database, tmp_path: Path) -> None:
    """What a write stored is there for another connection as soon as the write returns."""
    await Documents(database).put(Principal("ann"), "n", "k", 1)
    other = sqlite3.connect(tmp_path / "chatcore.db")
    assert other.execute("SELECT value FROM document").fetchall() == [("1",)]
    other.close()


async def test_failing_unit_leaves_nothing(database: Database) -> None:
    """A unit that raises stores nothing, and its own error comes out."""

    def work() -> None:
        tables.Conversation.insert(id="c", owner="ann", created_at=NOW, updated_at=NOW).execute()
        raise NotFound("what I was looking for")

    with pytest.raises(NotFound, match="what I was looking for"):
        await database.write(work)
    assert await database.read(tables.Conversation.select().count) == 0


@pytest.mark.parametrize(("bad", "commits"), [(None, 3), (3, 7)])
async def test_units_that_wait_together_share_a_commit(database: Database, bad: int | None, commits: int) -> None:
    """One transaction serves all units that wait; if one of them fails, the others get a transaction each."""
    statements: list[str] = []
    await database.write(lambda: tables.bound.connection().set_trace_callback(statements.append))
    started, hold = threading.Event(), threading.Event()
    first = asyncio.create_task(database.write(lambda: (started.set(), hold.wait())))
    await asyncio.to_thread(started.wait)

    def put(number: int) -> int:
        tables.Conversation.insert(id=f"c{number}", owner="ann", created_at=NOW, updated_at=NOW).execute()
        if number == bad:
            raise RequestError("not this one")
        return tables.Conversation.select().count()

    units = asyncio.gather(*(database.write(lambda n=n: put(n)) for n in range(6)), return_exceptions=True)
    await asyncio.sleep(0)
    hold.set()
    results = await units
    await first
    wanted = ["1", "2", "3", "4", "5", "6"] if bad is None else ["1", "2", "3", "not this one", "4", "5"]
    assert [str(result) for result in results] == wanted
    assert statements.count("COMMIT") == commits  # of the first write, of the one that held the writer, of the six


async def test_group_that_cannot_be_committed_is_tried_one_by_one(database: Database) -> None:
    """A unit that fills the disk does not take those with it that share its commit."""
    pages = await database.write(lambda: tables.bound.pragma("page_count"))
    documents, ann = Documents(database), Principal("ann")
    await database.write(lambda: tables.bound.pragma("max_page_count", pages + 20))
    started, hold = threading.Event(), threading.Event()
    first = asyncio.create_task(database.write(lambda: (started.set(), hold.wait())))
    await asyncio.to_thread(started.wait)
    units = asyncio.gather(
        documents.put(ann, "n", "small", 1),
        documents.put(ann, "n", "huge", "x" * 1_000_000),
        documents.put(ann, "n", "other", 2),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    hold.set()
    small, huge, other = await units
    await first
    assert (small, other) == (None, None)
    assert isinstance(huge, DatabaseError)
    assert await documents.list(ann, "n") == {"other": 2, "small": 1}


async def test_full_disk(database: Database) -> None:
    """When the disk is full the error says so, reading goes on, and so does writing when there is space again."""
    documents, ann = Documents(database), Principal("ann")
    await documents.put(ann, "n", "kept", 1)
    pages = await database.write(lambda: tables.bound.pragma("page_count"))
    await database.write(lambda: tables.bound.pragma("max_page_count", pages + 2))
    puts = (documents.put(ann, "n", f"k{number:03}", "x" * 1000) for number in range(100))
    results = await asyncio.gather(*puts, return_exceptions=True)
    [(message, hint), *others] = {(str(error), error.hint) for error in results if isinstance(error, DatabaseError)}
    assert (others, "disk is full" in message, "space" in hint) == ([], True, True)
    stored = await documents.list(ann, "n")
    assert stored["kept"] == 1
    await database.write(lambda: tables.bound.pragma("max_page_count", 2**30))
    await documents.put(ann, "n", "after", 2)
    assert await documents.list(ann, "n") == {**stored, "after": 2}
    assert await database.read(lambda: tables.bound.pragma("quick_check")) == "ok"


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
        (lambda: tables.bound.execute_sql("SELECT nonsense"), DatabaseError),
        (lambda: tables.execute_many("INSERT INTO document VALUES (?)", [(1,)]), DatabaseError),
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


@pytest.mark.parametrize(("durability", "level"), [("relaxed", 1), ("strict", 2)])
async def test_durability(tmp_path: Path, durability: str, level: int) -> None:
    """`strict` waits for the disk at every commit, `relaxed` leaves that to the checkpoints."""
    database = Database(str(tmp_path / "x.db"), durability=durability)  # type: ignore[arg-type]
    await database.open()
    pragmas = ("synchronous", "journal_mode", "foreign_keys", "busy_timeout")
    # The writer's own patience stands in for SQLite's.
    for ask, timeout in ((database.read, 5000), (database.write, 0)):
        assert await ask(lambda: [tables.bound.pragma(name) for name in pragmas]) == [level, "wal", 1, timeout]
    await database.close()
