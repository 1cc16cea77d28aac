"""What is known of the files that belong to conversations. The files themselves are in a blob store."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import partial

import attrs

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.errors import NotFound
from chatcore.types import Principal

_AT_ONCE = 100


@attrs.frozen(kw_only=True)
class AttachmentRecord:
    """A file of a conversation. `blob` is its key in the blob store."""

    id: str
    conversation_id: str
    blob: str
    media_type: str
    filename: str
    size: int
    created_at: datetime


@attrs.frozen
class Attachments:
    """The records in the database. One outlives its conversation until its file is deleted (`orphans`)."""

    database: Database

    async def add(self, principal: Principal, record: AttachmentRecord) -> None:
        """Notes a file, before it is stored: one that is not noted would never be deleted.

        Raises:
            NotFound: there is no such conversation.
        """
        await self.database.write(partial(_add, principal.id, record))

    async def find(self, principal: Principal, ids: Collection[str]) -> Mapping[str, AttachmentRecord]:
        """Those of the files that there are and that are the principal's, by id."""
        return await self.database.read(partial(_find, principal.id, ids))

    async def orphans(self) -> Sequence[tuple[str, str]]:
        """Some files, as (id, key in the blob store), whose conversation is gone: they are to be deleted."""
        return await self.database.read(_orphans)

    async def forget(self, ids: Collection[str]) -> None:
        """Drops the records of files that were deleted."""
        await self.database.write(partial(_forget, ids))


_FIELDS = [field.name for field in attrs.fields(AttachmentRecord) if field.name != "conversation_id"]


def _add(owner: str, record: AttachmentRecord) -> None:
    found = tables.execute(
        tables.locked('SELECT "key" FROM conversation WHERE owner = ? AND id = ?'), owner, record.conversation_id
    )
    if not found:
        raise NotFound("Conversation not found")
    values = {name: getattr(record, name) for name in _FIELDS}
    tables.Attachment.insert(conversation=found[0][0], **values).execute()


def _find(owner: str, ids: Collection[str]) -> Mapping[str, AttachmentRecord]:
    file, conversation = tables.Attachment, tables.Conversation
    query = (
        file.select(conversation.id, *(getattr(file, name) for name in _FIELDS))
        .join(conversation)
        .where((conversation.owner == owner) & file.id.in_(list(ids)))
    )
    records = [
        AttachmentRecord(conversation_id=session, **dict(zip(_FIELDS, row, strict=True)))
        for session, *row in tables.fetch(query)
    ]
    return {record.id: record for record in records}


def _orphans() -> Sequence[tuple[str, str]]:
    file = tables.Attachment
    return [
        (row_id, blob)
        for row_id, blob in tables.fetch(
            file.select(file.id, file.blob).where(file.conversation.is_null()).limit(_AT_ONCE)
        )
    ]


def _forget(ids: Collection[str]) -> None:
    tables.Attachment.delete().where(tables.Attachment.id.in_(list(ids))).execute()
