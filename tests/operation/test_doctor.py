"""`chatcore doctor`, on machines that are well and on others."""

import asyncio
import json
import os
import re
import resource
import socket
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner

from chatcore.cli import command
from chatcore.database import Database
from chatcore.database.examine import history

SETTINGS = ("CHATCORE_", "OPENROUTER_", "HOST", "PORT", "MODEL_NAME", "TITLE_MODEL", "CHAT_DATABASE")
StartServer = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty directory, without anybody's settings, for a port that is free."""
    for name in os.environ:
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("CHATCORE_PORT", str(free.getsockname()[1]))
    return tmp_path


@attrs.frozen
class Row:
    """A row of the report."""

    state: str
    found: str
    remedy: str


def doctor(*arguments: str, code: int = 0) -> dict[str, Row]:
    """Calls the doctor, who changes nothing, and gives the rows by name, of several the worst."""
    before = files()
    result = CliRunner().invoke(command, ["doctor", "--json", *arguments])
    assert result.exit_code == code, result.output
    assert files() == before
    rows: dict[str, Row] = {}
    for row in sorted(json.loads(result.output), key=lambda row: ["ok", "warn", "fail"].index(row["state"])):
        name = row.pop("name")
        rows[name] = Row(**row)
    assert all(row.remedy for row in rows.values() if row.state != "ok")
    return rows


def files() -> dict[Path, bytes | None]:
    """Everything here but the memory that connections to a database share, and what Python keeps of a module."""
    passing = ("-shm", "__pycache__", ".pyc")
    there = (path for path in Path.cwd().rglob("*") if not path.name.endswith(passing))
    return {path: path.read_bytes() if path.is_file() else None for path in there}


@pytest.fixture
async def database(directory: Path) -> Path:
    """A database, closed."""
    database = Database("data/chatcore.db")
    await database.open()
    await database.close()
    return directory / "data" / "chatcore.db"


# --- all is well ------------------------------------------------------------------------------------------------------


def test_a_new_installation_is_well() -> None:
    """Nothing fails before the first start; what would make it better is a warning."""
    rows = doctor()
    assert {name for name, row in rows.items() if row.state == "fail"} == set()
    assert set(rows) >= {"configuration", "address", "data", "disk", "server", "database", "plugins", "files", "clock",
                         "event loop", "versions"}  # fmt: skip
    assert rows["data"].found == "data, to be made at the first start"
    assert rows["database"].found == "data/chatcore.db, to be made at the first start"
    assert rows["openrouter"] == Row("warn", "off", rows["openrouter"].remedy)
    assert "set OPENROUTER_API_KEY" in rows["openrouter"].remedy
    assert re.search(r"chatcore 0\..*Python 3\..*SQLite 3\..*quart 0\.", rows["versions"].found)


def test_the_report_for_people() -> None:
    """A table, with the remedies below what they are for."""
    result = CliRunner().invoke(command, ["doctor", "--config", "none.toml"])
    assert result.exit_code == 1
    assert re.search(
        r"^configuration +fail +none\.toml: there is no such file\n +remedy: check --config$", result.output, re.M
    )
    assert "remedy" in CliRunner().invoke(command, ["doctor"]).output


