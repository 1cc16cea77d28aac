"""Tool calls that wait for somebody's consent, in the database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, TypeAlias, cast

import attrs
import peewee

from chatcore.database import runs, tables
from chatcore.database.handle import Database
from chatcore.errors import Conflict, NotFound
from chatcore.tools import JsonObject
from chatcore.types import Principal

Decision: TypeAlias = Literal["approve", "reject"]
Outcome: TypeAlias = Literal["approve", "reject", "expired"]


@attrs.frozen(kw_only=True)
class Approval:
    """A call that needs consent. `place` is the message that will hold its answer, `arguments` are what the tool will
    be given. The `digest` stands for all of it: who decides repeats it."""

    place: int
    run_id: str
    conversation_id: str
    call_id: str
    tool: str
    arguments: JsonObject
    digest: str
    expires_at: datetime
    decision: Decision | None = None


@attrs.frozen
class Approvals:
    """The approvals in the database. What an HTTP request leads to takes the principal; the rest is for the worker of
    the run, and raises RunLost where it is another's."""

    database: Database

    async def open(self, principal: Principal, run_id: str | None = None) -> Sequence[Approval]:
        """The calls that somebody can decide now, the oldest first: of a run, or of all."""
        return await self.database.read(partial(_open, principal.id, run_id))

    async def decide(
        self, principal: Principal, run_id: str, call_id: str, digest: str, decision: Decision
    ) -> Approval:
        """Decides a call, once and for all, and tells the worker of its run.

        Raises:
            NotFound: there is no such call, or it is somebody else's.
            Conflict: the digest is not that of the call, or it was decided, or it waits no longer.
        """
        return await self.database.write(partial(_decide, principal.id, run_id, call_id, digest, decision))

    async def request(self, approvals: Sequence[Approval], paused: JsonObject) -> None:
        """Stores calls of one run that need consent. The run waits from now on; `paused` is what a worker needs to go
        on with it."""
        await self.database.write(partial(_request, self.database.worker, approvals, paused))

    async def unsettled(self, run_id: str) -> Sequence[Approval]:
        """The calls of a run that its worker has not acted on."""
        return await self.database.read(partial(_unsettled, run_id))

    async def settle(self, approval: Approval) -> Outcome | None:
        """What became of a call, told once: from now on it counts as run, or as refused. None: it still waits. One that
        was deleted has expired.

        With the last of its calls a run waits no longer.
        """
        return await self.database.write(partial(_settle, self.database.worker, approval))

    async def close(self, run_id: str) -> None:
        """Ends the wait of a run, whatever was decided: nobody will act on it."""
        await self.database.write(partial(_close, self.database.worker, run_id))

    async def paused(self, run_id: str) -> JsonObject | None:
        """What `request` was given to go on with a run, or None if it does not wait."""
        return await self.database.read(partial(_paused, run_id))


_NAMES = [field.name for field in attrs.fields(Approval)]


def _approvals(*conditions: peewee.Expression) -> list[Approval]:
    approval, run, conversation = tables.Approval, tables.Run, tables.Conversation
    elsewhere = {"run_id": approval.run, "conversation_id": conversation.id}
    columns = [elsewhere.get(name) or getattr(approval, name) for name in _NAMES]
    query = approval.select(*columns).join(run).join(conversation).where(*conditions).order_by(approval.place)
    return [Approval(**dict(zip(_NAMES, row, strict=True))) for row in tables.fetch(query)]


def _open(owner: str, run_id: str | None) -> Sequence[Approval]:
    approval, run = tables.Approval, tables.Run
    wanted = [run.owner == owner, run.state == "waiting", _undecided(), approval.expires_at > datetime.now(UTC)]
    return _approvals(*wanted, *([run.id == run_id] if run_id is not None else []))


def _undecided() -> peewee.Expression:
    undecided: peewee.Expression = tables.Approval.decision.is_null() & ~tables.Approval.settled
    return undecided


def _decide(owner: str, run_id: str, call_id: str, digest: str, decision: Decision) -> Approval:
    approval, run = tables.Approval, tables.Run
    # A model may use an id again in a later answer: the last one counts, and the digest tells them apart.
    found = _approvals(run.owner == owner, run.id == run_id, approval.call_id == call_id)[-1:]
    if not found:
        raise NotFound("Approval not found")
    asked = found[0]
    if asked.digest != digest:
        raise Conflict("the digest is not that of the call that waits", hint="look at the call again, and decide anew")
    if asked.decision is not None:
        raise Conflict("this call was decided already")
    if asked.expires_at <= datetime.now(UTC):
        raise Conflict("it is too late: the approval has expired")
    waiting = run.select(run.id).where(run.id == run_id, run.state == "waiting")
    decided = approval.update(decision=decision).where(
        approval.place == asked.place, _undecided(), approval.run.in_(waiting)
    )
    if not decided.execute():
        raise Conflict("this call does not wait any more")
    runs.signal((run_id,), "decided", datetime.now(UTC) + timedelta(minutes=1))
    return attrs.evolve(asked, decision=decision)


def _request(worker: str, approvals: Sequence[Approval], paused: JsonObject) -> None:
    run_id = approvals[0].run_id
    runs.hold(run_id, worker)
    for one in approvals:
        fields = attrs.asdict(one, recurse=False, filter=lambda field, _: field.name != "conversation_id")
        tables.Approval.insert(**{**fields, "run": fields.pop("run_id")}).execute()
    paused_turn = tables.PausedTurn
    paused_turn.delete().where(paused_turn.run == run_id).execute()
    paused_turn.insert(run=run_id, data=paused).execute()
    runs.set_state(run_id, "waiting", "approval")


def _unsettled(run_id: str) -> Sequence[Approval]:
    return _approvals(tables.Approval.run == run_id, ~tables.Approval.settled)


def _settle(worker: str, asked: Approval) -> Outcome | None:
    runs.hold(asked.run_id, worker)  # those of one run come one after the other, so that one of them is the last
    approval = tables.Approval
    known = approval.decision.is_null(False) | (approval.expires_at <= datetime.now(UTC))
    told = approval.update(settled=True).where(approval.place == asked.place, ~approval.settled, known)
    rows = tables.fetch(told.returning(approval.decision))
    if not rows and _approvals(approval.place == asked.place):
        return None
    if not _unsettled(asked.run_id):
        _close(worker, asked.run_id)
    return cast("Outcome", (rows and rows[0][0]) or "expired")


def _close(worker: str, run_id: str) -> None:
    runs.hold(run_id, worker)
    tables.Approval.update(settled=True).where(tables.Approval.run == run_id).execute()
    tables.PausedTurn.delete().where(tables.PausedTurn.run == run_id).execute()
    runs.set_state(run_id, "running")


def _paused(run_id: str) -> JsonObject | None:
    paused_turn = tables.PausedTurn
    found = tables.fetch(paused_turn.select(paused_turn.data).where(paused_turn.run == run_id))
    return found[0][0] if found else None
