"""Database files that a server cannot use: it does not start, says what to do, and leaves them as they are."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from chatcore.app import create_app, opened
from chatcore.config import Config, Loaded
from chatcore.database import Conversations, Database, NewMessage
from chatcore.errors import DatabaseError
from chatcore.types import Message, Principal

ANN = Principal("ann")
PAGE = 4096


async def fill(path: Path) -> None:
    """Makes a database with some dozen pages."""
    database = Database(str(path))
    await database.open()
    conversations = Conversations(database)
    await conversations.save(ANN, "c", title="A title")
    parent = None
    for number in range(20):
        message = NewMessage(message=Message(role="user", content=f"{number} " + "word " * 200))
        [stored] = await conversations.add_answer(ANN, "c", parent, [message])
        parent = stored.id
    await database.close()


def flipped(*places: int) -> Callable[[Path], None]:
    """Turns the bits of some bytes."""

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        for place in places:
            content[place] ^= 0xFF
        path.write_bytes(content)

    return flip


def executed(statement: str) -> Callable[[Path], None]:
    def execute(path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(statement)
            connection.commit()

    return execute


def replaced(content: bytes) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.write_bytes(content)

    return replace


def foreign(path: Path) -> None:
    path.unlink()
    executed("CREATE TABLE bookmarks (url)")(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CASES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "magic": (flipped(3), "not a database", "put a backup in its place"),
    "page size": (flipped(16, 17), "not a database|damaged", "backup|recover"),
    "schema": (flipped(*range(100, 140)), "damaged", "recover"),
    "middle": (flipped(*range(5 * PAGE, 6 * PAGE)), "damaged", "recover"),
    "cut in a page": (lambda path: os.truncate(path, 10 * PAGE + 100), "damaged", "recover"),
    "cut short": (lambda path: os.truncate(path, 300), "damaged|not a database", "recover|backup"),
    "another program's": (foreign, "another program", "--data"),
    "picture": (replaced(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40), "not a database", "backup"),
    "newer": (
        executed("INSERT INTO chatcore_migrations (name, applied) VALUES ('0099_x', '2030-01-01')"),
        "newer version of chatcore",
        "upgrade chatcore",
    ),
    "directory": (directory, "cannot be opened", "see that"),
}
"""What is done to a sound file, what is said of it, and what of the remedy."""


@pytest.mark.parametrize("name", CASES)
async def test_a_file_that_no_server_can_use(tmp_path: Path, name: str) -> None:
    """Damaged in the header or further in, cut off, another program's, no database, of a newer version, a directory:
    the start is refused with the cause and a remedy; not a byte has changed and no file has come."""
    damage, cause, remedy = CASES[name]
    data = tmp_path / "data"
    await fill(data / "chatcore.db")
    damage(data / "chatcore.db")
    before = files(data)
    app = create_app(Loaded(config=Config(data=data)), discover=False)
    with pytest.raises(DatabaseError, match=cause) as caught:
        async with opened(app):
            pass
    assert str(data / "chatcore.db") in caught.value.message
    assert re.search(remedy, caught.value.hint or "")
    assert files(data) == before


@pytest.mark.parametrize("name", ["middle", "newer"])
async def test_what_a_user_sees_of_it(tmp_path: Path, name: str) -> None:
    """The process ends with exit code 1 and two lines for people."""
    await fill(tmp_path / "data" / "chatcore.db")
    CASES[name][0](tmp_path / "data" / "chatcore.db")
    before = files(tmp_path / "data")
    code, told = await serve(tmp_path / "data")
    assert (code, "Traceback" in told) == (1, False)
    assert re.search(f"^chatcore: .*chatcore.db.*{CASES[name][1]}.*\nhint: .*{CASES[name][2]}", told, re.DOTALL), told
    assert files(tmp_path / "data") == before


async def serve(data: Path) -> tuple[int | None, str]:
    """Starts a server that does not start; gives its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore", "serve", "--port", "0", "--data", str(data), "--disable", "llama",
        "--disable", "openrouter", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=data.parent,
    )  # fmt: skip
    try:
        async with asyncio.timeout(30):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        told, _ = await process.communicate()
    return process.returncode, told.decode()


def files(data: Path) -> dict[str, str]:
    """The hash of every file of a data directory; the directory of workers is the server's own."""
    return {
        path.name: sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in data.rglob("*")
        if path.name != "workers"
    }


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A data directory with a database, where nothing can be written."""
    data = tmp_path / "data"
    data.mkdir()
    asyncio.run(fill(data / "chatcore.db"))
    if os.geteuid() != 0:
        (data / "chatcore.db").chmod(0o400)
        data.chmod(0o500)
        yield data
        data.chmod(0o700)
        return
    bound = subprocess.run(["mount", "--bind", data, data], capture_output=True).returncode == 0
    if not bound:
        pytest.skip("permissions do not concern root, and nothing can be mounted here")
    subprocess.run(["mount", "-o", "remount,ro,bind", data], check=True)
    yield data
    subprocess.run(["umount", "--lazy", data], check=True)


def test_a_directory_that_cannot_be_written(read_only: Path) -> None:
    """The start ends with the cause and a remedy, and no traceback."""
    before = files(read_only)
    code, told = asyncio.run(serve(read_only))
    assert (code, "Traceback" in told) == (2, False)
    assert re.search(f"chatcore: {read_only}.*(read-only|denied).*\nhint: choose", told, re.IGNORECASE), told
    assert files(read_only) == before


def test_a_file_that_cannot_be_written() -> None:
    """Where only the database is not ours to write, the start is refused, not the first answer."""
    with TemporaryDirectory() as place:  # one that others may enter, unlike pytest's
        data, mine = Path(place), os.getresuid()
        asyncio.run(fill(data / "chatcore.db"))
        (data / "chatcore.db").chmod(0o444)
        data.chmod(0o777)
        before = files(data)
        if mine[1] == 0:
            os.setresuid(65534, 65534, 0)  # permissions do not concern root
        try:
            with pytest.raises(DatabaseError, match="the database is read-only") as caught:
                asyncio.run(Database(str(data / "chatcore.db")).open())
        finally:
            os.setresuid(*mine)
        assert caught.value.hint
        assert files(data) == before
