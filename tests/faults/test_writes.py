"""Whichever write to the database fails: what was told is stored, what is not stored is told, and nothing is half."""

import asyncio
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatcore.database import tables
from chatcore.errors import DatabaseError
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.state import State
from chatcore.testing.chat import Chat, frames, running_chat
from chatcore.tools import Tool
from chatcore.types import ModelRequest

StartServer = Callable[..., Awaitable[Any]]
QUESTION = "I will look.\n/call look {}"


class Looks(Plugin[NoSettings]):
    """Gives a tool."""

    @hookimpl
    def register_tools(self) -> Iterator[Tool]:
        yield Tool.of(self.look)

    async def look(self) -> str:
        """Looks."""
        return "all is well"


class FailingCommits:
    """Lets the commits of a database fail: the n-th one, or that and all after it until `heal`.

    They fail where a disk fails: the work is done, and the transaction is rolled back instead of committed.
    """

    def __init__(self, engine: Any) -> None:
        self._unit = engine.unit
        engine.unit = self._failing
        self.heal()

    def fail(self, number: int, *, lasting: bool) -> None:
        self._left, self._lasting = number, lasting

    def heal(self) -> None:
        self._left, self._lasting, self.failed = 0, False, 0

    @contextmanager
    def _failing(self, *, writes: bool) -> Iterator[None]:
        with self._unit(writes=writes):
            yield
            if writes and self._is_next():
                self.failed += 1
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorname = "SQLITE_IOERR_WRITE"
                raise error

    def _is_next(self) -> bool:
        self._left -= 1
        return self._left == 0 or (self._lasting and self._left < 0)


