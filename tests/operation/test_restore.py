"""Backups, verified and put back."""

import asyncio
import resource
import sqlite3
import subprocess
import sys
import tempfile
import zipfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from chatcore.builtin.disk import DiskFiles
from chatcore.cli import command
from chatcore.database import Conversations, Database, NewMessage
from chatcore.errors import BackupError, ConfigError
from chatcore.operation.archive import Writer
from chatcore.operation.backup import back_up
from chatcore.operation.restore import Place, put_back, verify
from chatcore.protocols import Blob
from chatcore.types import Message, Principal
from chatcore.worker import Presence

ANN = Principal("ann")
BLOB = Blob(key="images/1", media_type="image/png", filename="1.png")


def place_in(directory: Path) -> Place:
    """Where a server has its data by default."""
    return Place(directory / "chatcore.db", directory)


def fill(place: Place, text: str) -> None:
    """Makes a conversation, a file, and a link to it."""
    asyncio.run(_fill(place, text))


async def _fill(place: Place, text: str) -> None:
    database, files = Database(str(place.database)), DiskFiles(place.plugins / "disk")
    await database.open()
    await Conversations(database).save(ANN, "c", title=text)
    await Conversations(database).add_answer(ANN, "c", None, [NewMessage(message=Message(role="user", content=text))])
    await database.close()
    await files.put(BLOB, text.encode())
    await files.url(BLOB.key, timedelta(days=1))


def told_in(place: Place) -> set[str]:
    """What a server finds there."""
    return asyncio.run(_told_in(place))


async def _told_in(place: Place) -> set[str]:
    database = Database(str(place.database))
    await database.open()
    [message] = await Conversations(database).path(ANN, "c")
    title = (await Conversations(database).get(ANN, "c")).title
    await database.close()
    return {str(message.message.content), str(title), (await DiskFiles(place.plugins / "disk").get(BLOB.key)).decode()}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup whose content says "saved"."""
    place = place_in(tmp_path / "source")
    fill(place, "saved")
    back_up(place.database, place.data, tmp_path / "backup.zip")
    return tmp_path / "backup.zip"


def tree(directory: Path) -> dict[Path, bytes | None]:
    """Every file of a directory with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


# --- verify -----------------------------------------------------------------------------------------------------------


def test_a_good_backup(backup: Path) -> None:
    """Every check is told with what it found."""
    checks = verify(backup)
    assert [(check.name, check.state) for check in checks] == [
        ("archive", "ok"),
        ("checksums", "ok"),
        ("database", "ok"),
        ("migrations", "ok"),
    ]
    assert all(check.found for check in checks)


def forged(directory: Path, database: Path) -> Path:
    """An archive as we write it, with another database."""
    path = directory / "forged.zip"
    with path.open("wb") as file, Writer.to(file) as writer:
        writer.add("chatcore.db", database)
        writer.finish(version="0.1.0", created_at="", migrations={})
    return path


@pytest.mark.parametrize(
    ("statement", "failing", "told"),
    [
        ("INSERT INTO chatcore_migrations (name, applied) VALUES ('0099_new', '2030-01-01')", "migrations", "0099_new"),
        ("DELETE FROM conversation", "database", "lack the conversation"),
        ("PRAGMA application_id = 7", "database", "another program"),
        ("DROP TABLE chatcore_migrations", "migrations", "no tables"),
    ],
)
def test_a_database_that_cannot_be_used(tmp_path: Path, statement: str, failing: str, told: str) -> None:
    """The check that fails is the last; it says why and what to do, and names the archive, not a file that is gone."""
    place = place_in(tmp_path / "source")
    fill(place, "saved")
    with closing(sqlite3.connect(place.database)) as connection:
        connection.execute(statement)
        connection.commit()
    last = verify(forged(tmp_path, place.database))[-1]
    assert (last.name, last.state) == (failing, "fail")
    assert told in last.found
    assert "forged.zip" in last.found
    assert last.remedy
    assert "chatcore-" not in last.found


def test_a_damaged_database(tmp_path: Path, backup: Path) -> None:
    """Also one whose checksum is right."""
    with zipfile.ZipFile(backup) as file:
        content = bytearray(file.read("chatcore.db"))
    content[8192:12288] = bytes(4096)
    (tmp_path / "damaged.db").write_bytes(content)
    last = verify(forged(tmp_path, tmp_path / "damaged.db"))[-1]
    assert (last.name, last.state) == ("database", "fail")
    assert "damaged" in last.found


