"""Backups of data that is in use."""

import asyncio
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner

from chatcore.builtin.disk import DiskFiles
from chatcore.cli import command
from chatcore.database import Conversations, Database, Documents, Jobs
from chatcore.database.copy import copy
from chatcore.errors import BackupError, ChatcoreError, DatabaseError
from chatcore.operation.archive import Archive
from chatcore.operation.backup import back_up
from chatcore.operation.restore import verify
from chatcore.protocols import Blob
from chatcore.types import Principal

ANN = Principal("ann")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory."""
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest_asyncio.fixture
async def database(data: Path) -> AsyncIterator[Database]:
    """Its database, in use."""
    database = Database(str(data / "chatcore.db"))
    await database.open()
    await Documents(database).put(ANN, "n", "k", 1)
    yield database
    await database.close()


@pytest.fixture
def filled(data: Path) -> Path:
    """A database that is not in use."""

    async def fill() -> None:
        database = Database(str(data / "chatcore.db"))
        await database.open()
        await database.close()

    asyncio.run(fill())
    return data / "chatcore.db"


def documents_in(archive: Path, directory: Path) -> dict[str, str]:
    """The documents of the database of a backup, by key."""
    with zipfile.ZipFile(archive) as file:
        copy = Path(file.extract("chatcore.db", directory))
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(connection.execute("SELECT key, value FROM document"))


def names_in(archive: Path) -> set[str]:
    """The names of the files of a backup, without the database."""
    with Archive.open(archive) as opened:
        return {entry.name for entry in opened.manifest.entries} - {"chatcore.db"}


# --- while others write -----------------------------------------------------------------------------------------------


async def test_no_file_is_missing_that_the_database_refers_to(database: Database, data: Path, tmp_path: Path) -> None:
    """While files come and go, each before the first and after the last mention of it, every backup has all that its
    database mentions; and it is sound."""
    files, documents = DiskFiles(data / "plugins" / "disk"), Documents(database)
    over = asyncio.Event()

    async def use(name: str) -> int:
        """Puts files and takes the older ones away."""
        number = 0
        while not over.is_set():
            await files.put(Blob(key=f"{name}/{number}", media_type="text/plain", filename="x"), b"abc")
            await documents.put(ANN, "files", f"{name}/{number}", number)
            if number >= 5:
                await documents.delete(ANN, "files", f"{name}/{number - 5}")
                await files.delete(f"{name}/{number - 5}")
            number += 1
        return number

    users = [asyncio.create_task(use(name)) for name in "abcd"]
    mentioned = 0
    for round_ in range(12):
        target = tmp_path / f"{round_}.zip"
        await asyncio.to_thread(back_up, data / "chatcore.db", data, target)
        keys = set(documents_in(target, tmp_path / str(round_))) - {"k"}
        places = {f"plugins/disk/{files._place(key).relative_to(files.directory)}" for key in keys}
        assert {f"{place}/{name}" for place in places for name in ("data", "blob.json")} <= names_in(target)
        assert [check.state for check in verify(target)] == ["ok"] * 4
        mentioned += len(keys)
    over.set()
    written = sum(await asyncio.gather(*users))
    print(f"12 backups during {written} files put, {mentioned} mentioned in them")
    assert mentioned > 50


async def test_writers_do_not_wait_for_a_backup(database: Database, data: Path, tmp_path: Path) -> None:
    """A write takes as long as ever while some megabytes are copied, and the copy is of one moment."""
    documents = Documents(database)
    await asyncio.gather(*(documents.put(ANN, "large", str(number), "x" * 1_000_000) for number in range(15)))
    waits: list[float] = []
    began = time.perf_counter()
    backing_up = asyncio.create_task(asyncio.to_thread(back_up, data / "chatcore.db", data, tmp_path / "b.zip"))
    number = 0
    while not backing_up.done():
        started = time.perf_counter()
        await database.write(lambda n=number: _put_two(n))
        waits.append(time.perf_counter() - started)
        number += 1
    await backing_up
    whole = time.perf_counter() - began
    print(f"{len(waits)} writes during the backup of {whole:.1f} s, the slowest took {max(waits) * 1000:.0f} ms")
    assert len(waits) > 20
    assert max(waits) < max(1, whole / 2)
    stored = documents_in(tmp_path / "b.zip", tmp_path)
    assert {key[1:] for key in stored if key[0] == "a"} == {key[1:] for key in stored if key[0] == "b"}


def _put_two(number: int) -> None:
    from chatcore.database import tables

    for letter in "ab":
        tables.execute(
            "INSERT INTO document (owner, namespace, key, value, updated_at) VALUES ('ann', 'two', ?, '1', 0)",
            f"{letter}{number}",
        )


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_what_is_left_out(database: Database, data: Path, tmp_path: Path) -> None:
    """Keys, what a plugin can get again, what is being made or removed just now; and links, which are told."""
    plugins = data / "plugins"
    for name in (
        "disk/files/ab/cd/data", "disk/files/ab/draft-x/data", "disk/files/ab/waste-x/data", "disk/signing.key",
        "llama/CACHEDIR.TAG", "llama/model.gguf", "llama/more/model.gguf", "notes/cache/CACHEDIR.TAG",
        "notes/state.json", "notes/bad\nname",
    ):  # fmt: skip
        (plugins / name).parent.mkdir(parents=True, exist_ok=True)
        (plugins / name).write_text(name)
    (plugins / "notes/elsewhere").symlink_to(tmp_path)
    (plugins / "notes/other.txt").symlink_to(plugins / "notes/state.json")
    (data / "workers").mkdir()
    (data / "workers/1.lock").touch()
    written = back_up(data / "chatcore.db", data, tmp_path / "b.zip")
    assert names_in(tmp_path / "b.zip") == {"plugins/disk/files/ab/cd/data", "plugins/notes/state.json"}
    assert {path.name for path in written.left_out} == {"elsewhere", "other.txt", "bad\nname"}


def test_only_its_owner_reads_it(database: Database, data: Path, tmp_path: Path) -> None:
    """Everybody's conversations are in it."""
    back_up(data / "chatcore.db", data, tmp_path / "b.zip")
    assert (tmp_path / "b.zip").stat().st_mode & 0o777 == 0o600


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_existing_file_is_replaced_on_demand_only(database: Database, data: Path, tmp_path: Path) -> None:
    """Without `replace` it stays as it is; a directory always does."""
    target = tmp_path / "b.zip"
    target.write_text("precious")
    with pytest.raises(BackupError, match=r"b\.zip exists"):
        back_up(data / "chatcore.db", data, target)
    assert target.read_text() == "precious"
    back_up(data / "chatcore.db", data, target, replace=True)
    assert names_in(target) == set()
    with pytest.raises(BackupError, match="data exists"):
        back_up(data / "chatcore.db", data, data, replace=True)


