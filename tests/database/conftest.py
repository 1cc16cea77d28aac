"""What the tests of the database share: an open database, and short ways to make what goes into it."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from chatcore.database import Conversations, Database, Documents, NewMessage, NewRun, Runs
from chatcore.tools import ToolCall
from chatcore.types import Message, Principal


@pytest.fixture
def conversations(database: Database) -> Conversations:
    return Conversations(database)


@pytest.fixture
def runs(database: Database) -> Runs:
    return Runs(database)


@pytest.fixture
def documents(database: Database) -> Documents:
    return Documents(database)


@pytest.fixture
def ann() -> Principal:
    return Principal("ann")


@pytest.fixture
def bob() -> Principal:
    return Principal("bob")


@pytest.fixture
def new_run() -> Callable[..., NewRun]:
    """Makes runs with ids of their own."""
    numbers = count(1)

    def make(run_id: str | None = None, **fields: Any) -> NewRun:
        return NewRun(
            id=run_id or f"run{next(numbers)}",
            **{
                "worker": "here",
                "lease_until": datetime.now(UTC) + timedelta(seconds=15),
                "model": "echo",
                "format": "chat",
                **fields,
            },
        )

    return make


@pytest.fixture
def user() -> Callable[..., NewMessage]:
    """Makes messages of users."""

    def make(content: Any, **fields: Any) -> NewMessage:
        return NewMessage(message=Message(role="user", content=content), **fields)

    return make


@pytest.fixture
def answer() -> Callable[..., list[NewMessage]]:
    """Makes answers: the assistant's message, and a pending one for each tool that it asks for."""

    def make(content: str | None, *tools: str, **fields: Any) -> list[NewMessage]:
        calls = tuple(ToolCall(f"call_{name}", name, "{}") for name in tools)
        return [
            NewMessage(message=Message(role="assistant", content=content, tool_calls=calls), **fields),
            *(
                NewMessage(
                    message=Message(role="tool", content="unknown", tool_call_id=call.id),
                    state="pending",
                    tool_name=call.name,
                    run_id=fields.get("run_id"),
                    parent_client_message_id=fields.get("client_message_id"),
                )
                for call in calls
            ),
        ]

    return make
