"""Whatever statement of an operation fails, and wherever in it: all of it is stored, or nothing."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from chatcore.database import Conversations, Database, Documents, LogRow, NewMessage, NewRun, Runs, tables
from chatcore.errors import DatabaseError
from chatcore.types import Principal

T = TypeVar("T")


class FailingDatabase(Database):
    """A database whose units of work fail at a given place, inside SQLite."""

    fault: Callable[[sqlite3.Connection], None] | None = None

    async def write(self, work: Callable[[], T]) -> T:
        fault, self.fault = self.fault, None

        def run() -> T:
            connection: sqlite3.Connection = tables.bound.connection()
            if fault is not None:
                fault(connection)
            try:
                return work()
            finally:
                connection.set_authorizer(None)
                connection.set_progress_handler(None, 0)

        return await super().write(run)


def refuse_access(number: int) -> Callable[[sqlite3.Connection], None]:
    """Refuses the n-th access to a column or table: the statement that wants it fails before it has done anything."""

    def fault(connection: sqlite3.Connection) -> None:
        accesses = count(1)
        connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY if next(accesses) == number else sqlite3.SQLITE_OK)

    return fault


def interrupt(number: int) -> Callable[[sqlite3.Connection], None]:
    """Interrupts after so many steps of SQLite's machine: in the middle of a statement, whose half is done."""

    def fault(connection: sqlite3.Connection) -> None:
        steps = count(1)
        connection.set_progress_handler(lambda: next(steps) >= number, 5)

    return fault


@pytest_asyncio.fixture
async def failing(tmp_path: Path) -> AsyncIterator[FailingDatabase]:
    """An open database that can fail."""
    database = FailingDatabase(str(tmp_path / "chatcore.db"))
    await database.open()
    yield database
    await database.close()


Operation = Callable[[Database], Awaitable[Any]]


@pytest.fixture
def operations(
    ann: Principal,
    user: Callable[..., NewMessage],
    answer: Callable[..., list[NewMessage]],
    new_run: Callable[..., NewRun],
) -> dict[str, Operation]:
    """The operations that change several rows, each with its own prepared place."""
    return {
        "begin": lambda database: Conversations(database).begin(
            ann, conversation_id="c", messages=[user("One"), user("Two")], run=new_run()
        ),
        "begin new": lambda database: Conversations(database).begin(
            ann, conversation_id=None, messages=[user("One")], run=new_run()
        ),
        "add_answer": lambda database: Conversations(database).add_answer(ann, "c", 1, answer("1", "look", "touch")),
        "finish_tool": lambda database: Conversations(database).finish_tool(
            ann, 3, "seen", is_error=False, metadata={}
        ),
        "recover_answer": lambda database: Conversations(database).recover_answer(
            ann, "c", "r", 1, answer("2", run_id="r"), told=[2]
        ),
        "delete_message": lambda database: Conversations(database).delete_message(ann, "c", "2"),
        "delete": lambda database: Conversations(database).delete(ann, "c", even_saved=True),
        "save": lambda database: Conversations(database).save(ann, "new", title="Mine", llm_settings={}),
        "settle": lambda database: Runs(database).settle("here", [LogRow("r", 3, 3, b"x"), LogRow("r", 4, 4, b"x")]),
        "finish": lambda database: Runs(database).finish("r", "completed", "stop", 4, [LogRow("r", 3, 4, b"x")]),
        "update": lambda database: Documents(database).update(ann, "n", "k", lambda old: [old]),
    }


@pytest.mark.parametrize("fault", [refuse_access, interrupt])
@pytest.mark.parametrize(
    "name",
    ["begin", "begin new", "add_answer", "finish_tool", "recover_answer", "delete_message", "delete", "save", "settle",
     "finish", "update"],
)  # fmt: skip
async def test_all_or_nothing(
    failing: FailingDatabase,
    operations: dict[str, Operation],
    ann: Principal,
    user: Callable[..., NewMessage],
    answer: Callable[..., list[NewMessage]],
    new_run: Callable[..., NewRun],
    name: str,
    fault: Callable[[int], Callable[[sqlite3.Connection], None]],
) -> None:
    """An operation that fails at its n-th step leaves the database as it was, for every n; without a fault it works."""
    conversations = Conversations(failing)
    await conversations.begin(ann, conversation_id="c", messages=[user("Hello")], run=new_run("r"))
    stored = await conversations.add_answer(ann, "c", 1, answer("1", "look", "touch", run_id="r"))
    await conversations.add_answer(ann, "c", stored[-1].id, [user("More")])
    await Runs(failing).settle("here", [LogRow("r", 1, 2, b"x")])
    await Runs(failing).journal("here", [LogRow("r", 3, 4, b"x")])
    await Documents(failing).put(ann, "n", "k", 1)
    before = await _everything(failing)
    for number in count(1):
        failing.fault = fault(number)
        try:
            await operations[name](failing)
        except DatabaseError:
            assert await _everything(failing) == before, f"step {number} of {name}"
        else:
            break
    assert number > 3
    assert await _everything(failing) != before
    assert await failing.read(lambda: tables.bound.pragma("integrity_check")) == "ok"


async def _everything(database: Database) -> list[Any]:
    names = ["conversation", "message", "run", "run_log", "run_journal", "document", "message_search_data"]
    return await database.read(lambda: [tables.execute(f"SELECT * FROM {name}") for name in names])
