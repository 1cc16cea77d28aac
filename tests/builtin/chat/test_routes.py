"""The chat API over a real socket (contract §1.2 and §2)."""

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import attrs
import httpx
import pytest

from chatcore.errors import Forbidden, ProviderUnavailable
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.runs.held import lease
from chatcore.testing.chat import Chat, frames
from chatcore.testing.scripted import ScriptedProvider, call, text, think
from chatcore.tools import Tool
from chatcore.types import LOCAL, Turn

MakeChat = Callable[..., Awaitable[Chat]]


class Words(Plugin[NoSettings]):
    """Looks words up."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [Tool.of(self.lookup)]

    async def lookup(self, word: str) -> str:
        """Looks a word up."""
        return f"{word} means much"


def names(chat_frames: Any) -> list[str]:
    return [frame.event for frame in chat_frames]


# --- one turn ---------------------------------------------------------------------------------------------------------


async def test_a_new_conversation_is_announced_first_and_done_comes_last(make_chat: MakeChat) -> None:
    """`session` stands before the first `message`; `metadata` after the last text; `[DONE]` is the end."""
    chat = await make_chat(provider=ScriptedProvider([think("Hm."), text("Hel", "lo")]))
    body = {"messages": [{"role": "user", "content": "hi"}]}
    response = await chat.client.post("/api/chat/stream", json=body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"
    assert "no-store" in response.headers["cache-control"]
    got = frames(response.content)
    assert got[0].event == "session"
    assert len(got[0].data["session_id"]) == 32
    assert got[-1].data == "[DONE]"
    assert names(got).index("metadata") == len(got) - 2
    run_id = response.headers["chatcore-run-id"]
    assert all(frame.id.startswith(f"{run_id}:") for frame in got)


async def test_a_known_conversation_is_not_announced_and_its_history_is_sent(make_chat: MakeChat) -> None:
    """The second turn gives the model the first one's messages, and a system message with the time."""
    chat = await make_chat(provider=ScriptedProvider([text("Hello")], [text("Again")]))
    first = await chat.say("hi")
    second = await chat.say("and now?", session_id=first.session_id)
    assert "session" in names(first.frames)
    assert "session" not in names(second.frames)
    system, *rest = chat.provider.requests[1].messages
    assert system.role == "system"
    assert "UTC" in system.text
    assert [(m.role, m.text) for m in rest] == [("user", "hi"), ("assistant", "Hello"), ("user", "and now?")]


async def test_metadata_says_what_was_stored(make_chat: MakeChat) -> None:
    """The ids that the client chose, the row's number, both times, the full reasoning, and no `meta`."""
    chat = await make_chat(provider=ScriptedProvider([think("First, "), think("then."), text("Yes")]))
    reply = await chat.say("hi", metadata={"client_assistant_message_id": "assistant_1"})
    [metadata] = reply.named("metadata")
    assert metadata.data["client_message_id"] == "assistant_1"
    assert metadata.data["reasoning"] == [{"type": "reasoning.text", "text": "First, then."}]
    assert metadata.data["finish_reason"] == "stop"
    assert metadata.data["created_at"][-6:] in ("-05:00", "-04:00")
    assert metadata.data["created_at_utc"].endswith("+00:00")
    assert isinstance(metadata.data["message_id"], int)
    assert "meta" not in metadata.data


