"""What is known of the files that belong to conversations. The files themselves are in a blob store."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

import attrs

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.repository import reads, writes
from chatcore.errors import NotFound
from chatcore.types import Principal

_AT_ONCE = 100
_ASKED_AT_ONCE = 1000  # a statement has room for some ten thousand parameters


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


_COLUMNS = tables.columns(AttachmentRecord, tables.Attachment, conversation_id=tables.Conversation.id)


@attrs.frozen
class Attachments:
    """The records in the database. One outlives its conversation until its file is deleted (`orphans`)."""

    database: Database

    @writes
    def add(self, principal: Principal, record: AttachmentRecord) -> None:
        """Notes a file, before it is stored: one that is not noted would never be deleted.

        Raises:
            NotFound: there is no such conversation.
        """
        wanted = tables.locked('SELECT "key" FROM conversation WHERE owner = ? AND id = ?')
        found = tables.execute(wanted, principal.id, record.conversation_id)
        if not found:
            raise NotFound("Conversation not found")
        tables.insert(tables.Attachment, record, _COLUMNS, conversation=found[0][0])
        tables.execute('UPDATE conversation SET size = size + ? WHERE "key" = ?', record.size // 3 * 4, found[0][0])

    @reads
    def find(self, principal: Principal, ids: Collection[str]) -> Mapping[str, AttachmentRecord]:
        """Those of the files that there are and that are the principal's, by id."""
        file, conversation = tables.Attachment, tables.Conversation
        mine = file.select(*_COLUMNS.values()).join(conversation).where(conversation.owner == principal.id)
        wanted, found = list(ids), []
        for start in range(0, len(wanted), _ASKED_AT_ONCE):
            some = mine.where(file.id.in_(wanted[start : start + _ASKED_AT_ONCE]))
            found += tables.records(AttachmentRecord, some)
        return {record.id: record for record in found}

    @reads
    def orphans(self) -> Sequence[tuple[str, str]]:
        """Some files, as (id, key in the blob store), whose conversation is gone: they are to be deleted."""
        file = tables.Attachment
        return tables.fetch(file.select(file.id, file.blob).where(file.conversation.is_null()).limit(_AT_ONCE))

    @writes
    def forget(self, ids: Collection[str]) -> None:
        """Drops the records of files that were deleted."""
        tables.Attachment.delete().where(tables.Attachment.id.in_(list(ids))).execute()
