"""What is known of the files of conversations (chatcore/database/attachments.py)."""

from datetime import UTC, datetime

import pytest

from chatcore.database import AttachmentRecord, Attachments, Conversations, Database
from chatcore.errors import NotFound
from chatcore.types import Principal


def record(name: str) -> AttachmentRecord:
    return AttachmentRecord(
        id=name,
        conversation_id="c",
        blob=f"c/{name}__image.png",
        media_type="image/png",
        filename="image.png",
        size=3,
        created_at=datetime.now(UTC),
    )


async def test_a_record_outlives_its_conversation(database: Database, ann: Principal) -> None:
    """Until its file was deleted: then it is nobody's, and comes back with the key of the file."""
    files, conversations = Attachments(database), Conversations(database)
    with pytest.raises(NotFound):
        await files.add(ann, record("a"))
    await conversations.save(ann, "c")
    first, second = record("a"), record("b")
    await files.add(ann, first)
    await files.add(ann, second)
    assert await files.find(ann, ["a", "b", "none"]) == {"a": first, "b": second}
    assert await files.orphans() == []
    await conversations.delete(ann, "c", even_saved=True)
    assert await files.find(ann, ["a", "b"]) == {}
    assert sorted(await files.orphans()) == [("a", first.blob), ("b", second.blob)]
    await files.forget(["a"])
    assert await files.orphans() == [("b", second.blob)]


@pytest.mark.slow
async def test_any_number_of_files_can_be_looked_for(database: Database, ann: Principal) -> None:
    """A message may name more than a statement has room for."""
    files = Attachments(database)
    await Conversations(database).save(ann, "c")
    await files.add(ann, record("a"))
    names = [*map(str, range(40_000)), "a", *map(str, range(40_000, 300_000))]
    assert list(await files.find(ann, names)) == ["a"]
