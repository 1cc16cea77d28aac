"""Images that models make, kept as files (chatcore/attachments.py)."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore import attachments, sse
from chatcore.builtin.disk import DiskFiles
from chatcore.database import Conversations
from chatcore.errors import NotFound
from chatcore.openai.chunks import ChunkReader
from chatcore.testing.chat import Chat, Reply
from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.tools import Tool, ToolResult
from chatcore.types import LOCAL, Attachment, Finish, ModelEvent, Principal, TextDelta

MakeChat = Callable[..., Any]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20
CODE = base64.b64encode(PNG).decode()
URI = f"data:image/png;base64,{CODE}"
PART = {"type": "image_url", "image_url": {"url": URI}, "index": 0}


def chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "gen-1", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": delta}]}


def read(*chunks: Any) -> list[ModelEvent]:
    """The events of a stream with these chunks, in one read."""
    reader = ChunkReader()
    events = reader.feed(b"".join(sse.encode(json.dumps(one).encode()) for one in chunks))
    return [*events, Finish("stop", raw=b"")]


def parts_of(reply: Reply) -> list[dict[str, Any]]:
    """The images that a client was sent, wherever in its chunks."""
    found = []
    for frame in reply.named("message"):
        for choice in frame.data["choices"] if frame.data != "[DONE]" else ():
            delta = choice["delta"]
            lists = [value for value in (delta.get("images"), delta.get("content")) if isinstance(value, list)]
            found += [part for parts in lists for part in parts if part["type"] != "text"]
    return found


async def fetched(chat: Chat, url: str) -> Any:
    """What a browser gets for a link. The next request of the connection begins when the file has been closed."""
    response = await chat.client.get(url)
    await chat.client.get("/favicon.ico")
    return response


async def history(chat: Chat, reply: Reply) -> dict[str, Any]:
    """The answer as the history has it."""
    messages = (await chat.client.get(f"/api/chat/session/{reply.session_id}/messages")).json()["messages"]
    answer: dict[str, Any] = messages[-1]
    return answer


@pytest.mark.parametrize("place", ["images", "content"])
async def test_an_image_becomes_a_link_to_a_file(make_chat: MakeChat, place: str) -> None:
    """In the chunk that it came in, beside what else that says, and in the history. The link needs no token."""
    answer = read(chunk(content="Look: "), chunk(**{"role": "assistant", place: [PART]}, extra=1))
    chat = await make_chat(provider=ScriptedProvider([answer]))
    reply = await chat.say("draw")
    assert CODE not in str(reply.frames)
    [part] = parts_of(reply)
    metadata = part["metadata"]
    assert part["image_url"]["url"] == metadata["display_url"] == metadata["delivery_url"]
    assert (metadata["mime_type"], metadata["size_bytes"], metadata["session_id"]) == (
        "image/png",
        len(PNG),
        reply.session_id,
    )
    changed = next(f.data for f in reply.named("message") if f.data != "[DONE]" and "extra" in str(f.data))
    assert (changed["id"], changed["choices"][0]["delta"]["extra"]) == ("gen-1", 1)
    words, stored = (await history(chat, reply))["content"]
    assert words == {"type": "text", "text": "Look: "}
    assert stored["metadata"]["attachment_id"] == metadata["attachment_id"]
    response = await fetched(chat, part["image_url"]["url"])
    assert (response.status_code, response.content, response.headers["content-type"]) == (200, PNG, "image/png")


async def test_several_images_in_one_chunk(make_chat: MakeChat) -> None:
    """Each has a file of its own, also two that are the same; what is no image stays as it came."""
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"RIFF....WAVE").decode()}}
    gif = {"type": "image", "b64_json": base64.b64encode(b"GIF89a" + bytes(20)).decode()}
    answer = read(chunk(images=[PART, audio, gif]), chunk(images=[PART]))
    chat = await make_chat(provider=ScriptedProvider([answer]))
    reply = await chat.say("draw")
    png, other, second, third = parts_of(reply)
    assert other == audio
    assert [part["metadata"]["mime_type"] for part in (png, second, third)] == ["image/png", "image/gif", "image/png"]
    assert len({part["metadata"]["attachment_id"] for part in (png, second, third)}) == 3
    assert second["metadata"]["source_fragment_type"] == "image"


async def test_a_provider_without_chunks(make_chat: MakeChat) -> None:
    """The part alone is replaced."""
    chat = await make_chat(provider=ScriptedProvider([[Attachment(PART)], text("Done.")]))
    reply = await chat.say("draw")
    [part] = parts_of(reply)
    assert (await fetched(chat, part["image_url"]["url"])).content == PNG


async def test_the_model_is_given_the_image_again(make_chat: MakeChat) -> None:
    """With the next question it sees what it has drawn, as it gave it: a link to this server is of no use to it."""
    provider = ScriptedProvider([read(chunk(images=[PART]))])
    chat = await make_chat(provider=provider)
    reply = await chat.say("draw")
    await chat.say("make it larger", session_id=reply.session_id)
    [drawn] = [message for message in provider.requests[1].messages if message.role == "assistant"]
    assert drawn.images == ({"type": "image_url", "image_url": {"url": URI}},)


async def test_an_image_in_a_text_is_taken_out_of_it(make_chat: MakeChat) -> None:
    """The history has its name in the text, and the image as a file beside it."""
    chat = await make_chat(provider=ScriptedProvider([text("Here is ![a cat](", URI, "), drawn.")]))
    stored = await history(chat, await chat.say("draw"))
    words, part = stored["content"]
    assert words["text"] == "Here is a cat, drawn."
    assert (await fetched(chat, part["image_url"]["url"])).content == PNG


async def test_an_image_of_a_tool_is_kept_with_the_answer(make_chat: MakeChat) -> None:
    """What a tool made is shown with the answer that follows; that holds a link, too."""

    async def draw() -> ToolResult:
        """Draws."""
        return ToolResult("drawn", parts=(PART,))

    provider = ScriptedProvider([call("draw")], [text("There.")])
    chat = await make_chat(provider=provider)
    chat.app.extensions["chatcore"].registry.tools = lambda: {"draw": Tool.of(draw)}
    reply = await chat.say("draw")
    [part] = parts_of(reply)
    words, stored = (await history(chat, reply))["content"]
    assert words == {"type": "text", "text": "There."}
    assert stored["metadata"]["attachment_id"] == part["metadata"]["attachment_id"]


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_an_image_that_cannot_be_stored_stays_as_it_came(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is whole, a notice says what happened, and the model goes on."""

    async def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("chatcore.builtin.disk.DiskFiles.put", full)
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[PART]), chunk(content=f"Look: {URI}"))]))
    reply = await chat.say("draw")
    assert parts_of(reply) == [PART]
    [notice] = reply.named("notice")
    assert notice.data == {
        "type": "image_not_kept",
        "message": "An image of this answer could not be stored as a file.",
    }
    assert (await history(chat, reply))["content"] == [{"type": "text", "text": f"Look: {URI}"}, PART]


