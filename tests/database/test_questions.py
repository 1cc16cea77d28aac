"""What running tools ask, in the database (chatcore/database/questions.py)."""

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from chatcore.database import AskedQuestion, Conversations, Database, NewMessage, NewRun, Questions, Runs
from chatcore.errors import Conflict, NotFound
from chatcore.tools import QuestionAnswer
from chatcore.types import LOCAL, Message, Principal

YES = QuestionAnswer(action="accept", content={"day": "sat"})


def asked(**fields: Any) -> AskedQuestion:
    soon = datetime.now(UTC) + timedelta(minutes=1)
    values: dict[str, Any] = {
        "question_id": "q",
        "call_id": "a",
        "asker": "book",
        "message": "When?",
        "form": {},
        "url": None,
    }
    return AskedQuestion(
        **{**values, "run_id": "r", "conversation_id": "c", "digest": "d", "expires_at": soon, **fields}
    )


@pytest.fixture
async def questions(database: Database) -> Questions:
    lease = datetime.now(UTC) + timedelta(minutes=1)
    run = NewRun(id="r", format="chat", model="m", worker="w", lease_until=lease)
    said = [NewMessage(message=Message(role="user", content="Book."))]
    await Conversations(database).begin(LOCAL, conversation_id="c", messages=said, run=run)
    return Questions(database)


async def test_an_answer_is_taken_once(questions: Questions) -> None:
    """What was filled in is not kept any longer than that; that it was answered is."""
    await questions.ask(asked())
    assert await questions.open(LOCAL) == [await questions.get(LOCAL, "r", "q")]
    assert await questions.answered("q") is None
    assert (await questions.answer(LOCAL, asked(), YES)).action == "accept"
    assert await questions.open(LOCAL) == []
    assert await questions.answered("q") == YES
    await questions.close("q")
    assert await questions.answered("q") == attrs.evolve(YES, content={})
    with pytest.raises(Conflict, match="already"):
        await questions.answer(LOCAL, asked(), YES)
    signals = await Runs(questions.database).signals("w")
    assert [(run, kind) for run, kind, _ in signals] == [("r", "decided")]


async def test_a_stranger_sees_nothing(questions: Questions) -> None:
    """Neither the question nor that there is one."""
    bob = Principal("bob")
    await questions.ask(asked())
    assert await questions.open(bob) == []
    with pytest.raises(NotFound):
        await questions.get(bob, "r", "q")
    with pytest.raises(NotFound):
        await questions.answer(bob, asked(), YES)


@pytest.mark.parametrize("way", ["close", "close_all", "expired", "ended"])
async def test_what_waits_no_longer_takes_no_answer(questions: Questions, way: str) -> None:
    """Its call, its time or its run has ended; a dead worker's run counts as ended when its lease has."""
    await questions.ask(asked(expires_at=datetime.now(UTC)) if way == "expired" else asked())
    match way:
        case "close":
            await questions.close("q")
        case "close_all":
            await questions.close_all("r")
        case "ended":
            await Runs(questions.database).renew("w", ["r"], datetime.now(UTC) - timedelta(seconds=1))
    assert await questions.open(LOCAL) == []
    with pytest.raises(Conflict):
        await questions.answer(LOCAL, asked(), YES)
