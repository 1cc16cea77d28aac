"""Tool calls that wait for somebody's consent, in the database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, cast

import attrs
import peewee

from chatcore.database import runs, tables
from chatcore.database.handle import Database
from chatcore.database.repository import reads, writes
from chatcore.errors import Conflict, NotFound
from chatcore.tools import JsonObject
from chatcore.types import ApprovalRequested, Principal

Decision: TypeAlias = Literal["approve", "reject"]
Outcome: TypeAlias = Literal["approve", "reject", "expired"]


@attrs.frozen(kw_only=True)
class Approval(ApprovalRequested):
    """A call that needs consent. `place` is the message that will hold its answer. The `digest` stands for all of it:
    who decides repeats it."""

    place: int
    run_id: str
    conversation_id: str
    decision: Decision | None = None


_COLUMNS = tables.columns(Approval, tables.Approval, run_id=tables.Approval.run, conversation_id=tables.Conversation.id)


@attrs.frozen
class Approvals:
    """The approvals in the database. What an HTTP request leads to takes the principal; the rest is for the worker of
    the run, and raises RunLost where it is another's."""

    database: Database

    @reads
    def open(self, principal: Principal, run_id: str | None = None) -> Sequence[Approval]:
        """The calls that somebody can decide now, the oldest first: of a run, or of all."""
        approval, run = tables.Approval, tables.Run
        wanted = [run.owner == principal.id, run.state == "waiting", _undecided()]
        of_run = [] if run_id is None else [run.id == run_id]
        return _approvals(*wanted, approval.expires_at > datetime.now(UTC), *of_run)

    @writes
    def decide(self, principal: Principal, run_id: str, call_id: str, digest: str, decision: Decision) -> Approval:
        """Decides a call, once and for all, and tells the worker of its run.

        Raises:
            NotFound: there is no such call, or it is somebody else's.
            Conflict: the digest is not that of the call, or it was decided, or it waits no longer.
        """
        approval, run = tables.Approval, tables.Run
        # A model may use an id again in a later answer: the last one counts, and the digest tells them apart.
        found = _approvals(run.owner == principal.id, run.id == run_id, approval.call_id == call_id)[-1:]
        if not found:
            raise NotFound("Approval not found")
        asked = found[0]
        if asked.digest != digest:
            raise Conflict(
                "the digest is not that of the call that waits", hint="look at the call again, and decide anew"
            )
        if asked.decision is not None:
            raise Conflict("this call was decided already")
        if asked.expires_at <= datetime.now(UTC):
            raise Conflict("it is too late: the approval has expired")
        waiting = run.select(run.id).where(run.id == run_id, run.state == "waiting")
        decided = approval.update(decision=decision)
        if not decided.where(approval.place == asked.place, _undecided(), approval.run.in_(waiting)).execute():
            raise Conflict("this call does not wait any more")
        runs.signal((run_id,), "decided", datetime.now(UTC) + timedelta(minutes=1))
        return attrs.evolve(asked, decision=decision)

    @writes
    def request(self, approvals: Sequence[Approval], paused: JsonObject) -> None:
        """Stores calls of one run that need consent. The run waits from now on; `paused` is what a worker needs to go
        on with it."""
        run_id = approvals[0].run_id
        runs.hold(run_id, self.database.worker)
        for one in approvals:
            tables.insert(tables.Approval, one, _COLUMNS)
        tables.PausedTurn.delete().where(tables.PausedTurn.run == run_id).execute()
        tables.PausedTurn.insert(run=run_id, data=paused).execute()
        runs.set_state(run_id, "waiting", "approval")

    @reads
    def unsettled(self, run_id: str) -> Sequence[Approval]:
        """The calls of a run that its worker has not acted on."""
        return _unsettled(run_id)

    @writes
    def settle(self, asked: Approval) -> Outcome | None:
        """What became of a call, told once: from now on it counts as run, or as refused. None: it still waits. One that
        was deleted has expired.

        With the last of its calls a run waits no longer.
        """
        runs.hold(asked.run_id, self.database.worker)  # those of one run come one after the other: one is the last
        approval = tables.Approval
        known = approval.decision.is_null(False) | (approval.expires_at <= datetime.now(UTC))
        told = approval.update(settled=True).where(approval.place == asked.place, ~approval.settled, known)
        rows = tables.fetch(told.returning(approval.decision))
        if not rows and _approvals(approval.place == asked.place):
            return None
        if not _unsettled(asked.run_id):
            _close(asked.run_id)
        return cast("Outcome", (rows and rows[0][0]) or "expired")

    @writes
    def close(self, run_id: str) -> None:
        """Ends the wait of a run, whatever was decided: nobody will act on it."""
        runs.hold(run_id, self.database.worker)
        _close(run_id)

    @reads
    def paused(self, run_id: str) -> JsonObject | None:
        """What `request` was given to go on with a run, or None if it does not wait."""
        paused = tables.PausedTurn
        found = tables.fetch(paused.select(paused.data).where(paused.run == run_id))
        return found[0][0] if found else None


def _approvals(*conditions: peewee.Expression) -> list[Approval]:
    approval = tables.Approval
    query = approval.select(*_COLUMNS.values()).join(tables.Run).join(tables.Conversation).where(*conditions)
    return tables.records(Approval, query.order_by(approval.place))


def _undecided() -> peewee.Expression:
    undecided: peewee.Expression = tables.Approval.decision.is_null() & ~tables.Approval.settled
    return undecided


def _unsettled(run_id: str) -> Sequence[Approval]:
    return _approvals(tables.Approval.run == run_id, ~tables.Approval.settled)


def _close(run_id: str) -> None:
    tables.Approval.update(settled=True).where(tables.Approval.run == run_id).execute()
    tables.PausedTurn.delete().where(tables.PausedTurn.run == run_id).execute()
    runs.set_state(run_id, "running")