def test_where_the_configuration_comes_from(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its sources are named."""
    monkeypatch.setenv("CHATCORE_HOPS", "3")
    (directory / ".env").write_text("CHATCORE_COST=1\n")
    (directory / "chatcore.toml").write_text("[plugins.openrouter]\napi_key = 'hidden'\n")
    rows = doctor("--data", "kept")
    for source in ("--data", "environment CHATCORE_HOPS", ".env CHATCORE_COST", "chatcore.toml"):
        assert source in rows["configuration"].found
    assert "openrouter" not in rows
    assert "hidden" not in str(rows)


async def test_a_running_server_is_well(start_server: StartServer, directory: Path) -> None:
    """It is found at its address and by its data, and goes on."""
    port = os.environ["CHATCORE_PORT"]
    await start_server("--port", port, "--disable", "llama")
    rows = await asyncio.to_thread(doctor, "--disable", "llama")
    assert rows["address"] == Row("ok", f"a chatcore answers at http://127.0.0.1:{port}", "")
    assert "runs on this data" in rows["server"].found
    assert re.search(r"sound; log \d+\.\d kB", rows["database"].found)
    assert rows["migrations"].found == f"up to {history()[-1]}"


# --- the configuration ------------------------------------------------------------------------------------------------


def test_a_wrong_configuration(directory: Path) -> None:
    """Everything that is wrong is told at once, and what does not depend on it is looked at."""
    (directory / "chatcore.toml").write_text("prot = 1\nworkers = 'two'\ntimezone = 'Europe/Nowhere'\n")
    rows = doctor(code=1)
    for problem in ("did you mean 'port'?", "workers", "Europe/Nowhere"):
        assert problem in rows["configuration"].found
    assert set(rows) == {"configuration", "clock", "event loop", "versions"}


def test_what_the_configuration_says_of_plugins_that_are_not_there(directory: Path) -> None:
    """A slip of the pen is told with what was meant; a store for files that is not there stops the start."""
    (directory / "chatcore.toml").write_text("blob_store = 'cloud'\n[plugins.opnrouter]\nx = 1\n")
    rows = doctor(code=1)
    assert "did you mean 'openrouter'?" in rows["plugins"].found
    assert rows["blob store"].remedy == "set blob_store to one of: disk"


@pytest.mark.parametrize("name", ["default_model", "default_provider"])
def test_a_default_that_nobody_serves(directory: Path, name: str) -> None:
    """Who names no model would be told so, with each question."""
    (directory / "chatcore.toml").write_text(f"{name} = 'openruter'\ndisable = ['llama']\n")
    row = doctor()["default model"]
    assert (row.state, "openruter" in row.found, bool(row.remedy)) == ("warn", True, True)
    (directory / "chatcore.toml").write_text(f"{name} = 'echo'\ndisable = ['llama']\n")
    assert "default model" not in doctor()


def test_plugins_that_fail(directory: Path) -> None:
    """Each with its cause and a way out. With `strict`, one that is off fails, too."""
    (directory / "own").mkdir()
    (directory / "own" / "broken.py").write_text("1 / 0")
    rows = doctor("--plugins-dir", "own", code=1)
    assert "ZeroDivisionError" in rows["broken"].found
    assert 'disable = ["broken"]' in rows["broken"].remedy
    (directory / "chatcore.toml").write_text("strict = true\n")
    assert doctor(code=1)["openrouter"].state == "fail"
    assert "not a directory" in doctor("--plugins-dir", "nowhere", code=1)["plugins"].found


# --- the address ------------------------------------------------------------------------------------------------------


ACCOUNT_PLUGIN = """
from chatcore import NoSettings, Plugin, hookimpl
from chatcore.protocols import Account, OAuth


class Mail(Plugin[NoSettings]):
    @hookimpl
    def register_accounts(self):
        url = "https://mail.example"
        yield Account(name="mail", title="Mail", sign_in=OAuth(authorize_url=url, token_url=url, client_id="c"))
"""


def test_accounts_need_an_address_to_come_back_to(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine it is known; anywhere else it has to be said."""
    (directory / "own").mkdir()
    (directory / "own" / "mail.py").write_text(ACCOUNT_PLUGIN)
    port = os.environ["CHATCORE_PORT"]
    assert doctor("--plugins-dir=own")["accounts"].found == (
        f"mail; services send browsers to http://127.0.0.1:{port}/api/accounts/callback"
    )
    monkeypatch.setenv("CHATCORE_HOST", "0.0.0.0")
    row = doctor("--plugins-dir=own")["accounts"]
    assert (row.state, "set public_url" in row.remedy) == ("warn", True)
    monkeypatch.setenv("CHATCORE_PUBLIC_URL", "https://chat.example.com/base/")
    assert doctor("--plugins-dir=own")["accounts"].found.endswith(
        " https://chat.example.com/base/api/accounts/callback"
    )


def test_an_account_with_an_address_of_its_own_needs_no_other(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes back to chatcore's own page."""
    (directory / "own").mkdir()
    elsewhere = ACCOUNT_PLUGIN.replace('client_id="c"', 'client_id="c", redirect_uri="https://there.example"')
    (directory / "own" / "mail.py").write_text(elsewhere)
    monkeypatch.setenv("CHATCORE_HOST", "0.0.0.0")
    row = doctor("--plugins-dir=own")["accounts"]
    assert (row.state, row.found) == ("ok", "mail")


def test_a_key_that_others_can_read(directory: Path) -> None:
    """Such as after a copy."""
    (directory / "data").mkdir()
    key = directory / "data" / "accounts.key"
    key.write_text("x")
    key.chmod(0o640)
    assert doctor()["account key"].remedy == "chmod 600 data/accounts.key"
    key.chmod(0o600)
    assert "account key" not in doctor()


def test_an_address_that_is_taken() -> None:
    """By another program, which does not answer as chatcore does."""
    with socket.create_server(("127.0.0.1", int(os.environ["CHATCORE_PORT"]))):
        row = doctor(code=1)["address"]
    assert "in use" in row.found
    assert "--port" in row.remedy


def test_an_address_that_is_not_ours(directory: Path) -> None:
    """One of another machine."""
    (directory / "chatcore.toml").write_text("host = '192.0.2.1'\n")
    assert "cannot listen on 192.0.2.1" in doctor(code=1)["address"].found


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_database_that_cannot_be_used(database: Path) -> None:
    """A damaged one, another program's, none at all, one from the future: each with its remedy."""
    sound = database.read_bytes()
    database.write_bytes(sound[:8192])
    row = doctor(code=1)["database"]
    assert "damaged" in row.found
    assert ".recover" in row.remedy
    database.write_bytes(b"Dear diary, " * 1000)
    assert "not a database" in doctor(code=1)["database"].found
    database.unlink()
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    assert "another program" in doctor(code=1)["database"].found
    database.write_bytes(sound)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("INSERT INTO chatcore_migrations (name, applied) VALUES ('0099_new', '2030-01-01')")
        connection.commit()
    row = doctor(code=1)["migrations"]
    assert (row.found, row.remedy) == ("0099_new: of a newer version of chatcore", "upgrade chatcore")


def test_migrations_that_are_due(database: Path) -> None:
    """They are told, and not run."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DELETE FROM chatcore_migrations")
        connection.commit()
    row = doctor()["migrations"]
    assert row.state == "ok"
    assert row.found == f"{', '.join(history())} to be run at the next start"


def test_a_database_of_postgresql(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version, its migrations, and how far the clocks are apart; one that cannot be reached fails, and a password
    is not told."""
    monkeypatch.setenv("CHATCORE_DATABASE", postgres_url)
    rows = doctor()
    assert re.search(r"PostgreSQL \d+\.\d+, postgresql://.*, \d+\.\d MB", rows["database"].found)
    assert rows["migrations"].found == f"up to {history()[-1]}"
    assert re.search(r"0\.\d s (ahead of|behind)", rows["clocks"].found)
    monkeypatch.setenv("CHATCORE_DATABASE", "postgresql://ann:secret@127.0.0.1:1/chat")
    row = doctor(code=1)["database"]
    assert "cannot be reached" in row.found
    assert "secret" not in str(row)


def test_a_data_directory_that_is_none(directory: Path) -> None:
    """A file in its place, or in that of one above it."""
    (directory / "data").write_text("")
    row = doctor(code=1)["data"]
    assert "data is no directory that this user may write" in row.found
    assert "--data" in row.remedy
    assert doctor("--data", "data/deep/below", code=1)["data"].state == "fail"


def test_a_data_directory_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told without trying to write."""
    monkeypatch.chdir("/")
    mine = os.getresuid()
    if mine[1] == 0:
        os.setresuid(65534, 65534, 0)  # permissions do not concern root
    try:
        result = CliRunner().invoke(command, ["doctor", "--data", "/usr/lib"])
    finally:
        os.setresuid(*mine)
    assert result.exit_code == 1
    assert "/usr/lib is no directory that this user may write" in result.output


# --- the machine ------------------------------------------------------------------------------------------------------


def test_too_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer than the streams need that the configuration allows."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 1024))
    row = doctor()["files"]
    assert row.state == "warn"
    assert row.found == "1024 may be open; 2000 streams need 4100"
    assert "ulimit -n 4100" in row.remedy
