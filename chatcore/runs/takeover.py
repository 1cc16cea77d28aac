"""Going on with a turn that waits for somebody's consent and whose worker has ended."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

import attrs

from chatcore import wire
from chatcore.attachments import Attachments
from chatcore.database import Approval, Begun, Conversations, Database, RunRecord
from chatcore.database import Approvals as ApprovalTable
from chatcore.database import Runs as RunTable
from chatcore.errors import ChatcoreError, NotFound, ValidationFailed
from chatcore.plugins import Plugins
from chatcore.runs import eventlog
from chatcore.runs.approvals import requested
from chatcore.runs.paused import Paused
from chatcore.runs.run import Run
from chatcore.runs.stop import SERVER_STOPPED
from chatcore.runs.turn import Resumed, run_turn
from chatcore.types import ApprovalRequested, Event, MessageStored, Principal, Tell

logger = logging.getLogger(__name__)

TOOL_PATIENCE = 10.0
"""Seconds that an allowed call waits for its tool: after a start, a source may not have its tools yet."""
TOOL_LOOK = 0.1
"""Seconds between two looks for it."""


@attrs.frozen
class Waiting:
    """A turn that waits, and what is stored of it: its last answer with the places of its calls, which is the path of
    `begun`, and its log."""

    paused: Paused
    begun: Begun
    events: Sequence[Event]


async def take_over(database: Database, record: RunRecord) -> Waiting | None:
    """A run that waits, for this worker to go on with. None: its messages were deleted, or another version kept it in
    another form; it does not wait any more."""
    owner, approvals = Principal(record.owner), ApprovalTable(database)
    try:
        paused = wire.structure(await approvals.paused(record.id), Paused)
        conversation = await Conversations(database).get(owner, record.conversation_id)
        of_run = await Conversations(database).tree(owner, record.conversation_id, record.id)
        stored = tuple(message for message in of_run if message.id >= paused.answer_id)
    except (NotFound, ValidationFailed) as error:
        logger.warning("run %s cannot be gone on with: %s", record.id, error)
        stored = ()
    if len(stored) < 2:  # an answer, and the place of a call's
        await approvals.close(record.id)
        return None
    rows = await RunTable(database).log(owner, record.id, 0)
    events = [event for row in rows for event in eventlog.unpack(row.data)]
    return Waiting(paused, Begun(conversation, False, (), stored), events)


async def go_on(
    waiting: Waiting, run: Run, database: Database, attachments: Attachments, plugins: Plugins, tell: Tell
) -> None:
    """The rest of the turn. It is put together when something was decided: until then tools come and go.

    Raises:
        ChatcoreError: nobody serves the model any more.
    """
    table = ApprovalTable(database)
    if untold := _untold(waiting, await table.unsettled(run.turn.id)):
        tell(untold)
    run.approvals.nothing_else = True
    async with run.stop.interrupts():
        allowed = await _until_decided(table, run)
        await _until_there(plugins, allowed)
    run.approvals.nothing_else = False
    if run.stop.reason == SERVER_STOPPED:
        return
    run.turn = await plugins.trust.vet(waiting.paused.resumed(plugins.registry.tools()))
    try:
        provider, _ = plugins.registry.provider_for(run.turn.model)
    except ChatcoreError:
        await table.close(run.turn.id)
        raise
    resumed = Resumed(waiting.paused.tally, waiting.begun.path)
    await run_turn(run, provider, Conversations(database), attachments, tell, resumed)


def _untold(waiting: Waiting, approvals: Sequence[Approval]) -> list[Event]:
    """What was stored and is not in the log: its worker may have died in between."""
    messages = [event.message.id for event in waiting.events if isinstance(event, MessageStored)]
    digests = [event.digest for event in waiting.events if isinstance(event, ApprovalRequested)]
    answer = waiting.begun.path[0]
    return [
        *([MessageStored(answer)] if answer.id not in messages else []),
        *(requested(approval) for approval in approvals if approval.digest not in digests),
    ]


async def _until_decided(table: ApprovalTable, run: Run) -> set[str]:
    """Waits until a call was decided, or has expired. Gives the tools of the allowed ones."""
    while True:
        waiting = await table.unsettled(run.turn.id)
        if not waiting or any(one.decision or one.expires_at <= datetime.now(UTC) for one in waiting):
            return {one.tool for one in waiting if one.decision == "approve"}
        await run.approvals.changed(waiting)


async def _until_there(plugins: Plugins, names: set[str]) -> None:
    """Waits until there are tools of these names, but not for ever."""
    looks = int(TOOL_PATIENCE / TOOL_LOOK)
    while looks > 0 and not names <= plugins.registry.tools().keys():
        looks -= 1
        await asyncio.sleep(TOOL_LOOK)