async def test_a_tool_turn_shows_start_and_end_between_two_answers(make_chat: MakeChat) -> None:
    """`started` and `finished` share a call id; there is one `metadata` for each call of the model."""
    chat = await make_chat(Words, provider=ScriptedProvider([call("lookup", word="tree")], [text("Much.")]))
    reply = await chat.say("What does tree mean?")
    started, finished = (frame.data for frame in reply.named("tool"))
    assert started == {"status": "started", "name": "lookup", "call_id": "call_lookup"}
    assert (finished["status"], finished["result"]) == ("finished", "tree means much")
    assert finished["call_id"] == started["call_id"]
    assert len(reply.named("metadata")) == 2
    history = (await chat.client.get(f"/api/chat/session/{reply.session_id}/messages")).json()
    assert [m["role"] for m in history["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert history["messages"][2]["tool_name"] == history["messages"][2]["name"] == "lookup"


@pytest.mark.parametrize(
    ("limits", "status", "fields"),
    [
        ({"hops": 1}, "hop_limit", {"hop_limit_pause": True, "hop_count": 1}),
        (
            {"tool_errors": 2},
            "tool_error_limit",
            {"tool_error_pause": True, "tool_error_count": 2, "tool_error_limit": 2},
        ),
    ],
)
async def test_a_pause_is_in_the_history(
    make_chat: MakeChat, limits: dict[str, int], status: str, fields: dict[str, Any]
) -> None:
    """As the words that the client was told; the metadata of the answer before it are the last that it is told. The
    next turn goes on."""
    provider = ScriptedProvider(*[[call("lookup", id=f"c{n}", wrong=n)] for n in range(2)])
    chat = await make_chat(Words, provider=provider, config=limits)
    reply = await chat.say("hi", session_id="s")
    [pause] = [frame.data for frame in reply.named("tool") if frame.data["name"] == "system"]
    assert (pause["status"], reply.text) == (status, pause["result"])
    *_, tool, told = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    assert (tool["role"], told["role"], told["content"]) == ("tool", "assistant", reply.text)
    assert {key: told.get(key) for key in fields} == fields
    assert reply.named("metadata")[-1].data["tool_calls"]
    del provider._scripts[:]
    assert (await chat.say("continue", session_id="s")).text == "ok"


async def test_a_provider_that_is_down_is_told_inside_the_stream(make_chat: MakeChat) -> None:
    """An `error` event for those who know it, a message for those who do not, and `[DONE]`."""
    chat = await make_chat(provider=ScriptedProvider([ProviderUnavailable("no connection")]))
    reply = await chat.say("hi")
    assert reply.named("error")[0].data["error"] == "no connection"
    assert reply.text == "Error: no connection"
    assert reply.frames[-1].data == "[DONE]"


async def test_parameters_and_unknown_fields_pass_upstream(make_chat: MakeChat) -> None:
    """What chatcore has no use for is the model server's; what is chatcore's own is not sent."""
    chat = await make_chat()
    await chat.say("hi", top_k=3, reasoning={"effort": "low"}, brand_new={"a": [1]}, metadata={"client_id": "cli"})
    parameters = chat.provider.requests[0].parameters
    assert parameters["top_k"] == 3
    assert parameters["reasoning"] == {"effort": "low"}
    assert parameters["brand_new"] == {"a": [1]}
    assert not {"messages", "metadata", "session_id", "model"} & set(parameters)


async def test_assistant_messages_of_a_client_are_ignored(make_chat: MakeChat) -> None:
    """The history is the server's: a client cannot put words into the model's mouth."""
    chat = await make_chat()
    body = {"messages": [{"role": "assistant", "content": "I promise."}, {"role": "user", "content": "hi"}]}
    await chat.client.post("/api/chat/stream", json=body)
    assert [m.role for m in chat.provider.requests[0].messages] == ["system", "user"]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "paths"),
    [
        ({}, ["$.messages"]),
        ({"messages": []}, ["$.messages"]),
        ({"messages": [{"role": "assistant", "content": "x"}]}, ["$.messages"]),
        ({"messages": [], "metadata": {"parent_message_id": 0}}, ["$.messages"]),
        ({"messages": "hi"}, ["$.messages"]),
        ({"messages": [{"role": "robot"}, {"role": 5}]}, ["$.messages[0].role", "$.messages[1].role"]),
        (
            {"messages": [{"role": "user", "content": "x"}], "temperature": "hot", "top_k": 1.5},
            ["$.temperature", "$.top_k"],
        ),
        ({"messages": [{"role": "user", "content": "x"}], "session_id": ""}, ["$.session_id"]),
        ({"messages": [{"role": "user", "content": " \n"}, {"role": "user", "content": []}]}, ["$.messages"]),
        ({"messages": [{"role": "system", "content": "Be kind."}]}, ["$.messages"]),
        (
            {
                "messages": [{"role": "user", "content": "x", "client_message_id": "\0"}],
                "model": "\0",
                "metadata": {"client_assistant_message_id": "x" * 1001},
            },
            ["$.messages[0].client_message_id", "$.model", "$.metadata.client_assistant_message_id"],
        ),
        ({"messages": [{"role": "user", "content": "x"}], "logit_bias": {"²": "x"}}, ["$.logit_bias['²']"]),
        ([], ["$"]),
        (None, ["$"]),
    ],
)
async def test_a_body_of_the_wrong_shape_names_every_wrong_path(
    make_chat: MakeChat, body: Any, paths: list[str]
) -> None:
    """422 with one entry for each wrong path, and nothing is started."""
    chat = await make_chat()
    response = await chat.client.post("/api/chat/stream", content=json.dumps(body))
    assert response.status_code == 422, response.text
    assert [entry["path"] for entry in response.json()["detail"]] == paths
    assert not chat.provider.requests


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": NaN}',
        b'{"messages": Infinity}',
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"\x00",
    ],
    ids=["empty", "cut", "not utf-8", "nan", "infinity", "deep list", "deep object", "nul"],
)
async def test_a_body_that_is_not_json_is_refused(make_chat: MakeChat, body: bytes) -> None:
    """400 with a sentence, whatever the bytes are."""
    chat = await make_chat()
    headers = {"Content-Type": "application/json"}
    response = await chat.client.post("/api/chat/stream", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["detail"]


async def test_a_body_over_the_limit_is_refused(make_chat: MakeChat) -> None:
    """413 as JSON."""
    chat = await make_chat(config={"max_body": 1000})
    response = await chat.client.post("/api/chat/stream", content=b"x" * 2000)
    assert response.status_code == 413
    assert response.json()["detail"]


async def test_an_unknown_route_and_a_wrong_method_are_answered_as_json(make_chat: MakeChat) -> None:
    """404 and 405, each with a `detail`."""
    chat = await make_chat()
    assert (await chat.client.get("/api/nothing")).status_code == 404
    wrong = await chat.client.put("/api/chat/stream")
    assert wrong.status_code == 405
    assert wrong.json()["detail"]


async def test_a_full_server_starts_nothing(make_chat: MakeChat) -> None:
    """Above the limit of runs: 503 with Retry-After, before anything is stored."""
    go_on = asyncio.Event()
    chat = await make_chat(provider=ScriptedProvider([go_on, text("ok")]), config={"max_streams": 1})
    running = asyncio.create_task(chat.say("first"))
    await chat.provider.asked.wait()
    response = await chat.client.post(
        "/api/chat/stream", json={"messages": [{"role": "user", "content": "x"}], "session_id": "second"}
    )
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1
    assert (await chat.client.get("/api/chat/session/second/messages")).status_code == 404
    go_on.set()
    assert (await running).text == "ok"


# --- runs -------------------------------------------------------------------------------------------------------------


async def test_a_run_can_be_read_again_from_any_event(make_chat: MakeChat) -> None:
    """After its end, from every number on, the rest is exactly the rest of the first stream."""
    chat = await make_chat(Words, provider=ScriptedProvider([call("lookup", word="a")], [text("x", "y")]))
    reply = await chat.say("hi")
    whole = list(reply.frames)
    for position, frame in enumerate(whole):
        number = int(frame.id.rpartition(":")[2])
        again = await chat.client.get(f"/api/chat/runs/{reply.run_id}/events", params={"after": number})
        assert list(frames(again.content)) == whole[position + 1 :]
        by_header = await chat.client.get(f"/api/chat/runs/{reply.run_id}/events", headers={"Last-Event-ID": frame.id})
        assert by_header.content == again.content


async def test_a_reader_that_comes_late_gets_everything(make_chat: MakeChat) -> None:
    """A second reader of a run under way sees what the first one sees."""
    go_on = asyncio.Event()
    chat = await make_chat(provider=ScriptedProvider([text("one "), go_on, text("two")]))
    first = asyncio.create_task(chat.say("hi"))
    await chat.provider.asked.wait()
    [run_id] = chat.app.extensions["chatcore"].runs._held.live
    second = asyncio.create_task(chat.client.get(f"/api/chat/runs/{run_id}/events"))
    go_on.set()
    assert frames((await second).content) == (await first).frames


async def test_a_run_is_stopped_by_its_name(make_chat: MakeChat) -> None:
    """The stop answers when the run has ended; the text until then is kept, marked."""
    chat = await make_chat(provider=ScriptedProvider([text("Once"), asyncio.Event()]))
    body = {"messages": [{"role": "user", "content": "tell"}], "session_id": "s"}
    async with chat.client.stream("POST", "/api/chat/stream", json=body) as response:
        run_id = response.headers["chatcore-run-id"]
        async for chunk in response.aiter_bytes():
            if b"Once" in chunk:
                break
        stopped = (await chat.client.post(f"/api/chat/runs/{run_id}/stop")).json()
    assert (stopped["state"], stopped["reason"]) == ("stopped", "user")
    assert chat.provider.closed.is_set()
    answer = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"][-1]
    assert (answer["content"], answer["status"]) == ("Once", "partial")
    again = (await chat.client.post(f"/api/chat/runs/{run_id}/stop")).json()
    assert again == stopped


@pytest.mark.parametrize(("header", "state"), [({}, "stopped"), ({"Chatcore-On-Disconnect": "continue"}, "completed")])
async def test_what_a_closed_connection_means_is_the_clients_choice(
    make_chat: MakeChat, header: dict[str, str], state: str
) -> None:
    """The seeds' clients cancel by leaving; a client that says so lets the answer go on."""
    gone = asyncio.Event()
    chat = await make_chat(
        provider=ScriptedProvider([text("one "), gone, text("two")]), config={"disconnect_grace": 0.05}
    )
    body = {"messages": [{"role": "user", "content": "x"}], "session_id": "s"}
    async with chat.client.stream("POST", "/api/chat/stream", json=body, headers=header) as response:
        run_id = response.headers["chatcore-run-id"]
        async for chunk in response.aiter_bytes():
            if b"one" in chunk:
                break
    run = chat.app.extensions["chatcore"].runs._held.live[run_id]
    if header:
        while run._readers:
            await asyncio.sleep(0)
        gone.set()
    await run.over.wait()
    assert (await chat.client.get(f"/api/chat/runs/{run_id}")).json()["state"] == state


async def test_a_second_turn_waits_for_nobody(make_chat: MakeChat) -> None:
    """While an answer is being read, another turn in the same conversation is refused with 409."""
    go_on = asyncio.Event()
    chat = await make_chat(provider=ScriptedProvider([go_on, text("ok")]))
    running = asyncio.create_task(chat.say("first", session_id="s"))
    await chat.provider.asked.wait()
    body = {"messages": [{"role": "user", "content": "second"}], "session_id": "s"}
    assert (await chat.client.post("/api/chat/stream", json=body)).status_code == 409
    go_on.set()
    await running


async def test_a_number_that_no_event_has_is_refused(make_chat: MakeChat) -> None:
    """However long it is."""
    chat = await make_chat()
    reply = await chat.say("hi")
    for number in ("-1", "x", "9" * 20, "9" * 5000):
        headers = {"Last-Event-ID": f"{reply.run_id}:{number}"}
        refused = await chat.client.get(f"/api/chat/runs/{reply.run_id}/events", headers=headers)
        assert refused.status_code == 400, number


async def test_a_run_whose_log_is_gone_is_read_from_its_messages(make_chat: MakeChat) -> None:
    """In few pieces, with the same words, tools, numbers of messages and end. Who has read some of it gets no word
    twice, but how the answer is stored, and the end."""
    chat = await make_chat(Words, provider=ScriptedProvider([call("lookup", word="a")], [think("hm"), text("x", "y")]))
    reply = await chat.say("hi")
    state = chat.app.extensions["chatcore"]
    await state.runs.idle()
    await state.runs._table.prune(datetime.now(UTC))
    path = f"/api/chat/runs/{reply.run_id}/events"
    again = attrs.evolve(reply, frames=frames((await chat.client.get(path)).content))
    assert (again.text, again.results) == (reply.text, reply.results)
    for name in ("tool", "metadata"):
        assert [frame.data for frame in again.named(name)] == [frame.data for frame in reply.named(name)]
    assert again.frames[-1] == reply.frames[-1]
    late = frames((await chat.client.get(path, params={"after": 2})).content)
    assert late == reply.frames[-2:]
    assert not frames((await chat.client.get(path, headers={"Last-Event-ID": reply.frames[-1].id})).content)


@pytest.mark.parametrize("path", ["", "/events", "/stop"])
async def test_an_unknown_run_is_not_found(make_chat: MakeChat, path: str) -> None:
    """404 for reading, looking and stopping."""
    chat = await make_chat()
    method = "POST" if path == "/stop" else "GET"
    assert (await chat.client.request(method, f"/api/chat/runs/nope{path}")).status_code == 404


# --- conversations ----------------------------------------------------------------------------------------------------


async def test_only_saved_conversations_are_listed_and_found_by_any_word(make_chat: MakeChat) -> None:
    """Save puts one into the list; its title is the first message; search finds words of answers too."""
    chat = await make_chat(provider=ScriptedProvider([text("The rhubarb is ripe.")]))
    reply = await chat.say("Tell me of the garden")
    assert (await chat.client.get("/api/chat/conversations")).json() == {"conversations": []}
    saved = await chat.client.post(f"/api/chat/session/{reply.session_id}/save")
    assert saved.json()["title"] == "Tell me of the garden"
    [row] = (await chat.client.get("/api/chat/conversations")).json()["conversations"]
    assert (row["session_id"], row["title_source"], row["message_count"]) == (reply.session_id, "auto", 2)
    for word, count in {"rhubarb": 1, "garden": 1, "GARD": 1, "cabbage": 0, "%": 0}.items():
        found = await chat.client.get("/api/chat/conversations", params={"search": word})
        assert len(found.json()["conversations"]) == count, word
    assert (await chat.client.get("/api/chat/conversations", params={"search": ""})).status_code == 422
    assert (await chat.client.get("/api/chat/conversations", params={"limit": 201})).status_code == 422
    await chat.client.post(f"/api/chat/session/{reply.session_id}/unsave")
    assert (await chat.client.get("/api/chat/conversations")).json() == {"conversations": []}


async def test_saving_again_keeps_what_the_request_lacks(make_chat: MakeChat) -> None:
    """Settings and titles are not lost by a save that does not name them."""
    chat = await make_chat()
    settings = {"model": "a/b", "preset_name": None}
    first = await chat.client.post("/api/chat/session/new/save", json={"title": "Mine", "llm_settings": settings})
    assert first.json() == {"saved": True, "session_id": "new", "title": "Mine", "llm_settings": settings}
    again = await chat.client.post("/api/chat/session/new/save", content=b"not json")
    assert again.json() == first.json()


async def test_a_title_of_the_users_is_kept_from_the_model(make_chat: MakeChat) -> None:
    """A model's title replaces one made from the message, never one that the user chose."""
    chat = await make_chat(provider=ScriptedProvider([text("ok")], [text("A fine title")], [text("Another")]))
    reply = await chat.say("hi")
    path = f"/api/chat/session/{reply.session_id}"
    made = (await chat.client.post(f"{path}/generate-title")).json()
    assert made == {"session_id": reply.session_id, "title": "A fine title", "title_source": "ai"}
    await chat.client.patch(path, json={"title": "Mine"})
    kept = (await chat.client.post(f"{path}/generate-title")).json()
    assert (kept["title"], kept["title_source"]) == ("Mine", "user")
    assert (await chat.client.post("/api/chat/session/unknown/generate-title")).status_code == 404
    assert (await chat.client.patch(path, json={})).status_code == 400


async def test_a_title_that_nobody_can_make_is_no_error(make_chat: MakeChat) -> None:
    """Clients ask for one whenever a conversation is left, also where the model for titles is nobody's."""
    chat = await make_chat(config={"title_model": "echo/x"}, provider=ScriptedProvider())
    reply = await chat.say("hi")
    await chat.app.extensions["chatcore"].plugins.unload("echo")
    chat.provider.open = False
    asked = await chat.client.post(f"/api/chat/session/{reply.session_id}/generate-title")
    expected = {"session_id": reply.session_id, "title": "hi", "title_source": "auto", "generated": False}
    assert (asked.status_code, asked.json()) == (200, expected)


async def test_deleting_a_message_takes_its_answer_along(make_chat: MakeChat) -> None:
    """By the client's id or by number; deleting twice gives 404; the turns after it stay."""
    chat = await make_chat(provider=ScriptedProvider([text("a1")], [text("a2")]))
    first = {"role": "user", "content": "q1", "client_message_id": "user_1"}
    metadata = {"client_assistant_message_id": "assistant_1", "client_parent_message_id": "user_1"}
    await chat.client.post("/api/chat/stream", json={"messages": [first], "session_id": "s", "metadata": metadata})
    await chat.say("q2", session_id="s")
    assert (await chat.client.delete("/api/chat/session/s/messages/user_1")).status_code == 204
    assert (await chat.client.delete("/api/chat/session/s/messages/user_1")).status_code == 404
    history = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    assert [m["content"] for m in history] == ["q2", "a2"]
    assert (await chat.client.delete(f"/api/chat/session/s/messages/{history[0]['message_id']}")).status_code == 204
    assert (await chat.client.get("/api/chat/session/s/messages")).json()["messages"] == []


async def test_a_message_may_be_deleted_while_it_is_answered(make_chat: MakeChat) -> None:
    """The answer is stopped, and its readers see it end; an answer to another message goes on."""
    never = asyncio.Event()
    chat = await make_chat(provider=ScriptedProvider([text("a")], [text("b"), never]))
    await chat.say("q1", session_id="s")
    asking = asyncio.create_task(chat.say("q2", session_id="s"))
    async with asyncio.timeout(10):
        while len(messages := (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]) < 3:
            await asyncio.sleep(0.01)
        assert (
            await chat.client.delete(f"/api/chat/session/s/messages/{messages[0]['message_id']}")
        ).status_code == 204
        assert not asking.done()
        assert (
            await chat.client.delete(f"/api/chat/session/s/messages/{messages[2]['message_id']}")
        ).status_code == 204
        reply = await asking
    assert (reply.text, reply.frames[-1].data, reply.named("error")) == ("b", "[DONE]", [])
    assert (await chat.client.get("/api/chat/session/s/messages")).json()["messages"] == []


@pytest.mark.parametrize("session", ["ünï ☃ %41?&#", "a/b", " "])
async def test_ids_that_clients_choose_may_have_any_form(make_chat: MakeChat, session: str) -> None:
    """Of sessions and of messages: what was stored under one is found under it."""
    chat = await make_chat()
    body = {"messages": [{"role": "user", "content": "x", "client_message_id": session}], "session_id": session}
    assert (await chat.client.post("/api/chat/stream", json=body)).status_code == 200
    path = f"/api/chat/session/{quote(session, safe='')}"
    assert len((await chat.client.get(f"{path}/messages")).json()["messages"]) == 2
    assert (await chat.client.patch(path, json={"title": "Mine"})).json() == {"session_id": session, "title": "Mine"}
    assert (await chat.client.delete(f"{path}/messages/{quote(session, safe='')}")).status_code == 204
    assert (await chat.client.get(f"{path}/messages")).json()["messages"] == []
    assert (await chat.client.delete(path)).status_code == 204
    assert (await chat.client.get(f"{path}/messages")).status_code == 404


async def test_a_saved_conversation_survives_the_deletion_of_its_session(make_chat: MakeChat) -> None:
    """DELETE of a session forgets what is not saved; DELETE of a conversation forgets it in any case."""
    chat = await make_chat()
    kept, lost = await chat.say("hi", session_id="kept"), await chat.say("hi", session_id="lost")
    await chat.client.post(f"/api/chat/session/{kept.session_id}/save")
    for session in ("kept", "lost", "unknown"):
        assert (await chat.client.delete(f"/api/chat/session/{session}")).status_code == 204
    assert (await chat.client.get(f"/api/chat/session/{kept.session_id}/messages")).status_code == 200
    assert (await chat.client.get(f"/api/chat/session/{lost.session_id}/messages")).status_code == 404
    assert (await chat.client.delete("/api/chat/conversations/kept")).status_code == 204
    assert (await chat.client.delete("/api/chat/conversations/kept")).status_code == 404


async def test_an_edit_makes_a_branch_and_overwrites_nothing(make_chat: MakeChat) -> None:
    """A message after an earlier one is a branch: the path shows it, and the model is given only it."""
    chat = await make_chat(provider=ScriptedProvider([text("a1")], [text("a2")], [text("b2")]))
    await chat.say("q1", session_id="s")
    first = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    await chat.say("q2", session_id="s")
    await chat.say("q2, better", session_id="s", metadata={"parent_message_id": first[-1]["message_id"]})
    path = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    assert [m["content"] for m in path] == ["q1", "a1", "q2, better", "b2"]
    assert [m.text for m in chat.provider.requests[2].messages[1:]] == ["q1", "a1", "q2, better"]


async def test_an_answer_that_cannot_be_made_anew_stays(make_chat: MakeChat) -> None:
    """When nothing comes of the new one, the conversation has the earlier one; when something does, the new one."""
    chat = await make_chat(provider=ScriptedProvider([text("a")], [ProviderUnavailable("down")], [text("b")]))
    await chat.say("q", session_id="s")
    question, answer = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    again = {"messages": [], "session_id": "s", "metadata": {"parent_message_id": question["message_id"]}}
    failed = await chat.client.post("/api/chat/stream", json=again)
    assert "down" in failed.text
    assert (await chat.client.get("/api/chat/session/s/messages")).json()["messages"] == [question, answer]
    await chat.client.post("/api/chat/stream", json=again)
    path = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    assert [m["content"] for m in path] == ["q", "b"]


async def test_a_branch_of_no_conversation_is_refused_before_a_model_is_asked(make_chat: MakeChat) -> None:
    """There is no message to hang it on."""
    chat = await make_chat()
    body = {"messages": [{"role": "user", "content": "x"}], "metadata": {"parent_message_id": 5}}
    refused = await chat.client.post("/api/chat/stream", json=body)
    assert (refused.status_code, refused.json()["detail"]) == (404, "Message not found")
    assert not chat.provider.requests


async def test_the_test_stream_says_hello(make_chat: MakeChat) -> None:
    """Three messages and `[DONE]`."""
    chat = await make_chat()
    got = frames((await chat.client.get("/api/chat/test-stream")).content)
    assert [frame.data["choices"][0]["delta"]["content"] for frame in got[:-1]] == ["Hello ", "from ", "server!"]
    assert got[-1].data == "[DONE]"


async def test_health_names_the_models_and_the_providers(make_chat: MakeChat) -> None:
    """The shape that the clients read, and how each provider is."""
    chat = await make_chat()
    health = (await chat.client.get("/health")).json()
    assert health["status"] == "ok"
    assert health["default_model"] == health["active_model"] == "scripted/model"
    assert health["providers"]["scripted"] == {"state": "ready", "detail": ""}


async def test_a_client_that_half_sends_gets_no_answer_and_harms_nobody(make_chat: MakeChat) -> None:
    """A connection that is cut inside its request leaves the server serving."""
    chat = await make_chat()
    _, writer = await asyncio.open_connection(*chat.url.removeprefix("http://").split(":"))
    writer.write(b"POST /api/chat/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await chat.say("hi")).text == "ok"
    assert isinstance(chat.client, httpx.AsyncClient)


class Strict(Plugin[NoSettings]):
    """Refuses."""

    @hookimpl
    async def prepare_turn(self, turn: Turn) -> Turn | None:
        if "secret" in turn.history[-1].text:
            raise Forbidden("that is not for a model's ears")
        return None


@pytest.mark.parametrize("known", [True, False])
async def test_of_a_turn_that_a_plugin_refuses_nothing_stays(make_chat: MakeChat, known: bool) -> None:
    """The client reads why; the message is in no history, so no later turn sends it; the next turn works."""
    chat = await make_chat(Strict)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "a secret"}]}
    if known:
        await chat.say("hi", session_id="s")
        body["session_id"] = "s"
    refused = await chat.client.post("/api/chat/stream", json=body)
    assert (refused.status_code, refused.json()["detail"]) == (403, "that is not for a model's ears")
    await chat.say("and now?", session_id="s")
    assert not [m for m in chat.provider.requests[-1].messages if "secret" in m.text]
    history = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    assert "a secret" not in [m["content"] for m in history]