@pytest.mark.parametrize(
    ("database_name", "target", "error", "told"),
    [
        ("chatcore.db", "no/where/b.zip", BackupError, "there is no directory"),
        ("none.db", "b.zip", DatabaseError, "there is no such file"),
        ("damaged.db", "b.zip", DatabaseError, "damaged"),
        ("chatcore.db", "b" * 300, BackupError, "File name too long"),
    ],
)
def test_what_cannot_be_backed_up(
    database: Database,
    data: Path,
    tmp_path: Path,
    database_name: str,
    target: str,
    error: type[ChatcoreError],
    told: str,
) -> None:
    """A database that is not there or damaged, a place that is not there: nothing is written."""
    (data / "damaged.db").write_bytes((data / "chatcore.db").read_bytes()[:8192])
    before = set(tmp_path.rglob("*"))
    with pytest.raises(error, match=told) as caught:
        back_up(data / database_name, data, tmp_path / target)
    assert caught.value.hint
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("large", ["database", "file"])
def test_a_full_disk_leaves_nothing(filled: Path, data: Path, tmp_path: Path, large: str) -> None:
    """Whether it is the database or a file that is too large: the cause is told, and a backup that was there stays."""
    if large == "database":
        with closing(sqlite3.connect(filled)) as connection:
            connection.execute("INSERT INTO document VALUES ('ann', 'n', 'large', zeroblob(3000000), 0)")
            connection.commit()
    else:
        (data / "plugins/p").mkdir(parents=True)
        (data / "plugins/p/large").write_bytes(bytes(3_000_000))
    (tmp_path / "b.zip").write_text("the last one")
    before = set(tmp_path.iterdir())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(BackupError, match="the disk is full") as caught:
            back_up(data / "chatcore.db", data, tmp_path / "b.zip", replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "free some space" in (caught.value.hint or "")
    assert set(tmp_path.iterdir()) == before
    assert (tmp_path / "b.zip").read_text() == "the last one"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_backup_that_is_broken_off(filled: Path, data: Path, tmp_path: Path, number: int) -> None:
    """The file that was there stays as it was. The user's own interruption leaves nothing, and the database can be
    written at once."""
    with closing(sqlite3.connect(filled)) as connection:
        for key in range(10):
            connection.execute("INSERT INTO document VALUES ('ann', 'n', ?, randomblob(1000000), 0)", [f"large {key}"])
        connection.commit()
    for _ in range(3):  # on a machine that is busy with something else the backup may be done before we see it
        (tmp_path / "b.zip").write_text("the last one")
        process = subprocess.Popen(
            [sys.executable, "-m", "chatcore", "backup", "b.zip", "--force"], cwd=tmp_path, stderr=subprocess.PIPE
        )
        while not list(tmp_path.glob(".b.zip-*/*")) and process.poll() is None:
            pass
        process.send_signal(number)
        _, told = process.communicate()
        if process.returncode != 0:
            break
    assert process.returncode != 0
    assert b"Traceback" not in told
    assert (tmp_path / "b.zip").read_text() == "the last one"
    assert number == signal.SIGKILL or not list(tmp_path.glob(".b.zip-*"))
    with closing(sqlite3.connect(filled, timeout=0)) as connection:
        connection.execute("BEGIN IMMEDIATE")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote(database: Database, data: Path, tmp_path: Path) -> None:
    """With the data of the configuration."""
    result = CliRunner().invoke(command, ["--data", str(data), "backup", str(tmp_path / "b.zip")])
    assert result.exit_code == 0, result.output
    assert "b.zip: the database and 0 files, " in result.output


@pytest.mark.slow
async def test_postgresql_is_backed_up_to_the_same_archive_and_comes_back(
    postgres_url: str, empty_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a server uses it; restored to a file, and copied to another server from there."""
    database = Database(postgres_url)
    await database.open()
    await Jobs(database).claim("clean_up", "a server", datetime.now(UTC) + timedelta(minutes=1))
    await Conversations(database).save(ANN, "c", title="Kept")
    monkeypatch.setenv("CHATCORE_DATABASE", postgres_url)
    archive, data = str(tmp_path / "b.zip"), tmp_path / "restored"
    for arguments in (["backup", archive], ["restore", "--verify", archive]):
        result = await asyncio.to_thread(CliRunner().invoke, command, ["--data", str(tmp_path / "data"), *arguments])
        assert result.exit_code == 0, result.output
    await database.close()
    monkeypatch.delenv("CHATCORE_DATABASE")
    result = await asyncio.to_thread(CliRunner().invoke, command, ["--data", str(data), "restore", archive])
    assert result.exit_code == 0, result.output
    copied = Database(str(data / "chatcore.db"))
    await copied.open()
    await Jobs(copied).release("a server")  # it was killed, as far as the copy can tell
    await copied.close()
    await asyncio.to_thread(copy, str(data / "chatcore.db"), empty_postgres_url, {})
    database = Database(empty_postgres_url)
    await database.open()
    assert (await Conversations(database).get(ANN, "c")).title == "Kept"
    await database.close()


def test_postgresql_that_cannot_be_reached_is_told_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left of the backup."""
    monkeypatch.setenv("CHATCORE_DATABASE", "postgresql://ann:secret@127.0.0.1:1/chat")
    target = tmp_path / "b.zip"
    error = CliRunner().invoke(command, ["--data", str(tmp_path / "data"), "backup", str(target)]).exception
    assert isinstance(error, DatabaseError)
    assert "cannot be reached" in str(error)
    assert "secret" not in f"{error}{error.hint}"
    assert not list(tmp_path.glob("*b.zip*"))
