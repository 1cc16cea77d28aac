"""Whatever a model's server does on the wire: each turn has a stated end, keeps what was said, and harms no other."""

import asyncio
import re
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest

from chatcore.openai import provider as openai
from chatcore.testing.chaos import Chaos
from chatcore.testing.chaos.models import ANSWER, MODELS, TEXT
from chatcore.testing.chat import frames
from chatcore.types import LOCAL

TIMEOUT = 1.0
"""Seconds of silence after which the plugin of these tests gives up. Nobody else is to be silent for so long, also on a
machine that is busy with something else."""
PATIENCE = 0.2
"""Seconds within which a stop closes the connection to the model's server."""


@attrs.frozen
class Ending:
    """How a turn ends: the run's state and reason, what is stored of the answer, the kind of error that is told.

    `stored` is None where there is nothing to store. `tries` is how often the server was asked.
    """

    state: str
    reason: str
    stored: str | None
    error: str | None = None
    tries: int = 1


WHOLE = Ending("completed", "stop", TEXT)
BROKEN = Ending("incomplete", "stream_broken", "Good ")

ENDINGS = {
    "steady-3-2": attrs.evolve(WHOLE, stored="0 1 2 "),
    "wait-100": WHOLE,
    "drip-2000": WHOLE,
    "split": WHOLE,
    "wait-60000": Ending("failed", "provider_unavailable", None, "timeout"),
    "stall-200": attrs.evolve(BROKEN, error="timeout"),
    "large-1": attrs.evolve(WHOLE, stored="x" * 10**6),
    "large-40": Ending("failed", "stream_broken", None, "too_large"),
    "cut-200": attrs.evolve(BROKEN, error="cut_off"),
    "cut-0": Ending("failed", "provider_unavailable", None, "unreachable", tries=3),
    "reset": Ending("failed", "provider_unavailable", None, "unreachable", tries=3),
    "status-503": Ending("failed", "provider_unavailable", None, "provider_unavailable", tries=3),
    "status-400": Ending("failed", "provider_refused", None, "provider_refused"),
    "busy-0": Ending("failed", "provider_unavailable", None, "provider_unavailable", tries=3),
    "busy-60": Ending("failed", "provider_unavailable", None, "provider_unavailable"),  # too long to be waited for
    "html": Ending("failed", "provider_refused", None, "unreadable"),
    "garbage": attrs.evolve(BROKEN, error="unreadable"),
    "error": attrs.evolve(BROKEN, error="provider_unavailable"),
    "no-finish": WHOLE,
    "no-done": WHOLE,
    "no-end": Ending("incomplete", "no_finish_reason", TEXT),
    "after-done": WHOLE,
    "empty": attrs.evolve(WHOLE, stored=""),
    "thinking": attrs.evolve(WHOLE, stored=""),
    "usage-none": WHOLE,
    "usage-twice": WHOLE,
    "usage-wrong": WHOLE,
    "calls": attrs.evolve(WHOLE, tries=2),
    "bad-arguments": attrs.evolve(WHOLE, tries=2),
}
"""Of those that come to an end. `endless` and `comments` have tests of their own."""


def test_every_model_has_a_stated_end():
    """Whoever adds one says what is to become of it."""
    named = {re.sub(r"(-\d+)+$", "", model) for model in ENDINGS}
    assert named | {"endless", "comments"} == set(MODELS)


@pytest.fixture
async def chat(make_chat, monkeypatch):
    monkeypatch.setattr(openai, "FIRST_DELAY", 0.02)
    return await make_chat(Chaos, timeout=TIMEOUT)


def upstream_of(chat):
    """The server that the models are on."""
    return chat.app.extensions["chatcore"].registry.find("provider", "chaos").value.upstream


async def say(chat, model, session):
    return await chat.say("Hello?", model=f"chaos/{model}", session_id=session)


async def run_of(chat, reply):
    return (await chat.client.get(f"/api/chat/runs/{reply.run_id}")).json()


async def messages_of(chat, session):
    return (await chat.client.get(f"/api/chat/session/{session}/messages")).json()["messages"]


# --- the end of a turn ------------------------------------------------------------------------------------------------


async def test_every_turn_ends_as_it_should(chat):
    """In state, reason, what is kept and what the client is told; the conversation goes on. All are asked at once, so
    that none may hold up another."""
    async with asyncio.timeout(20):
        endings = await asyncio.gather(*(ending_of(chat, model) for model in ENDINGS))
    assert dict(zip(ENDINGS, endings, strict=True)) == ENDINGS