async def test_a_blob_store_that_does_not_answer_holds_nobody_up(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, for an image in a chunk and one in the text."""

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("chatcore.builtin.disk.DiskFiles.put", never)
    monkeypatch.setattr(attachments, "STORE", 0.05)
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[PART]), chunk(content=f"Look: {URI}"))]))
    reply = await chat.say("draw")
    assert [notice.data["type"] for notice in reply.named("notice")] == ["image_not_kept"]
    assert (await history(chat, reply))["content"] == [{"type": "text", "text": f"Look: {URI}"}, PART]


async def test_an_image_that_is_too_large_is_not_stored(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, and nothing was decoded for it."""
    monkeypatch.setattr(attachments, "LARGEST", 100)
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[PART]))]))
    reply = await chat.say("draw")
    assert parts_of(reply) == [PART]
    assert [notice.data["type"] for notice in reply.named("notice")] == ["image_not_kept"]


async def test_an_image_that_is_gone_is_left_out(make_chat: MakeChat, tmp_path: Path) -> None:
    """The model can answer without it; so can the route that leads to it, with 404."""
    provider = ScriptedProvider([read(chunk(images=[PART]), chunk(content="Look."))])
    chat = await make_chat(provider=provider)
    reply = await chat.say("draw")
    [part] = parts_of(reply)
    state = chat.app.extensions["chatcore"]
    found = await state.attachments.table.find(LOCAL, [part["metadata"]["attachment_id"]])
    [record] = found.values()
    await state.attachments.store().delete(record.blob)
    await chat.say("again", session_id=reply.session_id)
    [drawn] = [message for message in provider.requests[1].messages if message.role == "assistant"]
    assert (drawn.text, drawn.images) == ("Look.", ())
    assert (await chat.client.get(f"/api/uploads/{record.id}/content")).status_code == 404


