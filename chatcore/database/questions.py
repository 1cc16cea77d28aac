"""What running tools ask a person, in the database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import peewee

from chatcore.database import runs, tables
from chatcore.database.handle import Database
from chatcore.errors import Conflict, NotFound
from chatcore.tools import JsonObject, QuestionAction, QuestionAnswer
from chatcore.types import Principal


@attrs.frozen(kw_only=True)
class AskedQuestion:
    """A question of a running call. The `digest` stands for all of it: who answers repeats it."""

    id: str
    run_id: str
    conversation_id: str
    call_id: str
    asker: str
    message: str
    form: JsonObject
    url: str | None
    digest: str
    expires_at: datetime
    action: QuestionAction | None = None


@attrs.frozen
class Questions:
    """The questions in the database. What an HTTP request leads to takes the principal; the rest is for the worker of
    the run."""

    database: Database

    async def open(self, principal: Principal, run_id: str | None = None) -> Sequence[AskedQuestion]:
        """What somebody can answer now, the oldest first: of a run, or of all."""
        return await self.database.read(partial(_open, principal.id, run_id))

    async def get(self, principal: Principal, run_id: str, question_id: str) -> AskedQuestion:
        """A question, answered or not.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        return await self.database.read(partial(_get, principal.id, run_id, question_id))

    async def answer(self, principal: Principal, asked: AskedQuestion, answer: QuestionAnswer) -> AskedQuestion:
        """Answers a question, once and for all, and tells the worker of its run.

        Raises:
            NotFound: it was deleted meanwhile.
            Conflict: it was answered, or waits no longer.
        """
        return await self.database.write(partial(_answer, principal.id, asked, answer))

    async def ask(self, question: AskedQuestion) -> None:
        """Stores a question. Raises RunLost: the run is another worker's."""
        await self.database.write(partial(_ask, question, self.database.worker))

    async def take(self, question_id: str) -> QuestionAnswer | None:
        """The answer, which is kept no longer. None: there is none yet."""
        return await self.database.write(partial(_take, question_id))

    async def close(self, question_id: str) -> None:
        """Nobody waits for an answer any more."""
        await self.database.write(partial(_close, tables.Question.id == question_id))

    async def close_all(self, run_id: str) -> None:
        """As `close`, for all of a run."""
        await self.database.write(partial(_close, tables.Question.run == run_id))


_NAMES = [field.name for field in attrs.fields(AskedQuestion)]


def _questions(*conditions: peewee.Expression) -> list[AskedQuestion]:
    question, run, conversation = tables.Question, tables.Run, tables.Conversation
    elsewhere = {"run_id": question.run, "conversation_id": conversation.id}
    columns = [elsewhere.get(name) or getattr(question, name) for name in _NAMES]
    query = question.select(*columns).join(run).join(conversation).where(*conditions).order_by(question.expires_at)
    return [AskedQuestion(**dict(zip(_NAMES, row, strict=True))) for row in tables.fetch(query)]


def _waits() -> peewee.Expression:
    """Whether a question of a live run can be answered. The run's lease tells whether its worker may be alive."""
    question, run, now = tables.Question, tables.Run, datetime.now(UTC)
    waits: peewee.Expression = (
        question.action.is_null()
        & ~question.closed
        & (question.expires_at > now)
        & run.state.in_(("running", "waiting"))
        & (run.lease_until > now)
    )
    return waits


def _open(owner: str, run_id: str | None) -> Sequence[AskedQuestion]:
    run = tables.Run
    return _questions(run.owner == owner, _waits(), *([run.id == run_id] if run_id is not None else []))


def _get(owner: str, run_id: str, question_id: str) -> AskedQuestion:
    found = _questions(tables.Run.owner == owner, tables.Run.id == run_id, tables.Question.id == question_id)
    if not found:
        raise NotFound("Question not found")
    return found[0]


def _answer(owner: str, asked: AskedQuestion, answer: QuestionAnswer) -> AskedQuestion:
    question = tables.Question
    found = _get(owner, asked.run_id, asked.id)
    if found.action is not None:
        raise Conflict("this question was answered already")
    if found.expires_at <= datetime.now(UTC):
        raise Conflict("it is too late: the question has expired")
    if not _questions(question.id == asked.id, _waits()):
        raise Conflict("this question does not wait for an answer any more")
    answered = question.update(action=answer.action, content=answer.content).where(
        question.id == asked.id, question.action.is_null(), ~question.closed
    )
    if not answered.execute():
        raise Conflict("this question was answered already")
    runs.signal((asked.run_id,), "decided", datetime.now(UTC) + timedelta(minutes=1))
    return attrs.evolve(found, action=answer.action)


def _ask(asked: AskedQuestion, worker: str) -> None:
    runs.hold(asked.run_id, worker)
    fields = attrs.asdict(asked, recurse=False, filter=lambda field, _: field.name != "conversation_id")
    tables.Question.insert(**{**fields, "run": fields.pop("run_id")}).execute()


def _take(question_id: str) -> QuestionAnswer | None:
    question = tables.Question
    found = tables.fetch(
        question.select(question.action, question.content).where(
            question.id == question_id, question.action.is_null(False)
        )
    )
    if not found:
        return None
    question.update(content=None, closed=True).where(question.id == question_id).execute()
    return QuestionAnswer(action=found[0][0], content=found[0][1] or {})


def _close(condition: peewee.Expression) -> None:
    tables.Question.update(closed=True, content=None).where(condition).execute()