async def test_a_refused_turn_leaves_the_conversation_as_it_was(make_chat: MakeChat) -> None:
    """Also one that was to begin a branch; and no conversation, if there was none."""
    chat = await make_chat(Strict)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "a secret"}], "session_id": "s"}
    assert (await chat.client.post("/api/chat/stream", json=body)).status_code == 403
    assert (await chat.client.get("/api/chat/session/s/messages")).status_code == 404
    assert "session" in names((await chat.say("hi", session_id="s")).frames)
    history = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    body["metadata"] = {"parent_message_id": 0}
    assert (await chat.client.post("/api/chat/stream", json=body)).status_code == 403
    assert (await chat.client.get("/api/chat/session/s/messages")).json()["messages"] == history


class Slow(Plugin[NoSettings]):
    """Takes its time before the model is asked."""

    @hookimpl
    async def prepare_turn(self, turn: Turn) -> Turn | None:
        if "slow" in turn.history[-1].text:
            self.begun.set()
            await self.go_on.wait()
        return None

    begun = asyncio.Event()
    go_on = asyncio.Event()


@pytest.fixture
def slow() -> type[Slow]:
    """The plugin, with events of this test's own."""
    return type("Slow", (Slow,), {"__doc__": Slow.__doc__, "begun": asyncio.Event(), "go_on": asyncio.Event()})


