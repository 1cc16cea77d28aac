"""Questions of running tools to a person, and how a call waits for the answer.

A question is a row of the database. Whoever answers it, in whatever worker, writes into that row; the run's worker is
told, and looks. Unlike a call that waits for consent, one that asks is running: with its worker it ends.
"""

import asyncio
import hashlib
import re
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import attrs

from chatcore import forms, wire
from chatcore.database import AskedQuestion
from chatcore.database import Questions as QuestionTable
from chatcore.errors import Conflict, RequestError, ToolFailed
from chatcore.tools import Question, QuestionAnswer, ToolCall
from chatcore.types import Notice, Principal, QuestionAsked, QuestionClosed, Tell, Turn
from chatcore.waiting import within

E = TypeVar("E", bound=attrs.AttrsInstance)

LOOK_INTERVAL = 10.0
"""Seconds between two looks for answers and decisions of which nobody has told."""

_TOO_LATE = QuestionAnswer(action="cancel", reason="the call has ended")
LONGEST_MESSAGE = 5_000  # characters
MOST_OPEN = 10
"""Questions of one call that wait at a time: nobody answers more."""
MOST = 100
"""Questions of one call in all. Each is kept, and told to all who follow the run."""
_URL = re.compile(r"https?://[^\s\x00-\x20\x7f]+")


async def until_news(news: asyncio.Event, expires_at: datetime) -> None:
    """Waits for news, but not longer than until something expires, and looks now and then without."""
    left = (expires_at - datetime.now(UTC)).total_seconds()
    await within(min(max(left, 0), LOOK_INTERVAL), news.wait())
    news.clear()


def event_of(record: E, cls: type[E]) -> E:
    """The event that tells of a record: as a value of the class that the record's own is made of."""
    return cls(**{field.name: getattr(record, field.name) for field in attrs.fields(cls)})


class Questions:
    """The questions of one run."""

    def __init__(self, table: QuestionTable) -> None:
        self.table = table
        self._news: set[asyncio.Event] = set()

    def wake(self) -> None:
        """Says that something may have been answered."""
        for news in self._news:
            news.set()

    async def answer(self, asked: AskedQuestion) -> QuestionAnswer | None:
        """The answer, once there is one. None: nobody has given it in time. Whatever comes, the question is closed."""
        news = asyncio.Event()
        self._news.add(news)
        try:
            while asked.expires_at > datetime.now(UTC):
                await until_news(news, asked.expires_at)
                if (answer := await self.table.answered(asked.question_id)) is not None:
                    return answer
            return None
        finally:
            self._news.discard(news)
            await self.table.close(asked.question_id)


class Clock:
    """A time limit that does not run while somebody is asked."""

    def __init__(self, limit: asyncio.Timeout) -> None:
        self._limit = limit
        self._asking = 0
        self._left = 0.0

    def __enter__(self) -> None:
        self._asking += 1
        when = self._limit.when()
        if self._asking == 1 and when is not None and not self._limit.expired():
            self._left = when - asyncio.get_running_loop().time()
            self._limit.reschedule(None)

    def __exit__(self, *_: object) -> None:
        self._asking -= 1
        if self._asking == 0 and self._limit.when() is None:
            with suppress(RuntimeError):  # what it limits has ended meanwhile
                self._limit.reschedule(asyncio.get_running_loop().time() + self._left)


@attrs.define
class Asking:
    """What one call may ask."""

    turn: Turn
    call: ToolCall
    questions: Questions
    tell: Tell
    clock: Clock
    _ended: bool = False
    _asked: int = 0
    _open: set[asyncio.Task[QuestionAnswer]] = attrs.field(factory=set)

    async def ask(self, question: Question) -> QuestionAnswer:
        """Asks the person, and waits for the answer.

        Raises:
            ToolFailed: the question is of a kind that cannot be asked, or one too many.
        """
        asked = asked_of(self.turn, self.call, question)
        if self._ended:
            return _TOO_LATE
        self._asked += 1
        if self._asked > MOST or len(self._open) >= MOST_OPEN:
            raise ToolFailed(f"a call cannot ask more than {MOST_OPEN} questions at a time, and {MOST} in all")
        if not self.turn.can_approve:
            return self._declined(asked)
        # A task of its own: who asks may be another than who runs the call, and the question ends with the call.
        waiting = asyncio.create_task(self._answer(asked))
        self._open.add(waiting)
        try:
            with self.clock:
                await asyncio.wait([waiting])
        finally:
            self._open.discard(waiting)
            waiting.cancel()
            await asyncio.wait([waiting])
        return _TOO_LATE if waiting.cancelled() else waiting.result()

    async def _answer(self, asked: AskedQuestion) -> QuestionAnswer:
        await self.questions.table.ask(asked)
        self.tell([event_of(asked, QuestionAsked)])
        outcome = "cancel"
        try:
            answer = await self.questions.answer(asked)
            outcome = answer.action if answer else "expired"
        finally:
            self.tell([QuestionClosed(question_id=asked.question_id, call_id=asked.call_id, outcome=outcome)])
        return answer or QuestionAnswer(action="cancel", reason="nobody has answered in time")

    async def end(self) -> None:
        """The call has ended: nobody is asked any more."""
        self._ended = True
        waiting = list(self._open)
        for one in waiting:
            one.cancel()
        if waiting:
            await asyncio.wait(waiting)

    def _declined(self, asked: AskedQuestion) -> QuestionAnswer:
        text = f"{asked.asker} wanted to ask you something, which this program cannot show: {asked.message}"
        data = {"tool": self.call.name, "call_id": self.call.id, "asker": asked.asker}
        self.tell([Notice("question_declined", text, data)])
        return QuestionAnswer(action="decline", reason="the user's program cannot show questions")


def asked_of(turn: Turn, call: ToolCall, question: Question) -> AskedQuestion:
    """What a person is asked. Raises ToolFailed for what cannot be."""
    if question.url is not None and not _URL.fullmatch(question.url):
        raise ToolFailed("a question can only have a page of the web to open")
    try:
        form = forms.form({} if question.url is not None else question.form)
    except RequestError as error:
        raise ToolFailed(f"this cannot be asked: {error.message}") from error
    expires_at = datetime.now(UTC) + timedelta(seconds=turn.limits.approval_timeout)
    asked = AskedQuestion(
        question_id=f"question_{uuid.uuid4().hex}",
        run_id=turn.id,
        conversation_id=turn.conversation_id,
        call_id=call.id,
        asker=question.asker or call.name,
        message=question.message[:LONGEST_MESSAGE].replace("\0", "\ufffd"),
        form=form,
        url=question.url,
        digest="",
        expires_at=expires_at,
    )
    return attrs.evolve(asked, digest=hashlib.sha256(wire.canonical(attrs.asdict(asked))).hexdigest())


async def give_answer(
    table: QuestionTable, principal: Principal, run_id: str, question_id: str, digest: str, answer: QuestionAnswer
) -> AskedQuestion:
    """Answers a question, in whatever worker its run lives.

    Raises:
        NotFound: there is no such question, or it is somebody else's.
        Conflict: the digest is not that of the question, or it was answered, or it waits no longer.
        ValidationFailed: what was filled in is not what the form asks for.
    """
    asked = await table.get(principal, run_id, question_id)
    if asked.digest != digest:
        raise Conflict("the digest is not that of the question", hint="look at the question again, and answer anew")
    content = forms.filled(asked.form, answer.content) if answer.action == "accept" else {}
    return await table.answer(principal, asked, attrs.evolve(answer, content=content))
