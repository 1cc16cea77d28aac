"""The tables: as the migrations make them, and what a column keeps."""

import asyncio
import threading
from typing import Any

import pytest
from playhouse.schema_diff import diff_models

from chatcore.database import Conversations, Database, Documents, tables
from chatcore.errors import RequestError
from chatcore.types import Principal


async def test_migrations_make_what_the_models_say(database: Database) -> None:
    """The migrated schema is that of `tables.py`."""
    models = [model for model in tables.Table.__subclasses__() if model.__module__ == tables.__name__]
    assert len(models) >= 12
    difference = await database.read(lambda: diff_models(tables.bound.obj, models))
    of_no_model = [index for index in difference.drop_indexes if not index.name.endswith("_search")]
    assert not difference._replace(drop_indexes=of_no_model), difference


def test_lists_have_few_lengths() -> None:
    """Each length makes a statement of its own, which the connection keeps. No value is lost, and none is new."""
    lists = [[str(n) for n in range(count)] for count in range(1, 1001)]
    padded = [tables.padded(values) for values in lists]
    assert [set(values) for values in padded] == [set(values) for values in lists]
    assert len({len(values) for values in padded}) == 11
    assert tables.padded([]) == []


@pytest.mark.parametrize(
    "value",
    [{"b": 1, "a": 2, "aa": 3}, 1.0, -0.0, 1e30, 1.5e300, 2**80, "a\0b", "\\u0000", '"x"', [], [None, True, {"": {}}]],
)
async def test_json_is_kept_as_it_was_written(documents: Documents, ann: Principal, value: Any) -> None:
    """The order of keys, the kind of a number and every character come back."""
    await documents.put(ann, "n", "k", value)
    read = await documents.get(ann, "n", "k")
    assert repr(read) == repr(value)


@pytest.mark.parametrize("text", ["", " ", "a\n", "😀é̀ e\u0301", "\\", "%s ? '", "\x01\x1f\x7f", "\ufeff\uffff"])
async def test_text_is_kept_as_it_was_written(conversations: Conversations, ann: Principal, text: str) -> None:
    """Every character comes back, whatever it means elsewhere."""
    await conversations.save(ann, f"id {text}", llm_settings={text: text})
    kept = await conversations.get(ann, f"id {text}")
    assert (kept.id, kept.llm_settings) == (f"id {text}", {text: text})


async def test_nul_is_refused_in_names(conversations: Conversations, documents: Documents, ann: Principal) -> None:
    """No name can have the character that PostgreSQL cannot keep, in no database."""
    for asked in (
        conversations.save(ann, "a\0b"),
        conversations.save(ann, "a", title="\0"),
        conversations.get(ann, "a\0b"),
        documents.put(ann, "n", "\0", 1),
        documents.get(Principal("a\0nn"), "n", "k"),
    ):
        with pytest.raises(RequestError, match="NUL") as caught:
            await asked
        assert caught.value.hint


async def test_nul_in_what_was_said(
    conversations: Conversations, database: Database, ann: Principal, user: Any, new_run: Any
) -> None:
    """A message is kept with all its characters; the search and the title show another one in the place of NUL."""
    begun = await conversations.begin(ann, conversation_id="c", messages=[user("a\0b c")], run=new_run())
    assert (await conversations.path(ann, "c"))[0].message.content == "a\0b c"
    assert begun.conversation.title == "a\ufffdb c"
    assert (await conversations.set_ai_title(ann, "c", "\0")).title == "\ufffd"
    await conversations.save(ann, "c")
    for text in ("a\0b", "\0", "b c"):
        [row] = await conversations.list_saved(ann, search=text)
        assert row.preview == "a\ufffdb c"
    assert await conversations.list_saved(ann, search="\0\0") == []


async def test_locked_rows_are_seen_as_they_were_left(database: Database, documents: Documents, ann: Principal) -> None:
    """A unit of work that waited for another one's rows goes on with what that one wrote."""
    await documents.put(ann, "n", "k", 0)
    started = threading.Barrier(2, timeout=10)

    def add(*, meet: bool) -> None:
        if meet and not started.broken and started.n_waiting < 2:
            started.wait()
        [(value,)] = tables.rows(tables.Document, tables.locked("SELECT value FROM document"))
        tables.Document.update(value=value + 1).execute()

    several = await database.read(lambda: bool(tables.bound.writers > 1))
    await asyncio.gather(*(database.write(lambda: add(meet=several)) for _ in range(2)))
    assert await documents.get(ann, "n", "k") == 2
