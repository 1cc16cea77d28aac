"""Titles for conversations, made by a model."""

import asyncio
import logging

import attrs
import pytest

from chatcore.builtin.chat.titles import ai_title, opening
from chatcore.errors import ProviderUnavailable
from chatcore.types import Finish, Message, ReasoningDelta, TextDelta

QUESTION = (Message(role="user", content="How do I boil an egg?"), Message(role="assistant", content="In water."))


@attrs.define
class Model:
    """A provider that gives one answer, and keeps what it was asked."""

    answer: str = "Boiling eggs"
    error: Exception | None = None
    hangs: bool = False
    name: str = "model"
    request: object = None
    asked: asyncio.Event = attrs.field(factory=asyncio.Event)
    closed: bool = False

    async def stream(self, request):
        self.request = request
        self.asked.set()
        try:
            if self.hangs:
                await asyncio.Event().wait()
            if self.error:
                raise self.error
            yield [ReasoningDelta("Hm.")]
            for letter in self.answer:
                yield [TextDelta(letter)]
            yield [Finish("stop")]
        finally:
            self.closed = True


async def test_title_is_what_the_model_says():
    """The text of the answer is the title; what the model thinks is not part of it."""
    assert await ai_title(Model(), "m", QUESTION) == "Boiling eggs"


async def test_request_is_small_and_holds_the_conversation():
    """The model gets 30 tokens at temperature 0.3, and the lines of user and assistant."""
    model = Model()
    await ai_title(
        model, "some/model", [Message(role="system", content="secret"), *QUESTION, Message(role="tool", content="x")]
    )
    assert model.request.model == "some/model"
    assert model.request.parameters == {"max_tokens": 30, "temperature": 0.3}
    assert model.request.messages[-1].text == "user: How do I boil an egg?\nassistant: In water."


async def test_long_conversation_is_cut():
    """At most 4,000 characters of the conversation are sent."""
    model = Model()
    await ai_title(model, "m", [Message(role="user", content="x" * 5000)])
    assert len(model.request.messages[-1].text) == 4000


def test_opening_is_what_the_model_will_read():
    """Of a long conversation the beginning, and of long messages theirs: no more is kept while the model is asked."""
    said = [Message(role="user", content=letter * 3000, extra={"more": "x"}) for letter in "abcdef"]
    assert opening([Message(role="system", content="secret"), *said]) == [
        Message(role="user", content="a" * 3000),
        Message(role="user", content="b" * 3000),
    ]
    assert [len(message.text) for message in opening([Message(role="assistant", content="x" * 10_000)])] == [4000]
    assert opening([]) == []


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        (' "Boiling eggs" \n', "Boiling eggs"),
        ("“Eier kochen”", "Eier kochen"),
        ("«Œufs»", "Œufs"),
        ("'`Eggs`'", "Eggs"),
        ("Eggs\nin water", "Eggs in water"),
        ("Rock'n'roll", "Rock'n'roll"),
        ("x" * 120, "x" * 120),
        ("x" * 121, None),
        ("", None),
        (' "" ', None),
    ],
)
async def test_title_is_trimmed_and_checked(answer, title):
    """White space and quotation marks go; nothing, or more than 120 characters, is no title."""
    assert await ai_title(Model(answer=answer), "m", QUESTION) == title


@pytest.mark.parametrize("error", [ProviderUnavailable("no connection"), ZeroDivisionError("a plugin's mistake")])
async def test_failure_gives_no_title_and_a_line_in_the_log(error, caplog):
    """A provider that fails, in whatever way, fails nothing else."""
    with caplog.at_level(logging.WARNING):
        assert await ai_title(Model(error=error), "m", QUESTION) is None
    assert "no title from m of provider model" in caplog.text
    assert str(error) in caplog.text


async def test_model_that_takes_too_long_is_given_up(caplog):
    """After the time limit the stream is closed, and there is no title."""
    model = Model(hangs=True)
    assert await ai_title(model, "m", QUESTION, time_limit=0.01) is None
    assert model.closed
    assert "TimeoutError" in caplog.text


async def test_cancellation_is_not_swallowed():
    """A cancelled caller stays cancelled, and the upstream is closed."""
    model = Model(hangs=True)
    task = asyncio.create_task(ai_title(model, "m", QUESTION))
    await model.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.closed
