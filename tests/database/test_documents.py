"""JSON documents."""

import asyncio
from typing import Any

import pytest

from chatcore.database import Database, Documents, RecentDocuments
from chatcore.errors import NotFound
from chatcore.types import Principal


@pytest.mark.parametrize("value", [None, 0, "", [], {}, {"a": [1, 2.5, None, True, "ü"]}, 10**30, "x" * 100_000])
async def test_document_comes_back(documents: Documents, ann: Principal, value: Any) -> None:
    """Any JSON is kept as it is."""
    await documents.put(ann, "n", "k", value)
    assert await documents.get(ann, "n", "k") == value
    assert await documents.list(ann, "n") == {"k": value}


async def test_documents_have_their_places(documents: Documents, ann: Principal, bob: Principal) -> None:
    """Owner, namespace and key tell documents apart; a second one takes the place of the first."""
    for owner in (ann, bob):
        for namespace in ("m", "n"):
            for key in ("b", "a", ""):
                await documents.put(owner, namespace, key, "first")
                await documents.put(owner, namespace, key, [owner.id, namespace, key])
    assert list((await documents.list(ann, "n")).items()) == [(key, ["ann", "n", key]) for key in ("", "a", "b")]
    assert await documents.delete(ann, "n", "a")
    assert not await documents.delete(ann, "n", "a")
    assert await documents.get(ann, "n", "a") is None
    assert await documents.get(bob, "n", "a") == ["bob", "n", "a"]


async def test_changing_a_document(documents: Documents, ann: Principal) -> None:
    """A change sees the latest document, and nobody comes between; one that fails changes nothing."""
    await asyncio.gather(*(documents.update(ann, "n", "k", lambda old: [*(old or []), "x"]) for _ in range(50)))
    assert await documents.get(ann, "n", "k") == ["x"] * 50

    def refuse(document: Any) -> Any:
        document.clear()
        raise NotFound("no such preset")

    with pytest.raises(NotFound, match="no such preset"):
        await documents.update(ann, "n", "k", refuse)
    assert await documents.get(ann, "n", "k") == ["x"] * 50


@pytest.mark.parametrize("value", [object(), {1, 2}.__iter__()])
async def test_value_that_is_not_json(documents: Documents, ann: Principal, value: Any) -> None:
    """A value that JSON cannot hold is its author's mistake, and is not stored."""
    with pytest.raises(TypeError):
        await documents.put(ann, "n", "k", value)
    assert await documents.get(ann, "n", "k") is None


async def test_recent_documents(database: Database, documents: Documents, ann: Principal, bob: Principal) -> None:
    """What was read a moment ago is not read again; what is changed through the same handle is known at once."""
    recent = RecentDocuments(documents)
    assert await recent.get(ann, "n", "k") is None
    await documents.put(ann, "n", "k", "behind its back")
    assert await recent.get(ann, "n", "k") is None
    assert await recent.get(bob, "n", "k") is None
    assert await recent.update(ann, "n", "k", lambda old: [old]) == ["behind its back"]
    assert await recent.get(ann, "n", "k") == ["behind its back"]
    assert await recent.delete(ann, "n", "k")
    assert await recent.get(ann, "n", "k") is None


async def test_what_was_read_before_a_change_is_not_kept(documents: Documents, ann: Principal) -> None:
    """A reader that began before it may end after it: who asks then gets what there is now."""
    read, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Documents):
        async def get(self, principal: Principal, namespace: str, key: str) -> Any:
            value = await super().get(principal, namespace, key)
            read.set()
            await go_on.wait()
            return value

    recent = RecentDocuments(Slow(documents.database))
    reading = asyncio.create_task(recent.get(ann, "n", "k"))
    await read.wait()
    await recent.update(ann, "n", "k", lambda _: "new")
    go_on.set()
    assert await reading is None
    assert await recent.get(ann, "n", "k") == "new"