@pytest.mark.parametrize("durability", ["relaxed", "strict"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
async def test_every_write_of_a_turn_fails_once(tmp_path: Path, durability: str, lasting: bool) -> None:
    """For every n: the n-th commit of a turn that calls a tool fails, alone or with all that follow. The client is
    told, or everything is stored nevertheless; every message is whole and every tool call has its answer; and when the
    fault is gone, the next turn of the conversation works."""
    async with running_chat(tmp_path, Looks, config={"durability": durability}) as chat:
        state: State = chat.app.extensions["chatcore"]
        commits = FailingCommits(state.database._engine)
        outcomes = []
        for number in count(1):
            commits.fail(number, lasting=lasting)
            outcome = await ask(chat, f"s{number}")
            await no_run(state)
            failed = commits.failed
            commits.heal()
            if not failed:
                break
            outcomes.append(outcome)
            await check_what_is_stored(chat, state, f"s{number}", outcome)
        print(f"{number - 1} commits, each failed {'with all after it' if lasting else 'once'}: {outcomes}")
        assert outcome == "whole"
        assert number > 4
        assert await state.database.read(lambda: tables.bound.pragma("integrity_check")) == "ok"


async def ask(chat: Chat, session_id: str) -> str:
    """Asks a question that makes the model call a tool. How the answer came: whole, refused, or with an error."""
    body = {"model": "echo", "session_id": session_id, "messages": [{"role": "user", "content": QUESTION}]}
    async with asyncio.timeout(20):
        response = await chat.client.post("/api/chat/stream", json=body)
    if response.status_code != 200:
        assert response.status_code == 503
        assert (response.json()["code"], response.json()["detail"]) == ("database_unavailable", DatabaseError.neutral)
        return "refused"
    found = frames(response.content)
    if any(frame.event == "error" for frame in found):
        return "told"
    assert found[-1].data == "[DONE]"
    assert "all is well" in response.text
    return "whole"


async def no_run(state: State) -> None:
    """Waits until no turn is under way."""
    async with asyncio.timeout(10):
        while state.runs.count:
            await asyncio.sleep(0.005)


async def check_what_is_stored(chat: Chat, state: State, session_id: str, outcome: str) -> None:
    messages = await stored_messages(chat, session_id)
    check_history(messages)
    if outcome == "whole":
        assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
        assert messages[3]["content"] == "The tool said: all is well"
    await close_left_runs(state)
    closed = await stored_messages(chat, session_id)
    check_history(closed)
    assert closed == messages or outcome != "whole"
    reply = await chat.say("And now?", session_id=session_id, model="scripted")
    assert (reply.text, reply.named("error")) == ("ok", [])
    check_request(chat.provider.requests[-1])
    check_history(await stored_messages(chat, session_id))


async def stored_messages(chat: Chat, session_id: str) -> list[dict[str, Any]]:
    response = await chat.client.get(f"/api/chat/session/{session_id}/messages")
    assert response.status_code in (200, 404)
    return response.json()["messages"] if response.status_code == 200 else []


def check_history(messages: Sequence[dict[str, Any]]) -> None:
    """Each message is whole: no more and no less than one that was said."""
    assert [message["role"] for message in messages[:1]] in ([], ["user"])
    asked = [call["id"] for message in messages for call in message.get("tool_calls") or ()]
    answered = [message["tool_call_id"] for message in messages if message["role"] == "tool"]
    assert asked == answered
    whole = {QUESTION, "And now?", "I will look.", "The tool said: all is well", "all is well", "ok"}
    for message in messages:
        assert message["content"] in whole or message["role"] == "tool"


def check_request(request: ModelRequest) -> None:
    """What a model is asked: every call is followed by its answer."""
    waiting: list[str] = []
    for message in request.messages:
        if message.role == "tool":
            waiting.remove(str(message.tool_call_id))
        else:
            assert waiting == []
            waiting = [call.id for call in message.tool_calls]
    assert waiting == []


async def close_left_runs(state: State) -> None:
    """What the server does when the lease of a run has run out whose end could not be stored."""
    await state.database.write(lambda: tables.execute("UPDATE run SET lease_until = 0 WHERE ended_at IS NULL"))
    await state.runs.upkeep.recover()


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(120, marks=[pytest.mark.slow, pytest.mark.timeout(240)])], ids=["short", "long"]
)
async def test_servers_and_a_command_write_together(start_server: StartServer, tmp_path: Path, seconds: int) -> None:
    """Two servers on the same data answer, and tokens are made and revoked meanwhile: nobody is told that the database
    is locked, nothing fails, and everything is stored."""
    options = ("--disable", "llama", "--disable", "openrouter")
    token = await chatcore(tmp_path, "tokens", "create")
    servers = [await start_server(*options) for _ in range(2)]
    end = asyncio.get_running_loop().time() + seconds

    async def chat(name: str, url: str) -> int:
        """Asks question after question, each in a new conversation."""
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            for number in count():
                if asyncio.get_running_loop().time() > end:
                    return number
                body = {"model": "echo", "messages": [{"role": "user", "content": f"word {number}"}]}
                response = await client.post("/api/chat/stream", json={**body, "session_id": f"{name}-{number}"})
                assert response.status_code == 200, response.text
                found = frames(response.content)
                assert (found[-1].data, [f.data for f in found if f.event == "error"]) == ("[DONE]", [])
        raise AssertionError

    async def make_tokens() -> int:
        for number in count():
            if asyncio.get_running_loop().time() > end:
                return number
            made = await chatcore(tmp_path, "tokens", "create", "--name", f"{number}")
            await chatcore(tmp_path, "tokens", "revoke", made)
        raise AssertionError

    users = [chat(f"{user}{number}", server.url) for number, server in enumerate(servers) for user in "abc"]
    *turns, tokens = await asyncio.gather(*users, make_tokens())
    for server in servers:
        assert await server.end() == 0
        assert b"locked" not in server.log
    print(f"{sum(turns)} turns in two servers and {2 * tokens} commands in {seconds} s")
    with closing(sqlite3.connect(tmp_path / "data" / "chatcore.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM message").fetchone() == (2 * sum(turns),)
        states = connection.execute("SELECT state, count(*) FROM run GROUP BY state").fetchall()
        assert states == [("completed", sum(turns))]
        assert connection.execute("SELECT count(*) FROM token").fetchone() == (tokens + 1,)


async def chatcore(directory: Path, *arguments: str) -> str:
    """Runs a command and gives what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore", *arguments, cwd=directory, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, told = await process.communicate()
    assert (process.returncode, b"locked" in told) == (0, False), told.decode()
    return said.decode().strip()
