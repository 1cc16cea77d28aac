"""SQLite files: which are opened, how they are migrated, and what they survive."""

import asyncio
import random
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from playhouse.schema_diff import diff_models

from chatcore.database import Conversations, Database, Documents, NewMessage, tables
from chatcore.errors import DatabaseError
from chatcore.types import Message, Principal

ANN = Principal("ann")

MIGRATION = """
def up(migrator, db):
    db.execute_sql("{}")
"""


async def test_migrations_make_what_the_models_say(database: Database) -> None:
    """The migrated schema is that of `tables.py`."""
    models = [model for model in tables.Table.__subclasses__() if model.__module__ == tables.__name__]
    assert len(models) == 7
    difference = await database.read(lambda: diff_models(tables.bound.obj, models))
    assert not difference, difference


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


def test_plugins_have_histories_of_their_own(tmp_path: Path) -> None:
    """Each plugin's migrations run once, in order, whatever those of others are called."""
    path = tmp_path / "chatcore.db"
    notes = _migrations(tmp_path / "notes", "CREATE TABLE notes_note (text)")
    tasks = _migrations(tmp_path / "tasks", "CREATE TABLE tasks_task (text)", "INSERT INTO tasks_task VALUES ('once')")
    for _ in range(2):
        assert _open_once(path, notes=notes, tasks=tasks) == {}
    assert _rows(path, "SELECT * FROM tasks_task") == [("once",)]
    assert _rows(path, "SELECT * FROM notes_note") == []


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


@pytest.mark.parametrize("script", ["raise SystemError('no')", "import nowhere", "def up(", "", "up = 3"])
def test_migration_that_is_no_migration(tmp_path: Path, script: str) -> None:
    """Whatever is wrong with a plugin's script, it is the plugin's trouble only."""
    directory = tmp_path / "bad"
    directory.mkdir()
    (directory / "0001_step.py").write_text(script)
    failed = _open_once(tmp_path / "chatcore.db", bad=directory)
    assert list(failed) == ["bad"]


def test_migration_that_breaks_references(tmp_path: Path) -> None:
    """A migration that leaves rows without what they belong to is refused as a whole."""
    path = _filled(tmp_path)
    before = _contents(path)
    bad = _migrations(tmp_path / "bad", "DELETE FROM conversation")
    with pytest.raises(DatabaseError, match="without the conversation"):
        _open_once(path, bad=bad)
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


OPEN = """
import asyncio, sys
from pathlib import Path
from chatcore.database import Database

asyncio.run(Database(sys.argv[1]).open({"notes": Path(sys.argv[2])}))
"""


def test_processes_open_a_new_database(tmp_path: Path) -> None:
    """Of processes that open the same new file together, one makes the tables; all can use it."""
    notes = _migrations(tmp_path / "notes", "CREATE TABLE notes_note (text)")
    processes = [_python(OPEN, tmp_path / "x.db", notes) for _ in range(4)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 4


def test_kill_while_migrating(tmp_path: Path) -> None:
    """Of a migration whose process is killed nothing is left; the next start does all of it."""
    path = _filled(tmp_path)
    before = _contents(path)
    notes = _migrations(tmp_path / "notes", "CREATE TABLE notes_note (text)", "")
    (notes / "0002_step.py").write_text("def up(migrator, db):\n    print('here', flush=True)\n    input()\n")
    process = _python(OPEN, path, notes)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.kill()
    process.communicate()
    assert not _rows(path, "SELECT name FROM sqlite_master WHERE name LIKE 'notes%'")
    (notes / "0002_step.py").write_text(MIGRATION.format("INSERT INTO notes_note VALUES ('done')"))
    assert _open_once(path, notes=notes) == {}
    assert _contents(path) == before


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
