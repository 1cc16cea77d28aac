"""What running tools ask a person, in the database."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs
import peewee

from chatcore.database import runs, tables
from chatcore.database.handle import Database
from chatcore.database.repository import reads, writes
from chatcore.errors import Conflict, NotFound
from chatcore.tools import QuestionAction, QuestionAnswer
from chatcore.types import Principal, QuestionAsked


@attrs.frozen(kw_only=True)
class AskedQuestion(QuestionAsked):
    """A question of a running call. The `digest` stands for all of it: who answers repeats it."""

    run_id: str
    conversation_id: str
    action: QuestionAction | None = None


_COLUMNS = tables.columns(
    AskedQuestion,
    tables.Question,
    question_id=tables.Question.id,
    run_id=tables.Question.run,
    conversation_id=tables.Conversation.id,
)


@attrs.frozen
class Questions:
    """The questions in the database. What an HTTP request leads to takes the principal; the rest is for the worker of
    the run."""

    database: Database

    @reads
    def open(self, principal: Principal, run_id: str | None = None) -> Sequence[AskedQuestion]:
        """What somebody can answer now, the oldest first: of a run, or of all."""
        run = tables.Run
        return _questions(run.owner == principal.id, _waits(), *([] if run_id is None else [run.id == run_id]))

    @reads
    def get(self, principal: Principal, run_id: str, question_id: str) -> AskedQuestion:
        """A question, answered or not.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        return _get(principal.id, run_id, question_id)

    @writes
    def answer(self, principal: Principal, asked: AskedQuestion, answer: QuestionAnswer) -> AskedQuestion:
        """Answers a question, once and for all, and tells the worker of its run.

        Raises:
            NotFound: it was deleted meanwhile.
            Conflict: it was answered, or waits no longer.
        """
        question = tables.Question
        found = _get(principal.id, asked.run_id, asked.question_id)
        if found.action is not None:
            raise Conflict("this question was answered already")
        if found.expires_at <= datetime.now(UTC):
            raise Conflict("it is too late: the question has expired")
        if not _questions(question.id == asked.question_id, _waits()):
            raise Conflict("this question does not wait for an answer any more")
        answered = question.update(action=answer.action, content=answer.content)
        open_ = question.id == asked.question_id, question.action.is_null(), ~question.closed
        if not answered.where(*open_).execute():
            raise Conflict("this question was answered already")
        runs.signal((asked.run_id,), "decided", datetime.now(UTC) + timedelta(minutes=1))
        return attrs.evolve(found, action=answer.action)

    @writes
    def ask(self, question: AskedQuestion) -> None:
        """Stores a question. Raises RunLost: the run is another worker's."""
        runs.hold(question.run_id, self.database.worker)
        tables.insert(tables.Question, question, _COLUMNS)

    @reads
    def answered(self, question_id: str) -> QuestionAnswer | None:
        """The answer. None: there is none yet."""
        question = tables.Question
        query = question.select(question.action, question.content)
        found = tables.fetch(query.where(question.id == question_id, question.action.is_null(False)))
        return QuestionAnswer(action=found[0][0], content=found[0][1] or {}) if found else None

    @writes
    def close(self, question_id: str) -> None:
        """Nobody waits for an answer any more. What was filled in is kept no longer."""
        _close(tables.Question.id == question_id)

    @writes
    def close_all(self, run_id: str) -> None:
        """As `close`, for all of a run."""
        _close(tables.Question.run == run_id)


def _questions(*conditions: peewee.Expression) -> list[AskedQuestion]:
    question = tables.Question
    query = question.select(*_COLUMNS.values()).join(tables.Run).join(tables.Conversation).where(*conditions)
    return tables.records(AskedQuestion, query.order_by(question.expires_at))


def _get(owner: str, run_id: str, question_id: str) -> AskedQuestion:
    found = _questions(tables.Run.owner == owner, tables.Run.id == run_id, tables.Question.id == question_id)
    if not found:
        raise NotFound("Question not found")
    return found[0]


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


def _close(condition: peewee.Expression) -> None:
    tables.Question.update(closed=True, content=None).where(condition).execute()
