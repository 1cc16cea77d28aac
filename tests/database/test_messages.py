"""Messages as rows: what is stored comes back as it was."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore.database import Conversations, Database, NewMessage, messages, tables
from chatcore.tools import ToolCall
from chatcore.types import Message, Principal, StoredMessage

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(text, json_values, max_size=3)
several = st.lists(objects, max_size=2).map(tuple)
new_messages = st.builds(
    NewMessage,
    message=st.builds(
        Message,
        role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        content=st.none() | text | several,
        name=st.none() | text,
        tool_calls=st.lists(st.builds(ToolCall, text, text, text), max_size=2).map(tuple),
        tool_call_id=st.none() | text,
        reasoning=st.none() | text,
        reasoning_details=several,
        annotations=several,
        images=several,
        extra=objects,
    ),
    state=st.sampled_from(["complete", "partial", "pending"]),
    run_id=st.none() | names,
    client_message_id=st.none() | names,
    parent_client_message_id=st.none() | names,
    model=st.none() | text,
    provider=st.none() | text,
    finish_reason=st.none() | text,
    generation_id=st.none() | text,
    usage=st.none() | objects,
    routing=st.none() | objects,
    tool_name=st.none() | text,
    is_error=st.booleans(),
    metadata=objects,
)


def test_new_messages_and_stored_ones_have_the_same_fields() -> None:
    """`NewMessage` has what `StoredMessage` has but for what the database gives it."""
    given_by_database = {"id", "conversation_id", "parent_id", "created_at"}
    names = {field.name for field in attrs.fields(NewMessage)}
    assert names == {field.name for field in attrs.fields(StoredMessage)} - given_by_database


@cache
def batches() -> list[list[NewMessage]]:
    """Messages with anything in them."""
    collected: list[list[NewMessage]] = []

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.lists(new_messages, min_size=3, max_size=6))
    def collect(batch: list[NewMessage]) -> None:
        collected.append(batch)

    collect()
    return collected


async def test_messages_come_back_as_they_were(conversations: Conversations, ann: Principal) -> None:
    """Every field of every message is read as it was stored, to the last empty text."""
    await conversations.save(ann, "c")
    for batch in batches():
        stored = await conversations.add_answer(ann, "c", None, batch)
        assert await conversations.path(ann, "c", stored[-1].id) == stored
        fields = [attrs.asdict(message, recurse=False) for message in batch]
        assert [{name: getattr(row, name) for name in fields[0]} for row in stored] == fields


async def test_plain_message_has_no_json(
    database: Database, conversations: Conversations, ann: Principal, user: Callable[..., NewMessage]
) -> None:
    """Text is kept as text, where the search finds it; JSON is written for what goes beyond it only."""
    await conversations.save(ann, "c")
    parts = (
        {"type": "text", "text": "what is"},
        {"type": "image_url", "image_url": {}},
        {"type": "text", "text": "this?"},
    )
    await conversations.add_answer(ann, "c", None, [user("Hello"), user(parts), user("", client_message_id="x")])
    stored = tables.Message.select(tables.Message.text, tables.Message.body).order_by(tables.Message.id)
    assert await database.read(lambda: tables.fetch(stored)) == [
        ("Hello", None),
        ("what is\nthis?", {"message": {"content": list(parts)}}),
        ("", None),
    ]


async def test_times_are_exact(database: Database) -> None:
    """A time is stored as microseconds, with its zone taken into account."""
    moment = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)

    def work() -> Any:
        tables.Document.insert(owner="a", namespace="n", key="k", value=1, updated_at=moment).execute()
        return tables.execute("SELECT updated_at FROM document"), tables.Document.get().updated_at

    stored, read = await database.write(work)
    assert (stored, read) == ([(1772600767890123,)], moment)
    assert messages.NewMessage is NewMessage
