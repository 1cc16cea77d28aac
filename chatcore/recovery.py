"""Recovery: what becomes of the runs of a worker that did not live to end them."""

import logging
from collections.abc import Sequence

from chatcore import eventlog, wire
from chatcore.answer import Answer
from chatcore.database import Conversations, Database, LogRow, NewMessage, RunRecord
from chatcore.database import Runs as RunTable
from chatcore.stop import SERVER_STOPPED
from chatcore.toolcalls import UNKNOWN_OUTCOME
from chatcore.turn import Origin, answer_messages
from chatcore.types import Event, MessageStored, Principal, RunEnded

logger = logging.getLogger(__name__)


async def close_abandoned(database: Database, record: RunRecord) -> None:
    """Keeps the text that the log has of a broken-off run, marked, and ends the run as incomplete."""
    table, conversations = RunTable(database), Conversations(database)
    owner = Principal(record.owner)
    rows = await table.log(owner, record.id, 0)
    events = [event for row in rows for event in eventlog.unpack(row.data)]
    ended = events[-1] if events and isinstance(events[-1], RunEnded) else None
    if ended is None:
        ended = RunEnded("incomplete", SERVER_STOPPED)
        told = [event.message.id for event in events if isinstance(event, MessageStored)]
        stored = await conversations.recover_answer(
            owner, record.conversation_id, record.id, record.question, _unfinished(record, events), told=told
        )
        rest: list[Event] = [*(MessageStored(message) for message in stored[:1]), ended]
        last = rows[-1].last if rows else 0
        rows = [*rows, LogRow(record.id, last + 1, last + len(rest), eventlog.pack(rest))]
        events += rest
        logger.warning("run %s was broken off by the end of its server; its text is kept", record.id)
    await table.finish(record.id, ended.state, ended.reason, len(events), rows)


def _unfinished(record: RunRecord, events: Sequence[Event]) -> list[NewMessage]:
    """The rows of the answer that was being written when the log ended; none if it had not begun."""
    answer = Answer()
    for event in events:
        if isinstance(event, MessageStored):
            answer = Answer()
        else:
            answer.add([event])
    if answer.empty:
        return []
    return answer_messages(answer, wire.structure(record.turn, Origin), partial=True, not_run=UNKNOWN_OUTCOME)