async def test_an_image_that_the_user_shows_again_is_given_to_the_model(make_chat: MakeChat) -> None:
    """Clients send the part that they were given, to have the image changed. In the history its link is a fresh one.
    However often it is shown it is given once, where it was shown last. A file that is gone, or of another
    conversation, is not given; an image that is in the part itself is."""
    drawing = read(chunk(images=[PART]), chunk(content="Look."))
    provider = ScriptedProvider([drawing], [drawing])
    chat = await make_chat(provider=provider)
    reply = await chat.say("draw")
    [part], [other] = parts_of(reply), parts_of(await chat.say("draw"))
    said, image, left_out = (
        {"type": "text", "text": "more red"},
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "text", "text": "[image]"},
    )
    gone = {"type": "image_url", "image_url": {"url": "/x"}, "metadata": {"attachment_id": "a" * 32}}
    own = {**image, "metadata": {"attachment_id": "b" * 32}}
    odd = {**image, "metadata": {"attachment_id": "\0"}}
    shown = [part, said, part, gone, other, own, odd]
    await chat.say(shown, session_id=reply.session_id)
    request = provider.requests[-1].messages
    assert request[-1].content == (left_out, said, image, left_out, left_out, image, image)
    assert request[-2].images == (image,)
    await chat.say([part], session_id=reply.session_id)
    request = provider.requests[-1].messages
    assert [request[-1].content, request[-3].content[2]] == [(image,), left_out]
    path = f"/api/chat/session/{reply.session_id}/messages"
    content = (await chat.client.get(path)).json()["messages"][2]["content"]
    assert (await fetched(chat, content[0]["image_url"]["url"])).content == PNG
    assert (content[1], content[3], content[5:]) == (said, gone, [own, odd])


async def test_a_part_that_a_model_made_up_is_nobodys_file(make_chat: MakeChat) -> None:
    """It may look like an attachment of somebody else; there is no link to that."""
    forged = {
        "type": "image_url",
        "image_url": {"url": "/x"},
        "metadata": {"attachment_id": "a" * 32, "expires_at": ""},
    }
    odd = {"type": "image_url", "image_url": {"url": "/x"}, "metadata": {"attachment_id": []}}
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[forged, odd]))]))
    reply = await chat.say("draw")
    assert (await history(chat, reply))["content"] == [forged, odd]


# --- images from elsewhere --------------------------------------------------------------------------------------------


@pytest.fixture
async def elsewhere() -> AsyncIterator[tuple[str, list[str]]]:
    """A server with images: its address, and the paths that it was asked for."""
    asked: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        asked.append(path)
        body = {"/large.png": PNG * 200, "/text.png": b"no image"}.get(path, PNG)
        kind = "text/html" if path == "/page" else "image/png"
        status = "302 Found\r\nLocation: /cat.png" if path == "/moved" else "200 OK"
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"http://{host}:{port}", asked
    server.close()


def linked(url: str) -> ScriptedProvider:
    return ScriptedProvider([read(chunk(images=[{"type": "image_url", "image_url": {"url": url}}]))])


async def test_an_image_of_an_allowed_host_is_fetched(make_chat: MakeChat, elsewhere: tuple[str, list[str]]) -> None:
    """And then it is a file like any other."""
    url, _ = elsewhere
    chat = await make_chat(provider=linked(f"{url}/cat.png"), config={"image_hosts": ("127.0.0.1",)})
    [part] = parts_of(await chat.say("draw"))
    assert (await fetched(chat, part["image_url"]["url"])).content == PNG


async def test_nothing_is_fetched_from_other_hosts(make_chat: MakeChat, elsewhere: tuple[str, list[str]]) -> None:
    """The URL goes on as it came, and no request was made: by default no host is allowed."""
    url, asked = elsewhere
    for hosts in ((), ("images.example.com",)):
        chat = await make_chat(provider=linked(f"{url}/cat.png"), config={"image_hosts": hosts})
        reply = await chat.say("draw")
        assert [part["image_url"]["url"] for part in parts_of(reply)] == [f"{url}/cat.png"]
        assert reply.named("notice") == []
    assert asked == []


@pytest.mark.parametrize("path", ["/page", "/moved", "/large.png", "/text.png"])
async def test_what_is_fetched_has_limits(
    make_chat: MakeChat, elsewhere: tuple[str, list[str]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an image, of no more than the limit, from there and not from where it sends; else the URL stays."""
    monkeypatch.setattr(attachments, "LARGEST", 100_000)
    url, asked = elsewhere
    chat = await make_chat(provider=linked(f"{url}{path}"), config={"image_hosts": ("127.0.0.1",)})
    reply = await chat.say("draw")
    assert [part["image_url"]["url"] for part in parts_of(reply)] == [f"{url}{path}"]
    assert asked == [path]


# --- links and deletion -----------------------------------------------------------------------------------------------


async def test_the_history_has_fresh_links(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next week, and after a restore, too."""
    monkeypatch.setattr(attachments, "LINK", timedelta(hours=1))
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[PART]), chunk(content="x"))]))
    reply = await chat.say("draw")
    monkeypatch.setattr(attachments, "LINK", timedelta(days=7))
    fresh = (await history(chat, reply))["content"][1]
    expires = datetime.fromisoformat(fresh["metadata"]["expires_at"])
    assert expires > datetime.now(UTC) + timedelta(days=6)
    assert fresh["image_url"]["url"] == fresh["metadata"]["display_url"] != parts_of(reply)[0]["image_url"]["url"]
    assert (await fetched(chat, fresh["image_url"]["url"])).content == PNG


