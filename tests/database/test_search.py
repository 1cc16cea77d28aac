"""The search over saved conversations."""

from collections.abc import Callable

import peewee
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore.database import Conversations, Database, NewMessage, NewRun, tables
from chatcore.types import Message, Principal


@pytest.fixture
def found(conversations: Conversations, ann: Principal) -> Callable[..., object]:
    """The ids of the conversations that Ann's search finds."""

    async def search(text: str) -> list[str]:
        return sorted(row.conversation.id for row in await conversations.list_saved(ann, search=text))

    return search


@pytest.fixture
async def library(
    conversations: Conversations,
    ann: Principal,
    bob: Principal,
    user: Callable[..., NewMessage],
    new_run: Callable[..., NewRun],
) -> None:
    """Conversations of Ann's, and one of Bob's."""

    async def fill(owner: Principal, name: str, title: str, *messages: NewMessage) -> None:
        begun = await conversations.begin(owner, conversation_id=name, messages=messages[:1], run=new_run())
        await conversations.add_answer(owner, name, begun.path[-1].id, messages[1:])
        await conversations.save(owner, name, title=title)

    def said(role: str, content: object) -> NewMessage:
        return NewMessage(message=Message(role=role, content=content))  # type: ignore[arg-type]

    await fill(
        ann, "trip", "Journey to Paris", user("How far is Heidelberg?"), said("assistant", "A café is 100% near.")
    )
    await fill(ann, "code", "snake_case", user("x < y AND z"), said("assistant", "Use parentheses: (a OR b)"))
    await fill(
        ann, "asia", "世界", user("Hello"), said("assistant", "我今天很高兴。ÜBER alles"), said("tool", "secret tool")
    )
    await fill(bob, "his", "Paris", user("Paris"))
    await conversations.begin(ann, conversation_id="unsaved", messages=[user("Paris")], run=new_run())


@pytest.mark.usefixtures("library")
async def test_what_is_found(found: Callable[..., object]) -> None:
    """Titles and first questions are found by any piece of them; every message by its words."""
    wanted = [
        ("paris", ["trip"]),  # the title, whatever the case
        ("EIDELBER", ["trip"]),  # within a word of the first question
        ("far is heid", ["trip"]),  # across words of it
        ("near cafe", ["trip"]),  # words of an answer in any order, without regard to accents
        ("Café", ["trip"]),
        ("paris journ", ["trip"]),  # the beginnings of words of the title
        ("parentheses", ["code"]),
        ("über", ["asia"]),
        ("高兴", ["asia"]),  # within an answer in a script without spaces
        ("世", ["asia"]),
        ("100%", ["trip"]),
        ("%", []),
        ("snake_case", ["code"]),
        ("e_c", ["code"]),
        ("eac", []),
        ("snake-case", ["code"]),
        ("AND", ["code"]),
        ("x < y", ["code"]),
        ("(a OR b)", ["code"]),
        ("near parentheses", []),  # no conversation has both
        ("secret", []),  # what a tool answered
        ("Hello", ["asia"]),
        (" ", ["code", "trip"]),
        ("?", ["trip"]),
    ]
    assert [(text, await found(text)) for text, _ in wanted] == wanted  # type: ignore[misc]


@pytest.mark.usefixtures("library")
async def test_nothing_has_a_special_meaning(found: Callable[..., object]) -> None:
    """No text makes the search fail."""
    texts = [
        *('"', '""', 'fox"', "a AND", "NEAR(", "NOT", "*", "^a", "text:a", "{", "-a", "a*b", "\\", "'", "()"),
        *("\0", "a\0b", "x" * 40_000, "a " * 5000, "\U0001f600", "ß" * 300),
    ]
    for text in texts:
        assert isinstance(await found(text), list)  # type: ignore[misc]


@pytest.mark.usefixtures("library")
async def test_index_follows_the_messages(
    found: Callable[..., object], conversations: Conversations, database: Database, ann: Principal
) -> None:
    """What is deleted, renamed or unsaved is found no more, and the index is sound after all of it."""
    assert await found("parentheses") == ["code"]  # type: ignore[misc]
    path = await conversations.path(ann, "code")
    await conversations.delete_message(ann, "code", str(path[-1].id))
    assert await found("parentheses") == []  # type: ignore[misc]
    await conversations.update(ann, "code", title="Renamed thing")
    assert (await found("snake"), await found("thing renamed")) == ([], ["code"])  # type: ignore[misc]
    await conversations.unsave(ann, "code")
    assert await found("renamed") == []  # type: ignore[misc]
    await conversations.delete(ann, "trip", even_saved=True)
    assert await found("heidelberg") == []  # type: ignore[misc]

    def check() -> None:
        for index in ("message_search", "conversation_search"):
            tables.execute(f"INSERT INTO {index} ({index}) VALUES ('integrity-check')")

    if await database.read(lambda: isinstance(tables.bound.obj, peewee.SqliteDatabase)):
        await database.write(check)


async def test_contract_is_kept(
    database: Database, conversations: Conversations, ann: Principal, user: Callable[..., NewMessage]
) -> None:
    """Every piece of a title or of a first question finds its conversation."""
    cases: list[tuple[str, str]] = []
    pieces = st.text(st.sampled_from("aB1 _%\\\"'*(-é世"), min_size=1, max_size=8)

    @settings(max_examples=60, deadline=None, database=None)
    @given(pieces, st.data())
    def collect(text: str, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(text) - 1))
        piece = text[start : data.draw(st.integers(start + 1, len(text)))]
        cases.append((text, piece.swapcase() if piece.isascii() else piece))

    collect()
    for number, (text, piece) in enumerate(cases):
        await conversations.save(ann, f"q{number}")
        await conversations.add_answer(ann, f"q{number}", None, [user(text)])
        if text.strip() == text:
            await conversations.save(ann, f"t{number}", title=text)
        names = {row.conversation.id for row in await conversations.list_saved(ann, limit=999, search=piece)}
        assert f"q{number}" in names
        assert text.strip() != text or f"t{number}" in names