async def leave(chat: Chat, slow: type[Slow], **headers: str) -> None:
    """Asks something that takes long to prepare, and goes away meanwhile."""
    body = {"messages": [{"role": "user", "content": "slow"}], "session_id": "s"}
    asking = asyncio.create_task(chat.client.post("/api/chat/stream", json=body, headers=headers))
    await slow.begun.wait()
    asking.cancel()
    await asyncio.wait([asking])


async def test_a_client_that_leaves_before_the_answer_begins_keeps_nobody_out(
    make_chat: MakeChat, slow: type[Slow]
) -> None:
    """It may ask again at once. Its question is kept, as if the answer had been stopped."""
    chat = await make_chat(slow)
    await chat.say("hi", session_id="s")
    await leave(chat, slow)
    async with asyncio.timeout(10):
        while chat.app.extensions["chatcore"].runs._held.preparing:
            await asyncio.sleep(0.01)
    assert (await chat.say("again", session_id="s")).text == "ok"
    history = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    assert [m["content"] for m in history] == ["hi", "ok", "slow", "again", "ok"]
    assert len(chat.provider.requests) == 2


async def test_an_answer_that_is_to_go_on_begins_without_its_client(make_chat: MakeChat, slow: type[Slow]) -> None:
    """The client has said that leaving is not stopping."""
    chat = await make_chat(slow)
    await chat.say("hi", session_id="s")
    chat.provider.closed.clear()
    await leave(chat, slow, **{"Chatcore-On-Disconnect": "continue"})
    slow.go_on.set()
    await chat.provider.closed.wait()
    state = chat.app.extensions["chatcore"]
    await state.runs.idle()
    history = (await chat.client.get("/api/chat/session/s/messages")).json()["messages"]
    assert [m["content"] for m in history] == ["hi", "ok", "slow", "ok"]