def test_a_place_for_the_copy_that_is_not_there(tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as what it is."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    last = verify(backup)[-1]
    assert (last.name, last.state) == ("checksums", "fail")
    assert "nowhere" in last.found
    assert last.remedy


def test_verifying_writes_nothing(tmp_path: Path, backup: Path) -> None:
    """Neither beside the backup nor in the data directory, which need not be there. The exit code tells the result."""
    before = tree(tmp_path)
    runner = CliRunner()
    good = runner.invoke(command, ["--data", str(tmp_path / "nowhere"), "restore", "--verify", str(backup)])
    assert (good.exit_code, good.output.split()[:3]) == (0, ["CHECK", "STATE", "FOUND"])
    bad = runner.invoke(command, ["restore", "--verify", str(tmp_path / "source/chatcore.db")])
    assert bad.exit_code == 1
    assert "not a backup" in bad.output
    assert "remedy: use another backup" in bad.output
    assert tree(tmp_path) == before


# --- restore ----------------------------------------------------------------------------------------------------------


def test_into_an_empty_directory(tmp_path: Path, backup: Path) -> None:
    """Everything is there as it was; nothing else is."""
    place = place_in(tmp_path / "new" / "data")
    assert put_back(backup, place) == []
    assert told_in(place) == {"saved"}
    assert {path.name for path in place.data.iterdir()} == {"chatcore.db", "plugins", "workers"}
    assert not list((place.data / "workers").iterdir())


def test_what_was_there_is_kept(tmp_path: Path, backup: Path) -> None:
    """Under names that are given, complete: the database, keys and files. What a plugin can get again stays."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    (place.plugins / "llama").mkdir()
    (place.plugins / "llama/CACHEDIR.TAG").touch()
    with pytest.raises(BackupError, match="there is data already") as caught:
        put_back(backup, place)
    assert "--force" in (caught.value.hint or "")
    assert told_in(place) == {"old"}
    plugins, database = put_back(backup, place, replace=True)
    assert told_in(place) == {"saved"}
    assert (place.plugins / "llama/CACHEDIR.TAG").exists()
    (tmp_path / "kept").mkdir()
    plugins.rename(tmp_path / "kept/plugins")
    database.rename(tmp_path / "kept/chatcore.db")
    assert told_in(place_in(tmp_path / "kept")) == {"old"}
    assert (tmp_path / "kept/plugins/disk/signing.key").exists()


CRASH = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("UPDATE conversation SET title = 'late'")
connection.commit()
os._exit(1)
"""


def test_what_a_killed_server_left_in_the_log_is_kept(tmp_path: Path, backup: Path) -> None:
    """It belongs to the old database, and does not get into the new one."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    subprocess.run([sys.executable, "-c", CRASH, str(place.database)], check=False)
    assert (place.data / "chatcore.db-wal").stat().st_size > 0
    _, database = put_back(backup, place, replace=True)
    assert told_in(place) == {"saved"}
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT title FROM conversation").fetchall() == [("late",)]


def test_what_is_left_of_a_deleted_database(tmp_path: Path, backup: Path) -> None:
    """Its log does not get into the new one either."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    subprocess.run([sys.executable, "-c", CRASH, str(place.database)], check=False)
    place.database.unlink()
    put_back(backup, place, replace=True)
    assert told_in(place) == {"saved"}


def test_a_damaged_database_is_replaced_and_kept(tmp_path: Path, backup: Path) -> None:
    """It is what backups are for."""
    place = place_in(tmp_path / "data")
    place.data.mkdir()
    place.database.write_bytes(b"no database " * 1000)
    (place.data / "chatcore.db-wal").write_bytes(b"no log either")
    [kept] = put_back(backup, place, replace=True)
    assert told_in(place) == {"saved"}
    assert kept.read_bytes() == b"no database " * 1000
    assert kept.with_name(f"{kept.name}-wal").read_bytes() == b"no log either"


def test_a_database_elsewhere(tmp_path: Path, backup: Path) -> None:
    """It goes to where the configuration has it; a link stays a link."""
    (tmp_path / "disk2").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "disk2/real.db")
    arguments = ["--data", str(tmp_path / "data"), "restore", str(backup)]
    for _ in range(2):
        result = CliRunner().invoke(
            command, [*arguments, "--force"], env={"CHATCORE_DATABASE": str(tmp_path / "link.db")}
        )
        assert result.exit_code == 0, result.output
    assert (tmp_path / "link.db").is_symlink()
    assert told_in(Place(tmp_path / "disk2/real.db", tmp_path / "data")) == {"saved"}
    assert len(list((tmp_path / "disk2").iterdir())) == 2