async def ending_of(chat, model):
    reply = await say(chat, model, session=model)
    run, (question, *answers) = await run_of(chat, reply), await messages_of(chat, model)
    stored = answers[-1]["content"] if answers else None
    assert question["content"] == "Hello?"
    assert said(reply) == (stored or "")
    assert [frame.data == "[DONE]" for frame in reply.named("message")].index(True) == len(reply.named("message")) - 1
    errors = [frame.data["type"] for frame in reply.named("error")]
    if answers:
        broken = run["state"] != "completed"
        assert answers[-1].get("status") == ("partial" if broken else None)
        assert reply.named("metadata")[-1].data.get("status") == ("partial" if broken else None)
    asked = [request.json["model"] for request in upstream_of(chat).requests if request.method == "POST"]
    assert said(await say(chat, "steady-1-0", session=model)) == "0 "
    return Ending(run["state"], run["reason"], stored, *(errors or [None]), tries=asked.count(model))


def said(reply):
    """The text of an answer without the error that clients are shown as text, too."""
    return reply.text.partition("Error: ")[0]


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
async def test_an_answer_may_be_cut_at_every_byte(chat, step):
    """What is stored is the text of the whole events so far; only an answer whose finish was seen is complete. The slow
    one cuts at every byte, the other at every ninth."""
    finish = ANSWER.index(b"\n\n", ANSWER.index(b'"stop"')) + 2
    conversations = chat.app.extensions["chatcore"].conversations
    at_once = asyncio.Semaphore(100)

    async def cut_at(count):
        async with at_once:
            reply = await say(chat, f"cut-{count}", session=f"cut-{count}")
        path = await conversations.path(LOCAL, reply.session_id)
        return said(reply), [(stored.message.text, stored.state) for stored in path[1:]]

    counts = range(0, len(ANSWER) + 1, step)
    answers = dict(zip(counts, await asyncio.gather(*map(cut_at, counts)), strict=True))
    for count, answer in answers.items():
        events = ANSWER[:count].count(b"\n\n")
        text = "".join(["Good ", "日本 ☕"][:events])
        state = "complete" if count >= finish else "partial"
        assert answer == (text, [(text, state)] if text else []), f"cut after {count} bytes"


# --- what never ends --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def under_way(chat, model, session="s"):
    """An answer that is coming: its response, and what its server knows of it."""
    number = len(upstream_of(chat).requests)
    body = {"model": f"chaos/{model}", "session_id": session, "messages": [{"role": "user", "content": "Hello?"}]}
    async with chat.client.stream("POST", "/api/chat/stream", json=body) as response:
        yield response, await upstream_of(chat).request(number)


@pytest.mark.parametrize("model", ["endless-1", "comments-10", "wait-60000"])
async def test_what_never_ends_is_stopped(make_chat, model):
    """By a stop, which closes the connection to the server within 200 ms; what came until then is kept."""
    chat = await make_chat(Chaos)
    assert await least(PATIENCE, lambda number: stopped(chat, model, f"s{number}")) < PATIENCE


async def least(wanted, measured):
    """The first of three times that is as short as wanted, or the shortest: others may keep the machine busy."""
    taken = []
    while len(taken) < 3 and min(taken, default=wanted) >= wanted:
        taken.append(await measured(len(taken)))
    return min(taken)


async def stopped(chat, model, session):
    """Stops an answer; gives after how many seconds the connection to the server was closed."""
    async with under_way(chat, model, session) as (response, request):
        received = b""
        if model.startswith("endless"):
            async for data in response.aiter_bytes():
                received += data
                if received.count(b"Good") >= 20:
                    break
        run_id, asked = response.headers["chatcore-run-id"], asyncio.get_running_loop().time()
        run = (await chat.client.post(f"/api/chat/runs/{run_id}/stop")).json()
        taken = await asyncio.wait_for(request.closed, 5) - asked
    assert (run["state"], run["reason"]) == ("stopped", "user")
    events = (await chat.client.get(f"/api/chat/runs/{run_id}/events")).content
    stored = [message["content"] for message in (await messages_of(chat, session))[1:]]
    assert frames(events)[-1].data == "[DONE]"
    assert stored == (["Good " * events.count(b'"Good "')] if received else [])
    assert received.count(b'"Good "') <= events.count(b'"Good "')
    assert said(await say(chat, "steady-1-0", session=session)) == "0 "
    return taken


async def test_a_reader_that_leaves_an_endless_answer_ends_it(make_chat):
    """After its grace, if leaving means stopping: nobody pays for what nobody reads."""
    chat = await make_chat(Chaos, config={"disconnect_grace": 0.05})
    in_time = 0.05 + PATIENCE
    assert await least(in_time, lambda number: left(chat, f"s{number}")) < in_time


