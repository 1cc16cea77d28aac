"""Consent to tool calls: what is asked of a person, and how the run waits for the decision.

A call that needs consent becomes a row of the database, and so does what is needed to go on with its turn. Whoever
decides it, in whatever worker, writes into that row; the run's worker is told, looks, and acts on it once. So a wait
costs no connection, and outlives every client and the server.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from chatcore import wire
from chatcore.database import Approval, Database
from chatcore.database import Approvals as ApprovalTable
from chatcore.database import Questions as QuestionTable
from chatcore.runs.questions import Questions, event_of, until_news
from chatcore.tools import JsonObject, Tool, ToolCall
from chatcore.types import ApprovalRequested, Turn


class Approvals:
    """The approvals of one run, and the questions of its tools. `nothing_else`: the run does nothing but wait for
    approvals."""

    def __init__(self, database: Database) -> None:
        self.table = ApprovalTable(database)
        self.questions = Questions(QuestionTable(database))
        self.nothing_else = False
        self._news = asyncio.Event()

    def wake(self) -> None:
        """Says that something may have been decided, or answered."""
        self._news.set()
        self.questions.wake()

    async def changed(self, waiting: Sequence[Approval]) -> None:
        """Waits until one of these may have been decided, or has expired."""
        await until_news(self._news, min(approval.expires_at for approval in waiting))


def approval_of(turn: Turn, call: ToolCall, tool: Tool, arguments: JsonObject, place: int) -> Approval:
    """What is to be asked for a call whose answer goes to the message `place`."""
    expires_at = datetime.now(UTC) + timedelta(seconds=turn.limits.approval_timeout)
    return Approval(
        place=place,
        run_id=turn.id,
        conversation_id=turn.conversation_id,
        call_id=call.id,
        tool=tool.name,
        arguments=arguments,
        digest=digest(turn.id, call.id, tool, arguments, expires_at),
        expires_at=expires_at,
    )


def digest(run_id: str, call_id: str, tool: Tool, arguments: JsonObject, expires_at: datetime) -> str:
    """Stands for a call as a person was shown it: if anything of it is another, so is the digest."""
    parts = [run_id, call_id, tool.name, arguments, tool.fingerprint, expires_at]
    return hashlib.sha256(wire.canonical(parts)).hexdigest()


def requested(approval: Approval) -> ApprovalRequested:
    """The event that tells of it."""
    return event_of(approval, ApprovalRequested)
