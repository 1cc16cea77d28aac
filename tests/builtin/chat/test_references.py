"""Tools that name files of the conversation in what they give (contract §2.6)."""

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from chatcore.builtin.disk import DiskFiles
from chatcore.errors import ToolFailed
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.testing.chat import Chat, Reply
from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.tools import Tool
from chatcore.types import Attachment, Message

MakeChat = Callable[..., Any]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
IMAGE = {"type": "image_url", "image_url": {"url": URI}}
DRAWN = [Attachment(IMAGE)]  # what a provider yields in one list


class Said:
    """What the tools say."""

    words = ""


class Tools(Plugin[NoSettings]):
    """Tools that say what they are told to."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        async def find() -> str:
            """Finds something."""
            return Said.words

        async def fail() -> str:
            """Finds nothing."""
            raise ToolFailed(Said.words)

        return [Tool.of(find), Tool.of(fail)]


def parts(reply: Reply) -> list[dict[str, Any]]:
    """The parts that came in chunks."""
    deltas = [f.data["choices"][0]["delta"] for f in reply.named("message") if f.data != "[DONE]" and f.data["choices"]]
    return [part for delta in deltas if isinstance(delta.get("content"), list) for part in delta["content"]]


def named(reply: Reply) -> str:
    """The id of the image that an answer drew."""
    return str(parts(reply)[0]["metadata"]["attachment_id"])


async def draw(chat: Chat, **fields: Any) -> tuple[str, str]:
    """A conversation with an image in it, and the image's id."""
    reply = await chat.say("draw", **fields)
    return reply.session_id, named(reply)


def tool_text(messages: tuple[Message, ...]) -> str:
    """What the model was given of the last tool."""
    return next(message.text for message in reversed(messages) if message.role == "tool")


async def test_a_file_that_a_tool_names_is_shown_with_the_answer(make_chat: MakeChat) -> None:
    """After a word of where it is from; the model sees the text without the line, now and later, and the image. The
    client has it with the tool's result, too; the history has it with the answer, by a fresh link."""
    provider = ScriptedProvider([DRAWN], [call("find")], [text("Here.")])
    chat = await make_chat(Tools, provider=provider)
    session, image_id = await draw(chat)
    Said.words = f"Two are alike.\n  attachment_id: {image_id}\r\nThat is all."
    reply = await chat.say("find it", session_id=session)
    assert reply.text == "find:\n\nHere."
    [shown] = parts(reply)
    assert shown["metadata"]["attachment_id"] == image_id
    [finished] = [frame.data for frame in reply.named("tool") if frame.data["status"] == "finished"]
    assert (finished["result"], finished["content"]) == (
        "Two are alike.\nThat is all.",
        [{"type": "text", "text": "find:\n\n"}, shown],
    )
    assert "Two are alike.\nThat is all." in tool_text(provider.requests[-1].messages)

    await chat.say("and?", session_id=session)
    history = provider.requests[-1].messages
    assert "attachment_id" not in tool_text(history)
    assert [message.images for message in history if message.text == "find:\n\nHere."] == [(IMAGE,)]
    messages = (await chat.client.get(f"/api/chat/session/{session}/messages")).json()["messages"]
    [content] = [message["content"] for message in messages if "find:" in str(message.get("content"))]
    response = await chat.client.get(content[1]["image_url"]["url"])
    assert response.content == PNG
    await chat.client.get("/favicon.ico")


async def test_several_files(make_chat: MakeChat) -> None:
    """In the order in which they are named, each once."""
    provider = ScriptedProvider([[Attachment(IMAGE), Attachment(IMAGE)]], [call("find")], [text("Here.")])
    chat = await make_chat(Tools, provider=provider)
    reply = await chat.say("draw")
    first, second = (part["metadata"]["attachment_id"] for part in parts(reply))
    Said.words = "\n".join(f"attachment_id: {key}" for key in (second, first, second))
    reply = await chat.say("find", session_id=reply.session_id)
    assert [part["metadata"]["attachment_id"] for part in parts(reply)] == [second, first]
    assert reply.results == [""]


async def test_what_names_no_file_of_the_conversation_stays(make_chat: MakeChat) -> None:
    """One that is not there, is of another conversation, or stands in the middle of a line: the model is to see it."""
    provider = ScriptedProvider([DRAWN], [DRAWN], [call("find")], [text("Here.")])
    chat = await make_chat(Tools, provider=provider)
    session, own = await draw(chat)
    _, other = await draw(chat)
    Said.words = words = (
        f"attachment_id: {'0' * 32}\nattachment_id: {other}\nattachment_id: x\nThe attachment_id: {own}"
    )
    reply = await chat.say("find", session_id=session)
    assert (reply.results, reply.text, parts(reply)) == ([words], "Here.", [])
    assert words in tool_text(provider.requests[-1].messages)


async def test_what_a_failed_tool_says_stays(make_chat: MakeChat) -> None:
    """All of it."""
    provider = ScriptedProvider([DRAWN], [call("fail")], [text("Sorry.")])
    chat = await make_chat(Tools, provider=provider)
    session, own = await draw(chat)
    Said.words = words = f"No.\nattachment_id: {own}"
    reply = await chat.say("find", session_id=session)
    assert (reply.results, parts(reply)) == ([words], [])


async def test_a_file_that_is_kept_is_not_fetched_as_another(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the blob store's links lead to a host from which images are fetched."""
    provider = ScriptedProvider([DRAWN], [call("find")], [text("Here.")])
    chat = await make_chat(Tools, provider=provider, config={"image_hosts": ("127.0.0.1",)})
    session, own = await draw(chat)
    linked = DiskFiles.url

    async def url(files: DiskFiles, key: str, expires: timedelta) -> str:
        return f"{chat.url}{await linked(files, key, expires)}"

    monkeypatch.setattr(DiskFiles, "url", url)
    Said.words = f"attachment_id: {own}"
    assert named(await chat.say("find", session_id=session)) == own
