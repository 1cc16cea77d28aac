"""The histories of migrations, in every kind of database."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatcore.database import Conversations, Database, tables
from chatcore.errors import DatabaseError
from chatcore.types import Principal

ANN = Principal("ann")

MIGRATION = """
def up(migrator, db):
    db.execute_sql("{}")
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where there is nothing yet."""
    if request.param == "sqlite":
        return str(tmp_path / "chatcore.db")
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


async def opened(url: str, **migrations: Path) -> tuple[dict[str, DatabaseError], list[str]]:
    """Opens a database, and gives what failed and the tables that are there then."""
    database = Database(url)
    failed = await database.open(migrations)
    try:
        return dict(failed), await database.read(lambda: tables.bound.get_tables())
    finally:
        await database.close()


async def rows(url: str, select: str) -> list[Any]:
    database = Database(url)
    await database.open()
    try:
        return await database.read(lambda: tables.execute(select))
    finally:
        await database.close()


def migrations(directory: Path, *statements: str) -> Path:
    directory.mkdir()
    for number, statement in enumerate(statements, 1):
        (directory / f"{number:04}_step.py").write_text(MIGRATION.format(statement))
    return directory


async def test_plugins_have_histories_of_their_own(url: str, tmp_path: Path) -> None:
    """Each plugin's migrations run once, in order, whatever those of others are called."""
    notes = migrations(tmp_path / "notes", "CREATE TABLE notes_note (text TEXT)")
    tasks = migrations(
        tmp_path / "tasks", "CREATE TABLE tasks_task (text TEXT)", "INSERT INTO tasks_task VALUES ('once')"
    )
    for _ in range(2):
        failed, there = await opened(url, notes=notes, tasks=tasks)
        assert failed == {}
        assert {"notes_note", "tasks_task", "notes_migrations", "tasks_migrations"} <= set(there)
    assert await rows(url, "SELECT * FROM tasks_task") == [("once",)]


async def test_failing_migration_of_a_plugin(url: str, tmp_path: Path) -> None:
    """A plugin whose migration fails is told; nothing of its is left, and the others' are done."""
    bad = migrations(tmp_path / "bad", "CREATE TABLE bad_one (text TEXT)", "DELETE FROM nowhere")
    good = migrations(tmp_path / "good", "CREATE TABLE good_one (text TEXT)")
    for _ in range(2):
        failed, there = await opened(url, bad=bad, good=good)
        assert list(failed) == ["bad"]
        assert "nowhere" in str(failed["bad"])
        assert "good_one" in there
        assert not {name for name in there if name.startswith("bad")}


@pytest.mark.parametrize("script", ["raise SystemError('no')", "def up(", "up = 3"])
async def test_migration_that_is_no_migration(url: str, tmp_path: Path, script: str) -> None:
    """Whatever is wrong with a plugin's script, it is the plugin's trouble only."""
    directory = tmp_path / "bad"
    directory.mkdir()
    (directory / "0001_step.py").write_text(script)
    failed, there = await opened(url, bad=directory)
    assert list(failed) == ["bad"]
    assert "conversation" in there


@pytest.mark.parametrize("history", ["chatcore", "notes"])
async def test_database_from_the_future(url: str, tmp_path: Path, history: str) -> None:
    """A database with migrations that this version does not know is refused; a plugin's only for the plugin."""
    notes = migrations(tmp_path / "notes", "CREATE TABLE notes_note (text TEXT)")
    database = Database(url)
    await database.open({"notes": notes})
    newer = f"INSERT INTO {history}_migrations (name, applied) VALUES ('0099_better', '2030-01-01')"
    await database.write(lambda: tables.execute(newer))
    await database.close()
    if history == "chatcore":
        with pytest.raises(DatabaseError) as caught:
            await opened(url, notes=notes)
        error = caught.value
    else:
        error = (await opened(url, notes=notes))[0]["notes"]
    assert f"newer version of {history}" in str(error)
    assert "0099_better" in str(error)
    assert "upgrade" in (error.hint or "")


OPEN = """
import asyncio, sys
from pathlib import Path
from chatcore.database import Database

failed = asyncio.run(Database(sys.argv[1]).open({"notes": Path(sys.argv[2])}))
assert not failed, failed
"""


def python(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_open_a_new_database(url: str, tmp_path: Path) -> None:
    """Of processes that open the same new database together, one makes the tables; all can use it."""
    notes = migrations(tmp_path / "notes", "CREATE TABLE notes_note (text TEXT)")
    processes = [python(OPEN, url, notes) for _ in range(3)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 3


async def test_kill_while_migrating(url: str, tmp_path: Path) -> None:
    """Of a migration whose process is killed nothing is left; the next start does all of it."""
    database = Database(url)
    await database.open()
    await Conversations(database).save(ANN, "c", title="A title")
    await database.close()
    notes = migrations(tmp_path / "notes", "CREATE TABLE notes_note (text TEXT)", "")
    (notes / "0002_step.py").write_text("def up(migrator, db):\n    print('here', flush=True)\n    input()\n")
    process = python(OPEN, url, notes)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.kill()
    process.communicate()
    _, there = await opened(url)
    assert not {name for name in there if name.startswith("notes")}
    (notes / "0002_step.py").write_text(MIGRATION.format("INSERT INTO notes_note VALUES ('done')"))
    assert (await opened(url, notes=notes))[0] == {}
    assert await rows(url, "SELECT text FROM notes_note") == [("done",)]
    assert await rows(url, "SELECT title FROM conversation") == [("A title",)]