@pytest.mark.parametrize("known", [True, False])
async def test_a_turn_that_the_server_does_not_live_to_begin_may_be_asked_for_again(
    make_chat: MakeChat, slow: type[Slow], known: bool
) -> None:
    """Its client is told to come back; nothing of it was stored."""
    chat = await make_chat(slow)
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "slow"}]}
    if known:
        body["session_id"] = "s"
    asking = asyncio.create_task(chat.client.post("/api/chat/stream", json=body))
    await slow.begun.wait()
    state = chat.app.extensions["chatcore"]
    state.streams.drain()
    await state.runs.close()
    refused = await asking
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert (await chat.client.get("/api/chat/session/s/messages")).status_code == 404


async def test_a_refusal_that_nobody_waits_for_is_no_fault(
    make_chat: MakeChat, slow: type[Slow], caplog: pytest.LogCaptureFixture
) -> None:
    """The client has left the answer to itself, and a plugin refuses the turn."""

    class Refuses(slow):  # type: ignore[misc, valid-type]  a class made by the fixture
        """Takes its time to refuse."""

        @hookimpl
        async def prepare_turn(self, turn: Turn) -> Turn | None:
            await super().prepare_turn(turn)
            if "slow" in turn.history[-1].text:
                raise Forbidden("no")
            return None

    chat = await make_chat(Refuses)
    await chat.say("hi", session_id="s")
    await leave(chat, slow, **{"Chatcore-On-Disconnect": "continue"})
    slow.go_on.set()
    async with asyncio.timeout(10):
        while chat.app.extensions["chatcore"].runs._held.preparing:
            await asyncio.sleep(0.01)
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]
    assert len((await chat.client.get("/api/chat/session/s/messages")).json()["messages"]) == 2


