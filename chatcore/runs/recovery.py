"""Recovery: what becomes of the runs of a worker that did not live to end them."""

import logging
from collections.abc import Sequence

from chatcore import wire
from chatcore.answer import Answer
from chatcore.database import Conversations, Database, LogRow, RunRecord
from chatcore.database import Runs as RunTable
from chatcore.runs import eventlog
from chatcore.runs.stop import SERVER_STOPPED
from chatcore.runs.toolcalls import UNKNOWN_OUTCOME
from chatcore.runs.turn import Origin, answer_messages
from chatcore.types import Event, MessageStored, Principal, RunEnded, StoredMessage, TextDelta

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
        origin = wire.structure(record.turn, Origin)
        kept = await keep_unfinished(conversations, owner, record.conversation_id, record.question, origin, events)
        rest: list[Event] = [*kept, ended]
        last = rows[-1].last if rows else 0
        rows = [*rows, LogRow(record.id, last + 1, last + len(rest), eventlog.pack(rest))]
        events += rest
        logger.warning("run %s was broken off by the end of its server; its text is kept", record.id)
    await table.finish(record.id, ended.state, ended.reason, len(events), rows)


async def keep_unfinished(
    conversations: Conversations,
    owner: Principal,
    conversation_id: str,
    question: int | None,
    origin: Origin,
    events: Sequence[Event],
) -> Sequence[Event]:
    """Stores the answer that was being written when the log of a run ended, below its last message or below `question`.
    Gives what its readers are to be told of that."""
    told = [event.message.id for event in events if isinstance(event, MessageStored)]
    answer = _unfinished(events)
    messages = [] if answer.empty else answer_messages(answer, origin, partial=True, not_run=UNKNOWN_OUTCOME)
    stored = await conversations.recover_answer(owner, conversation_id, origin.run_id, question, messages, told=told)
    return _untold(answer, stored)


def _unfinished(events: Sequence[Event]) -> Answer:
    """The answer that was being written when the log ended; an empty one if it had not begun."""
    begun = 1 + max((n for n, event in enumerate(events) if isinstance(event, MessageStored)), default=-1)
    answer = Answer()
    answer.add(events[begun:])
    return answer


def _untold(answer: Answer, stored: Sequence[StoredMessage]) -> list[Event]:
    """What the log does not tell of the stored answers: that they are stored, and the end of their text. A worker may
    have stored an answer and died before the log had all of it."""
    untold: list[Event] = []
    said = answer.message().text
    for message in stored:
        if message.message.role == "assistant":
            text = message.message.text
            if text != said and text.startswith(said):
                untold.append(TextDelta(text.removeprefix(said)))
            untold.append(MessageStored(message))
            said = ""
    return untold