async def left(chat, session):
    """Leaves an answer; gives after how many seconds the connection to the server was closed."""
    async with under_way(chat, "endless-5", session) as (response, request):
        await anext(response.aiter_bytes())
        began = asyncio.get_running_loop().time()
    taken = await asyncio.wait_for(request.closed, 5) - began
    run_id = response.headers["chatcore-run-id"]
    await chat.client.get(f"/api/chat/runs/{run_id}/events")  # to its end
    run = (await chat.client.get(f"/api/chat/runs/{run_id}")).json()
    assert (run["state"], run["reason"]) == ("stopped", "disconnected")
    return taken


async def test_comments_are_signs_of_life(make_chat):
    """A server that says nothing else is waited for, longer than one that says nothing at all."""
    chat = await make_chat(Chaos, timeout=0.6)
    async with under_way(chat, "comments-20") as (_, request):
        silent = await say(chat, "stall-200", session="silent")
        assert (await run_of(chat, silent))["state"] == "incomplete"
        assert not request.closed.done()


# --- what it says -----------------------------------------------------------------------------------------------------


async def test_fragments_of_calls_make_one_call_each(chat):
    """However they are interleaved and repeated: in what is stored, in what is run, and in what the model is given."""
    reply = await say(chat, "calls", session="s")
    expected = {"call_a": "one", "call_b": "日", "call_c": "three"}
    _, asking, *tools, _ = await messages_of(chat, "s")
    assert {call["id"]: call["function"]["arguments"] for call in asking["tool_calls"]} == {
        "call_a": '{"text": "one"}',
        "call_b": '{"text": "\\u65e5"}',
        "call_c": '{"text": "three"}',
    }
    assert {tool["tool_call_id"]: tool["content"] for tool in tools} == expected
    told = [frame.data["call_id"] for frame in reply.named("tool")]
    assert sorted(told) == sorted([*expected, *expected])  # each is started and finished
    given = upstream_of(chat).requests[-1].json["messages"]
    assert [call["id"] for call in given[-4]["tool_calls"]] == list(expected)
    assert [message["tool_call_id"] for message in given[-3:]] == list(expected)
    assert all(text in message["content"] for text, message in zip(expected.values(), given[-3:], strict=True))


async def test_arguments_that_are_not_json_are_told_to_the_model(chat):
    """The tool is not run; the model reads why, and is given its own call back as an object."""
    await say(chat, "bad-arguments", session="s")
    _, asking, tool, _ = await messages_of(chat, "s")
    assert asking["tool_calls"][0]["function"]["arguments"] == '{"text": "on'
    assert "not a JSON object" in tool["content"]
    *_, asked, told = upstream_of(chat).requests[-1].json["messages"]
    assert asked["tool_calls"][0]["function"]["arguments"] == '{"unreadable":"{\\"text\\": \\"on"}'
    assert tool["content"] in told["content"]


async def test_the_last_word_about_the_cost_counts(chat):
    """Of two the second; what is not a number is kept as it came, and limits nothing."""
    usages = {}
    for model in ("usage-none", "usage-twice", "usage-wrong"):
        await say(chat, model, session=model)
        usages[model] = (await messages_of(chat, model))[-1].get("usage")
    assert usages["usage-none"] is None
    assert usages["usage-twice"]["cost"] == 0.25
    assert usages["usage-wrong"]["cost"] == "nothing"


async def test_what_follows_done_is_read_to_keep_the_connection(chat):
    """Whatever it is; the next question needs no new one."""
    for _ in range(3):
        await say(chat, "after-done", session="s")
    assert upstream_of(chat).connections == 1


# --- a process of its own ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads how much memory a process has")
async def test_large_events_need_no_more_memory_than_they_are_large(start_server):
    """Ten megabytes pass, forty are refused before they are all there, again and again: the server stays below half a
    gigabyte and answers others meanwhile."""
    server = await start_server("--load", "chatcore.testing.chaos:Chaos", "--disable", "llama", "--disable", "mcp")

    async def ask(client, model, session):
        body = {"model": f"chaos/{model}", "session_id": session, "messages": [{"role": "user", "content": "Hello?"}]}
        return (await client.post("/api/chat/stream", json=body)).content

    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
        for number in range(5):
            small, large, too_large = await asyncio.gather(
                ask(client, "steady-20-10", "small"),
                ask(client, "large-10", f"large-{number}"),
                ask(client, "large-40", f"too-large-{number}"),
            )
            assert small.count(b"sent_at") == 20
            assert large.count(b"x") > 10**7
            assert b"more than 33554432 bytes" in too_large
    assert peak_memory(server.process.pid) < 500


def peak_memory(pid):
    """The most memory that a process has had, in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000
