"""SQLite files: which are opened, how they are migrated, and what they survive."""

import asyncio
import random
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chatcore.database import Conversations, Database, Documents, NewMessage, tables
from chatcore.errors import DatabaseError, DatabaseUnavailable, RequestError
from chatcore.types import Message, Principal

ANN = Principal("ann")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

MIGRATION = """
def up(migrator, db):
    db.execute_sql("{}")
"""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """Here it is always a file."""
    return str(tmp_path / "chatcore.db")


def test_directory_is_made(tmp_path: Path) -> None:
    """The directories that the file is to be in are made."""
    _open_once(tmp_path / "a/b/chatcore.db")
    assert (tmp_path / "a/b/chatcore.db").exists()


# --- files that are not opened ----------------------------------------------------------------------------------------


def refused(path: Path) -> DatabaseError:
    """What opening a file is refused with. The file is not changed, and nothing is left beside it."""
    before = path.read_bytes() if path.is_file() else None
    beside = set(path.parent.iterdir())
    with pytest.raises(DatabaseError) as caught:
        _open_once(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert before is None or path.read_bytes() == before
    assert set(path.parent.iterdir()) == beside
    return caught.value


def test_file_that_is_no_database(tmp_path: Path) -> None:
    """A file of something else is refused."""
    path = tmp_path / "notes.txt"
    path.write_text("Dear diary, " * 1000)
    assert "not a database" in str(refused(path))


def test_directory_in_its_place(tmp_path: Path) -> None:
    """A directory is refused."""
    path = tmp_path / "data"
    path.mkdir()
    assert "cannot be opened" in str(refused(path))


def test_file_in_the_place_of_its_directory(tmp_path: Path) -> None:
    """A path through a file is refused."""
    (tmp_path / "data").write_text("")
    with pytest.raises(DatabaseError, match="File exists"):
        _open_once(tmp_path / "data/chatcore.db")


def test_database_of_another_program(tmp_path: Path) -> None:
    """A SQLite file that we did not make is refused, whether or not it says whose it is."""
    for number, statement in enumerate(["CREATE TABLE conversations (id)", "PRAGMA application_id = 7"]):
        path = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()
        assert "another program" in str(refused(path))


def test_empty_file_is_a_new_database(tmp_path: Path) -> None:
    """A file without anything in it is taken."""
    path = tmp_path / "empty.db"
    path.write_bytes(b"")
    assert _open_once(path) == {}


@pytest.mark.parametrize("history", ["chatcore", "notes"])
def test_database_from_the_future(tmp_path: Path, history: str) -> None:
    """A database with migrations that this version does not know is refused; a plugin's only for the plugin."""
    path = _filled(tmp_path)
    known = _migrations(tmp_path / "notes", "CREATE TABLE notes_note (text)")
    _open_once(path, notes=known)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"INSERT INTO {history}_migrations (name, applied) VALUES ('0099_better', '2030-01-01')")
        connection.commit()
    error = refused(path) if history == "chatcore" else _open_once(path, notes=known)["notes"]
    assert f"newer version of {history}" in str(error)
    assert "0099_better" in str(error)
    assert "upgrade" in (error.hint or "")


