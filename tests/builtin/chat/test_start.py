"""From a request to a run: how large what a model is given may be, and how much of it there may be at once."""

import asyncio
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from chatcore.attachments import Attachments
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.testing.chat import Chat
from chatcore.testing.scripted import ScriptedProvider, text
from chatcore.tools import Tool

LARGE = 400_000
"""Characters of what counts as large."""


def asked(session: str, words: str) -> dict[str, Any]:
    return {"session_id": session, "messages": [{"role": "user", "content": words}]}


async def ask(chat: Chat, session: str, words: str) -> httpx.Response:
    return await chat.client.post("/api/chat/stream", json=asked(session, words))


async def messages(chat: Chat, session: str) -> list[Any]:
    response = await chat.client.get(f"/api/chat/session/{session}/messages")
    found: list[Any] = response.json().get("messages", [])
    return found


# --- one conversation -------------------------------------------------------------------------------------------------


async def test_a_conversation_that_has_grown_too_large_goes_no_further(make_chat: Any) -> None:
    """The answer that made it so is stored as a whole. The next turn is refused with the remedies, and nothing of it is
    stored; what there is can be read, and after some of it is deleted the conversation goes on."""
    provider = ScriptedProvider([text("y" * 2000)])
    chat = await make_chat(provider=provider, config={"max_conversation": 1500})
    await chat.say("x" * 1000, session_id="a")
    refused = await ask(chat, "a", "And then?")
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert "1500" in refused.json()["detail"]
    assert "delete messages" in refused.json()["hint"]
    question, answer = await messages(chat, "a")
    assert (len(question["content"]), len(answer["content"]), len(provider.requests)) == (1000, 2000, 1)
    await chat.client.delete(f"/api/chat/session/a/messages/{answer['message_id']}")
    assert (await chat.say("And then?", session_id="a")).text == "ok"


async def test_a_new_conversation_may_be_as_large_as_its_first_message(make_chat: Any) -> None:
    """Also where that is more than a conversation may have that goes on."""
    chat = await make_chat(config={"max_conversation": 1000})
    assert (await chat.say("x" * 2000, session_id="a")).text == "ok"
    assert (await ask(chat, "a", "And then?")).status_code == 413
    assert (await ask(chat, "b", "And here?")).status_code == 200


# --- a provider that is at fault --------------------------------------------------------------------------------------


class Dice(Plugin[NoSettings]):
    """Has a tool: only then it matters whether the model supports them."""

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        yield Tool.of(self.roll)

    async def roll(self) -> str:
        """Rolls."""
        return "4"


class Confused(ScriptedProvider):
    """Gives a list of something."""

    async def models(self) -> Any:
        return [5]


async def test_a_list_of_models_that_is_none_keeps_nobody_from_an_answer(make_chat: Any, caplog: Any) -> None:
    """The model is taken to support tools; the log says whose list it is."""
    provider = Confused()
    chat = await make_chat(Dice, provider=provider)
    assert (await chat.say("hello")).text == "ok"
    assert [tool.name for tool in provider.requests[0].tools] == ["roll"]
    assert "provider scripted failed to list its models" in caplog.text


# --- many at once -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def busy(make_chat: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A server with room for two large histories, of which one is under way and `a` is another; and what ends it."""
    monkeypatch.setattr("chatcore.state.MOST_HISTORIES", 2 * LARGE + 1000)
    over = asyncio.Event()
    provider = ScriptedProvider([text("ok")], [text("Well. "), over, text("So.")])
    chat = await make_chat(provider=provider)
    await chat.say("x" * LARGE, session_id="a")
    talk = asyncio.create_task(chat.say("y" * LARGE, session_id="b"))
    async with asyncio.timeout(10):
        while len(provider.requests) < 2:
            await asyncio.sleep(0.01)
    yield chat, over, talk
    over.set()
    await asyncio.wait([talk])


@pytest.mark.parametrize("session", ["a", "c"], ids=["stored", "new"])
async def test_there_is_room_for_so_many_large_histories(busy: Any, session: str) -> None:
    """Of one that is stored and of one that comes with the request: who finds none is told to come again, and nothing
    of it is stored. Small ones are not counted, and there is room when an answer has ended."""
    chat, over, talk = busy
    before = await messages(chat, session)
    refused = await ask(chat, session, "z" * (LARGE + 2000))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "no room" in refused.json()["detail"]
    assert await messages(chat, session) == before
    assert (await chat.say("Hello?", session_id="d")).text == "ok"
    over.set()
    await talk
    async with asyncio.timeout(10):
        while chat.app.extensions["chatcore"].histories.taken:
            await asyncio.sleep(0.01)
    assert (await chat.say("z" * (LARGE + 2000), session_id=session)).text == "ok"


async def test_one_that_fits_finds_room(busy: Any) -> None:
    """Beside the one that is under way."""
    chat, _, _ = busy
    assert (await chat.say("And then?", session_id="a")).text == "ok"


async def test_large_conversations_are_read_one_at_a_time(make_chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes meanwhile waits; small ones are read at any time."""
    chat = await make_chat()
    for session in ("a", "b"):
        await chat.say("x" * LARGE, session_id=session)
    await chat.say("Hello?", session_id="c")
    go_on, reading = asyncio.Event(), []
    shown = Attachments.shown

    async def slowly(self: Attachments, principal: Any, path: Any) -> Any:
        reading.append(path[0].conversation_id)
        if path[0].conversation_id != "c":
            await go_on.wait()
        return await shown(self, principal, path)

    monkeypatch.setattr(Attachments, "shown", slowly)
    reads = [asyncio.create_task(messages(chat, session)) for session in ("a", "b")]
    async with asyncio.timeout(10):
        while not reading:
            await asyncio.sleep(0.01)
    for _ in range(3):  # by then the other would have come
        assert len(await messages(chat, "c")) == 2
    assert len(set(reading) - {"c"}) == 1
    go_on.set()
    assert [len(found) for found in await asyncio.gather(*reads)] == [2, 2]


@pytest.mark.parametrize(
    "more",
    [{"prediction": {"content": "x" * LARGE}}, {"anything": [[]] * 20_000}, {"metadata": {"anything": "x" * LARGE}}],
    ids=["a parameter", "values", "metadata"],
)
async def test_everything_in_a_request_that_stays_counts(busy: Any, more: dict[str, Any]) -> None:
    """What goes upstream beside the messages, and what is only kept; values of JSON more than their bytes."""
    chat, _, _ = busy
    refused = await chat.client.post("/api/chat/stream", json=asked("c", "z" * 2000) | more)
    assert refused.status_code == 503


async def test_what_stands_beside_messages_is_small(make_chat: Any) -> None:
    """It is read with every turn, and with every list: settings, titles, and the ids of clients."""
    chat = await make_chat()
    much = {"parameters": {"stop": "x" * LARGE}}
    assert (await chat.client.put("/api/clients/svelte/llm", json=much)).status_code == 413
    await chat.say("Hello?", session_id="a")
    session = "/api/chat/session/a"
    assert (await chat.client.patch(session, json={"llm_settings": much})).status_code == 413
    assert (await chat.client.patch(session, json={"title": "x" * 1001})).status_code == 422
    for request in ({"metadata": {"client_assistant_message_id": "x" * 1001}}, {"session_id": "x" * 201}):
        assert (await chat.client.post("/api/chat/stream", json=asked("a", "y") | request)).status_code == 422
    assert len(await messages(chat, "a")) == 2