def test_a_running_server_is_not_disturbed(tmp_path: Path, backup: Path) -> None:
    """As long as one runs on the data, restoring is refused, also with --force; so is a second one at the same time."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    presence = Presence(place.data / "workers")
    before = tree(tmp_path)
    result = CliRunner().invoke(command, ["--data", str(place.data), "restore", str(backup), "--force"])
    assert isinstance(result.exception, BackupError)
    assert "a server is running" in result.exception.message
    with pytest.raises(BackupError, match="a server is running"):
        put_back(backup, place, replace=True)
    assert tree(tmp_path) == before
    presence.leave()
    put_back(backup, place, replace=True)


def test_a_place_that_cannot_be_looked_at(tmp_path: Path, backup: Path) -> None:
    """What is in the way is told, without a traceback: here a name that no directory can have."""
    result = CliRunner().invoke(command, ["--data", str(tmp_path / ("d" * 300)), "restore", str(backup)])
    assert isinstance(result.exception, BackupError)
    assert "File name too long" in result.exception.message


def test_a_bad_backup_changes_nothing(tmp_path: Path, backup: Path) -> None:
    """It is verified first; and what is damaged in between is noticed while it is unpacked."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    backup.write_bytes(backup.read_bytes()[:-100])
    before = tree(place.data)
    result = CliRunner().invoke(command, ["--data", str(place.data), "restore", str(backup), "--force"])
    assert result.exit_code == 1
    assert "archive  fail" in result.output
    assert tree(place.data) == before
    with pytest.raises(BackupError):
        put_back(backup, place, replace=True)
    (place.data / "workers").rmdir()
    assert tree(place.data) == before


def test_a_failure_in_the_middle_is_undone(tmp_path: Path, backup: Path) -> None:
    """Here the database's place is taken by a directory, which shows last."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    place.database.unlink()
    (place.database / "in the way").mkdir(parents=True)
    before = {path: content for path, content in tree(place.data).items() if path.name != "workers"}
    with pytest.raises(BackupError, match=r"chatcore\.db"):
        put_back(backup, place, replace=True)
    after = tree(place.data)
    assert {path: after[path] for path in before} == before
    assert not list(place.data.glob("*restoring*"))


def test_a_disk_without_room(tmp_path: Path, backup: Path) -> None:
    """It is told before anything is unpacked: here of an archive that says it has a file of 10 TB."""
    path = tmp_path / "huge.zip"
    with zipfile.ZipFile(backup) as source, zipfile.ZipFile(path, "w") as copy:
        manifest = source.read("manifest.json").replace(
            b'"entries":[', b'"entries":[{"name":"plugins/x","size":%d,"sha256":""},' % 10**13
        )
        for info in source.infolist():
            copy.writestr(info, manifest if info.filename == "manifest.json" else source.read(info))
        copy.writestr("plugins/x", b"")
        copy.getinfo("plugins/x").file_size = 10**13
    place = place_in(tmp_path / "data")
    with pytest.raises(BackupError, match=r"GB free, and 10\.0 TB are to come"):
        put_back(path, place)
    assert {p.name for p in place.data.iterdir()} <= {"workers"}


def test_a_disk_that_runs_full(tmp_path: Path, backup: Path) -> None:
    """Nothing is left of the attempt, and what was there stays."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    before = tree(place.data)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limit[1]))
    try:
        with pytest.raises(BackupError, match="the disk is full"):
            put_back(backup, place, replace=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    (place.data / "workers").rmdir()
    assert tree(place.data) == before


RESTORE = """
import sys
from pathlib import Path
from chatcore.operation.restore import Place, put_back

backup, data = map(Path, sys.argv[1:])
print("ready", flush=True)
input()
put_back(backup, Place(data / "chatcore.db", data), replace=True)
"""


def test_a_restore_that_is_killed(tmp_path: Path, backup: Path) -> None:
    """Whenever that is, there is a whole database, the old or the new one, and doing it again works."""
    place = place_in(tmp_path / "data")
    fill(place, "old")
    titles = []
    for seen in ("restoring", "chatcore.db.restoring", "plugins.before-restore-*", "chatcore.db.before-restore-*"):
        known = set(place.data.glob(seen))
        process = subprocess.Popen(
            [sys.executable, "-c", RESTORE, str(backup), str(place.data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        process.stdin.write(b"\n")
        process.stdin.flush()
        while set(place.data.glob(seen)) <= known and process.poll() is None:
            pass
        process.kill()
        process.communicate()
        with closing(sqlite3.connect(place.database)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            titles += connection.execute("SELECT title FROM conversation").fetchone()
    print(f"killed when something new was there; after that the database was: {titles}")
    assert set(titles) <= {"old", "saved"}
    put_back(backup, place, replace=True)
    assert told_in(place) == {"saved"}


def test_a_backup_is_restored_to_postgresql_by_way_of_a_file(backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both commands are told, and the password is not."""
    monkeypatch.setenv("CHATCORE_DATABASE", "postgresql://ann:secret@localhost/chat")
    error = CliRunner().invoke(command, ["restore", str(backup)]).exception
    assert isinstance(error, ConfigError)
    assert "CHATCORE_DATABASE=data/chatcore.db chatcore restore" in (error.hint or "")
    assert "chatcore copy" in (error.hint or "")
    assert "secret" not in f"{error}{error.hint}"
