"""Questions of running tools, and waiting for the answer (chatcore/runs/questions.py)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest

from chatcore.database import Conversations, Database, NewMessage, NewRun
from chatcore.database import Questions as QuestionTable
from chatcore.errors import ToolFailed
from chatcore.runs.questions import Asking, Clock, Questions, asked_of
from chatcore.tools import Question, QuestionAnswer, ToolCall
from chatcore.types import LOCAL, Event, Limits, Message, QuestionAsked, QuestionClosed, Turn

CALL = ToolCall("a", "book")
TURN = Turn(
    id="r", principal=LOCAL, conversation_id="c", model="m", provider="p", history=(), can_approve=True,
    limits=Limits(approval_timeout=60),
)  # fmt: skip
WHEN = Question(message="When?", form={"properties": {"day": {"type": "string"}}})
YES = QuestionAnswer(action="accept", content={"day": "sat"})


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[QuestionTable]:
    database = Database(str(tmp_path / "chat.db"))
    await database.open()
    lease = datetime.now(UTC) + timedelta(minutes=1)
    run = NewRun(id="r", format="chat", model="m", worker="w", lease_until=lease)
    said = [NewMessage(message=Message(role="user", content="Book."))]
    await Conversations(database).begin(LOCAL, conversation_id="c", messages=said, run=run)
    yield QuestionTable(database)
    await database.close()


class Log:
    """What is told, and news of it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def tell(self, events: Sequence[Event]) -> None:
        self.events.extend(events)
        self._news.set()

    async def first(self) -> Event:
        await asyncio.wait_for(self._news.wait(), 5)
        return self.events[0]


async def test_an_answer_of_which_nobody_has_told_is_found(
    table: QuestionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal of another worker may be lost."""
    monkeypatch.setattr("chatcore.runs.questions.LOOK_INTERVAL", 0.02)
    log = Log()
    async with asyncio.timeout(5) as limit:
        asking = Asking(TURN, CALL, Questions(table), log.tell, Clock(limit))
        waiting = asyncio.create_task(asking.ask(WHEN))
        await log.first()
        [asked] = await table.open(LOCAL)
        await table.answer(LOCAL, asked, YES)
        assert await waiting == YES
    assert [type(event) for event in log.events] == [QuestionAsked, QuestionClosed]


async def test_the_end_of_a_call_ends_its_questions(table: QuestionTable) -> None:
    """Also for who asks in another task than the call's, and from then on."""
    log = Log()
    async with asyncio.timeout(5) as limit:
        asking = Asking(TURN, CALL, Questions(table), log.tell, Clock(limit))
        waiting = asyncio.create_task(asking.ask(WHEN))
        await log.first()
        await asking.end()
        assert (await waiting).reason == (await asking.ask(WHEN)).reason == "the call has ended"
        assert await table.open(LOCAL) == []
    assert [event.outcome for event in log.events if isinstance(event, QuestionClosed)] == ["cancel"]


async def test_a_call_asks_only_so_much_at_a_time(table: QuestionTable) -> None:
    """One question more is refused: a server of tools could ask without end."""
    log = Log()
    async with asyncio.timeout(5) as limit:
        asking = Asking(TURN, CALL, Questions(table), log.tell, Clock(limit))
        waiting = [asyncio.create_task(asking.ask(WHEN)) for _ in range(11)]
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(ToolFailed, match="more than 10 questions"):
            await done.pop()
        await asking.end()
        await asyncio.wait(waiting)


@pytest.mark.parametrize("can_approve", [True, False])
async def test_a_call_asks_only_so_much_in_all(table: QuestionTable, can_approve: bool) -> None:
    """Also where nobody is shown its questions, or where it takes each back: what was asked is kept in the log."""
    log, turn = Log(), attrs.evolve(TURN, can_approve=can_approve)
    async with asyncio.timeout(5) as limit:
        asking = Asking(turn, CALL, Questions(table), log.tell, Clock(limit))
        for _ in range(100):
            waiting = asyncio.create_task(asking.ask(WHEN))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        told = len(log.events)
        with pytest.raises(ToolFailed, match="100 in all"):
            await asking.ask(WHEN)
        assert len(log.events) == told <= 200
        await asking.end()


async def test_a_limit_rests_while_anybody_is_asked() -> None:
    """What was left of it before is left after the last question; one that is over is left alone."""
    async with asyncio.timeout(60) as limit:
        clock, before = Clock(limit), limit.when()
        assert before is not None
        with clock:
            with clock:
                assert limit.when() is None
            assert limit.when() is None
        await asyncio.sleep(0)
        after = limit.when()
        assert after is not None
        assert 0 <= after - before < 1
        clock.__enter__()
    clock.__exit__()


def test_whatever_is_another_question_has_another_digest() -> None:
    """Even one with the same words: each has an id of its own."""
    assert asked_of(TURN, CALL, WHEN).digest != asked_of(TURN, CALL, WHEN).digest


@pytest.mark.parametrize("url", ["javascript:alert(1)", "https://", "https://a\u202f b", "ftp://x", ""])
def test_only_pages_of_the_web_are_opened(url: str) -> None:
    """Whoever asks is told."""
    with pytest.raises(ToolFailed, match="page of the web"):
        asked_of(TURN, CALL, Question(message="Pay.", url=url))


def test_what_no_form_has_cannot_be_asked() -> None:
    """Whoever asks is told what is wrong."""
    with pytest.raises(ToolFailed, match=r"cannot be asked: .* 'x'"):
        asked_of(TURN, CALL, Question(message="?", form={"properties": {"x": {"type": "object"}}}))