async def test_a_turn_that_is_being_prepared_can_be_stopped(make_chat: MakeChat, slow: type[Slow]) -> None:
    """Whoever deletes the conversation waits for nothing; who has asked is told. Until then the run is the worker's,
    however long that takes."""
    chat = await make_chat(slow)
    body = {"messages": [{"role": "user", "content": "slow"}], "session_id": "s"}
    asking = asyncio.create_task(chat.client.post("/api/chat/stream", json=body))
    await slow.begun.wait()
    runs = chat.app.extensions["chatcore"].runs
    [run_id] = runs._held.preparing
    await runs._table.renew(runs.worker, [run_id], lease(-1))
    await runs.upkeep.recover()
    assert (await runs.get(LOCAL, run_id)).state == "running"
    async with asyncio.timeout(10):
        assert (await chat.client.delete("/api/chat/conversations/s")).status_code == 204
    assert ((await asking).status_code, (await asking).json()["code"]) == (409, "conflict")
    assert (await chat.client.get("/api/chat/session/s/messages")).status_code == 404


async def test_an_unknown_session_is_called_so(make_chat: MakeChat) -> None:
    """The words that the clients know."""
    chat = await make_chat()
    for method, path in (("GET", "/messages"), ("POST", "/unsave")):
        answer = await chat.client.request(method, f"/api/chat/session/nope{path}")
        assert (answer.status_code, answer.json()["detail"]) == (404, "Session not found")