async def test_the_route_leads_its_owner_to_the_file(make_chat: MakeChat) -> None:
    """By a fresh link; nobody else learns that there is one."""
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[PART]))]))
    [part] = parts_of(await chat.say("draw"))
    attachment_id = part["metadata"]["attachment_id"]
    found = await chat.client.get(f"/api/uploads/{attachment_id}/content")
    assert found.status_code == 302
    assert (await fetched(chat, found.headers["location"])).content == PNG
    assert (await chat.client.get("/api/uploads/none/content")).status_code == 404
    with pytest.raises(NotFound):
        await chat.app.extensions["chatcore"].attachments.link(Principal("bob"), attachment_id)


@pytest.mark.parametrize("path", ["/api/chat/conversations/{}", "/api/chat/session/{}"])
async def test_a_conversation_is_deleted_with_its_files(make_chat: MakeChat, tmp_path: Path, path: str) -> None:
    """Those of others stay."""
    drawing = read(chunk(images=[PART]))
    chat = await make_chat(provider=ScriptedProvider([drawing], [drawing]))
    gone, stays = parts_of(first := await chat.say("draw")) + parts_of(await chat.say("draw"))
    assert (await chat.client.delete(path.format(first.session_id))).status_code == 204
    assert (await fetched(chat, gone["image_url"]["url"])).status_code == 404
    assert (await fetched(chat, stays["image_url"]["url"])).status_code == 200


async def test_a_file_that_cannot_be_deleted_is_deleted_later(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The conversation goes at once; the file with the next sweep, which servers do now and then."""
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[PART]))]))
    [part] = parts_of(reply := await chat.say("draw"))
    kept = chat.app.extensions["chatcore"].attachments

    async def fails(*_: Any) -> None:
        raise OSError("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr("chatcore.builtin.disk.DiskFiles.delete", fails)
        assert (await chat.client.delete(f"/api/chat/conversations/{reply.session_id}")).status_code == 204
    assert "the disk is away" in caplog.text
    assert (await fetched(chat, part["image_url"]["url"])).status_code == 200
    assert len(await kept.table.orphans()) == 1
    await kept.sweep()
    assert (await fetched(chat, part["image_url"]["url"])).status_code == 404
    assert await kept.table.orphans() == []


async def test_a_file_that_can_never_be_deleted_keeps_no_other(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of the conversation go."""
    chat = await make_chat(provider=ScriptedProvider([read(chunk(images=[PART, PART, PART]))]))
    reply = await chat.say("draw")
    kept = chat.app.extensions["chatcore"].attachments
    first, *_ = [part["metadata"]["attachment_id"] for part in parts_of(reply)]
    delete = DiskFiles.delete

    async def fails(self: DiskFiles, key: str) -> None:
        if first in key:
            raise OSError("it is locked")
        await delete(self, key)

    monkeypatch.setattr(DiskFiles, "delete", fails)
    assert (await chat.client.delete(f"/api/chat/conversations/{reply.session_id}")).status_code == 204
    assert [row_id for row_id, _ in await kept.table.orphans()] == [first]


async def test_an_image_is_not_kept_for_a_conversation_that_is_gone(make_chat: MakeChat) -> None:
    """Nothing would ever delete it."""
    chat = await make_chat()
    kept = chat.app.extensions["chatcore"].attachments
    with_notice = await kept.keep(LOCAL, "gone", [TextDelta("a"), Attachment(PART)])
    assert [type(event).__name__ for event in with_notice] == ["TextDelta", "Attachment", "Notice"]
    await Conversations(chat.app.extensions["chatcore"].database).save(LOCAL, "../gone/x")
    [event] = await kept.keep(LOCAL, "../gone/x", [Attachment(PART)])
    [record] = (await kept.table.find(LOCAL, [event.part["metadata"]["attachment_id"]])).values()
    assert record.blob.startswith("gone_x/")
    assert attrs.asdict(record)["size"] == len(PNG)