def test_damaged_database(tmp_path: Path) -> None:
    """A file with overwritten pages is refused where SQLite sees it, with the way to rescue it; no other error comes
    out of it."""
    path = _filled(tmp_path)
    sound = path.read_bytes()
    chance = random.Random(5)
    errors = [
        error
        for page in range(len(sound) // 4096)
        if (error := _damage_done(path, _damaged(sound, page, chance))) is not None
    ]
    assert len(errors) > 5
    for error in errors:
        assert re.search("damaged|not a database|another program", str(error))
        assert error.hint
        assert "xxxx" not in str(error)  # the text of the rows


def _damaged(sound: bytes, page: int, chance: random.Random) -> bytes:
    """The file with random bytes in one of its pages."""
    damaged = bytearray(sound)
    for _ in range(40):
        damaged[page * 4096 + chance.randrange(4096)] = chance.randrange(256)
    return damaged


def _damage_done(path: Path, content: bytes) -> DatabaseError | None:
    path.write_bytes(content)
    try:
        _contents(path)
    except DatabaseError as error:
        return error
    return None


def test_truncated_database(tmp_path: Path) -> None:
    """A file whose end is missing is refused."""
    path = _filled(tmp_path)
    path.write_bytes(path.read_bytes()[:-8192])
    error = refused(path)
    assert "damaged" in str(error)
    assert ".recover" in (error.hint or "")


# --- migrations -------------------------------------------------------------------------------------------------------


def test_migrating_makes_a_backup(tmp_path: Path) -> None:
    """Before a migration of a database with content a copy of it is made, named for the migration; else none is."""
    path = _filled(tmp_path)
    assert not list(tmp_path.glob("*before*"))
    before = _contents(path)
    notes = _migrations(tmp_path / "notes", "CREATE TABLE notes_note (text)", "DELETE FROM document")
    _open_once(path, notes=notes)
    _open_once(path, notes=notes)
    [backup] = tmp_path.glob("*before*")
    assert backup.name == "chatcore.db.before-notes-0001_step"
    assert _contents(path) != before
    assert _contents(backup) == before


def test_failing_migration_of_a_plugin(tmp_path: Path) -> None:
    """A plugin whose migration fails is told; nothing of its is left, and the others' are done."""
    path = _filled(tmp_path)
    before = _contents(path)
    bad = _migrations(tmp_path / "bad", "CREATE TABLE bad_one (text)", "DELETE FROM nowhere")
    good = _migrations(tmp_path / "good", "CREATE TABLE good_one (text)")
    for _ in range(2):
        failed = _open_once(path, bad=bad, good=good)
        assert list(failed) == ["bad"]
        assert "no such table: nowhere" in str(failed["bad"])
    names = {name for (name,) in _rows(path, "SELECT name FROM sqlite_master")}
    assert "good_one" in names
    assert not {name for name in names if name.startswith("bad")}
    assert _contents(path) == before
    assert [backup.name for backup in tmp_path.glob("*before*")] == ["chatcore.db.before-bad-0001_step"]


def test_migration_that_breaks_references(tmp_path: Path) -> None:
    """A plugin whose migration leaves rows without what they belong to is told. It is undone; the others' are done."""
    path = _filled(tmp_path)
    before = _contents(path)
    bad = _migrations(tmp_path / "bad", "DELETE FROM conversation")
    good = _migrations(tmp_path / "good", "CREATE TABLE good_one (text)")
    failed = _open_once(path, bad=bad, good=good)
    assert list(failed) == ["bad"]
    assert "without the conversation they belong to" in str(failed["bad"])
    assert ("good_one",) in _rows(path, "SELECT name FROM sqlite_master")
    assert _contents(path) == before


def test_rebuilding_a_table_keeps_what_refers_to_it(tmp_path: Path) -> None:
    """Dropping a column makes SQLite copy the table; rows that refer to it stay."""
    path = _filled(tmp_path)
    directory = tmp_path / "plugin"
    directory.mkdir()
    (directory / "0001_step.py").write_text(
        "def up(migrator, db):\n    migrator.migrate(migrator.drop_column('conversation', 'timezone', legacy=True))\n"
    )
    assert _open_once(path, plugin=directory) == {}
    assert _rows(path, "SELECT text FROM message") == [("Hello",)]


# --- several processes ------------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from chatcore.database import Database, tables
from datetime import UTC, datetime

async def main(path, name, count):
    database = Database(path)
    await database.open()

    def put(number):
        for part in range(3):
            tables.Document.insert(
                owner=name, namespace=str(number), key=str(part), value="x" * 500, updated_at=datetime.now(UTC)
            ).execute()

    async def one(number):
        await database.write(lambda: put(number))
        print(number, flush=True)

    for start in range(0, count, 5):
        await asyncio.gather(*(one(number) for number in range(start, start + 5)))
    await database.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


FULL = """
import asyncio, resource, sys
from pathlib import Path
from chatcore.database import Database, Documents
from chatcore.errors import DatabaseError
from chatcore.types import Principal

async def main(path):
    database, ann = Database(path), Principal("ann")
    await database.open()
    documents = Documents(database)
    await documents.put(ann, "n", "first", 1)
    size = Path(path + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, resource.RLIM_INFINITY))
    puts = (documents.put(ann, "n", str(number), "x" * 20_000) for number in range(30))
    results = await asyncio.gather(*puts, return_exceptions=True)
    stored = await documents.list(ann, "n")
    assert set(stored) == {"first"} | {str(number) for number, result in enumerate(results) if result is None}
    [told] = {(str(error), error.hint) for error in results if error is not None}
    print(*told)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await documents.put(ann, "n", "last", 1)
    assert set(await documents.list(ann, "n")) == {*stored, "last"}
    await database.close()

asyncio.run(main(sys.argv[1]))
"""


def test_disk_that_takes_no_more(tmp_path: Path) -> None:
    """When the operating system refuses to write, the error says so, reading goes on, and so does writing later."""
    process = _python(FULL, tmp_path / "chatcore.db")
    told, _ = process.communicate()
    assert process.returncode == 0
    assert "could not be read or written" in told
    assert _rows(tmp_path / "chatcore.db", "PRAGMA integrity_check") == [("ok",)]


async def test_processes_write_together(database: Database, tmp_path: Path) -> None:
    """Several processes write to one file at the same time, and none is told that it is locked."""
    processes = [_python(WRITER, tmp_path / "chatcore.db", f"p{number}", 200) for number in range(2)]
    documents = Documents(database)
    for number in range(200):
        await documents.put(ANN, "n", str(number), number)
    for process in processes:
        told, _ = await asyncio.to_thread(process.communicate)
        assert (process.returncode, len(told.split())) == (0, 200)
    assert await database.read(tables.Document.select().count) == 200 + 2 * 200 * 3


async def test_writing_waits_for_other_processes(database: Database, tmp_path: Path) -> None:
    """A write waits while another process has the file locked."""
    documents = Documents(database)
    with closing(sqlite3.connect(tmp_path / "chatcore.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = [asyncio.create_task(documents.put(ANN, "n", str(number), 1)) for number in range(3)]
        assert await documents.list(ANN, "n") == {}
        assert not any(task.done() for task in waiting)
        other.execute("COMMIT")
        await asyncio.gather(*waiting)
    assert len(await documents.list(ANN, "n")) == 3


async def test_file_that_stays_locked(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process does not let go, all who wait are told after the same time; later writes work again."""
    monkeypatch.setattr("chatcore.database.sqlite._LOCK_PATIENCE", 0.3)
    documents = Documents(database)
    with closing(sqlite3.connect(tmp_path / "chatcore.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        puts = (documents.put(ANN, "n", str(number), 1) for number in range(50))
        async with asyncio.timeout(5):
            results = await asyncio.gather(*puts, return_exceptions=True)
    assert {str(error).partition(": ")[2] for error in results} == {"another process keeps the database locked"}
    await documents.put(ANN, "n", "k", 1)
    assert await documents.list(ANN, "n") == {"k": 1}


def test_kill_while_writing(tmp_path: Path) -> None:
    """What a killed process was told is stored is there, whole, and so is everything else: nothing is half there."""
    path = tmp_path / "chatcore.db"
    chance = random.Random(3)
    told = set()
    for life in range(6):
        process = _python(WRITER, path, life, 100_000)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randrange(1, 60))]
        process.kill()
        lines += process.stdout.readlines()
        process.communicate()
        told |= {(str(life), line[:-1]) for line in lines if line.endswith("\n")}
    rows = _rows(path, "SELECT owner, namespace, count(*) FROM document GROUP BY 1, 2")
    assert {count for *_, count in rows} == {3}
    assert told <= {(owner, number) for owner, number, _ in rows}
    assert _rows(path, "PRAGMA integrity_check") == [("ok",)]


# --- units of work ----------------------------------------------------------------------------------------------------


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


# --- helpers ----------------------------------------------------------------------------------------------------------


def _filled(directory: Path) -> Path:
    """A closed database with content."""
    path = directory / "chatcore.db"

    async def fill() -> None:
        database = Database(str(path))
        await database.open()
        documents, conversations = Documents(database), Conversations(database)
        for number in range(30):
            await documents.put(ANN, "n", f"{number}", "x" * 300)
        await conversations.save(ANN, "c", title="A title")
        message = NewMessage(message=Message(role="user", content="Hello"))
        await conversations.add_answer(ANN, "c", None, [message])
        await database.close()

    asyncio.run(fill())
    return path


def _contents(path: Path) -> object:
    async def read() -> object:
        database = Database(str(path))
        await database.open()
        try:
            return dict(await Documents(database).list(ANN, "n")), await Conversations(database).list_saved(ANN)
        finally:
            await database.close()

    return asyncio.run(read())


def _rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def _migrations(directory: Path, *statements: str) -> Path:
    directory.mkdir()
    for number, statement in enumerate(statements, 1):
        (directory / f"{number:04}_step.py").write_text(MIGRATION.format(statement))
    return directory


def _open_once(path: Path, **migrations: Path) -> dict[str, DatabaseError]:
    async def session() -> dict[str, DatabaseError]:
        database = Database(str(path))
        failed = await database.open(migrations)
        await database.close()
        return dict(failed)

    return asyncio.run(session())


def _python(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_a_file_that_is_moved_away_takes_nothing_more(tmp_path: Path) -> None:
    """What is open has no name any more: whoever writes is told, nothing is stored where nobody finds it, and no new
    file is begun. As soon as it is back, all goes on."""
    path, away = tmp_path / "chatcore.db", tmp_path / "away.db"
    database = Database(str(path))
    await database.open()
    try:
        documents = Documents(database)
        await documents.put(ANN, "n", "k", 1)
        path.rename(away)
        for work in (lambda: documents.put(ANN, "n", "k", 2), lambda: documents.get(ANN, "n", "k")):
            for _ in range(5):  # by whatever thread
                with pytest.raises(DatabaseUnavailable, match="moved, deleted or replaced"):
                    await work()
        assert path.name not in names(tmp_path)
        away.rename(path)
        assert await documents.get(ANN, "n", "k") == 1
        await documents.put(ANN, "n", "k", 3)
    finally:
        await database.close()
    assert names(tmp_path) == {path.name}


def names(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()}
