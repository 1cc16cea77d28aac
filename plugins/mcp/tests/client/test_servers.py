"""All servers together, and the tools that they offer."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from chatcore_mcp import Mcp
from chatcore_mcp.tools import source

from chatcore.errors import DatabaseError, ToolFailed
from chatcore.testing.chat import running_chat
from chatcore.tools import Invocation, ToolCall
from chatcore.types import LOCAL, Turn

from .conftest import raw
from .test_outbound import running


async def test_what_does_not_change_is_left_alone(bench, tmp_path: Path):
    """When the file does: the same process goes on, and the tools are the same values."""
    made = await bench({"a": raw(tmp_path / "a"), "b": raw(tmp_path / "b")})
    await made.connected("a", "b")
    before = {tool.name: tool for tool in made.servers.tools()}
    entries = {"c": raw(tmp_path / "c", "tools=1"), "a": {**raw(tmp_path / "a"), "disabled_tools": ["big"]}}
    await made.change({**entries, "b": {**raw(tmp_path / "b"), "comment": "mine"}})
    await made.connected("a", "b", "c")
    assert [server.id for server in made.servers] == ["c", "a", "b"]
    after = {tool.name: tool for tool in made.servers.tools()}
    assert before.keys() - after.keys() == {"a__big"}
    assert all(after[name] is tool for name, tool in before.items() if name in after)
    assert len((tmp_path / "a").read_text().split('"pid"')) == 2


async def test_what_changes_is_connected_anew(bench, tmp_path: Path):
    """And what is taken out goes with its tools."""
    made = await bench({"a": raw(tmp_path / "one"), "b": raw(tmp_path / "b")})
    await made.connected("a", "b")
    await made.change({"a": raw(tmp_path / "two", "tools=1")})
    await made.connected("a")
    assert (tmp_path / "two").exists()
    assert "tool_0" in made.names()
    assert "echo" in made.names()  # nobody else has it any more


async def test_a_file_is_watched(bench, tmp_path: Path):
    """What somebody writes into it is there soon after."""
    made = await bench({})
    assert made.names() == []
    made.write({"a": raw(tmp_path / "a")})
    await made.until(lambda: made.servers.get("a"))
    await made.connected("a")


async def test_who_goes_away_leaves_no_change_half_done(bench, tmp_path: Path):
    """As when the connection of a request breaks off: the server that it was about is connected anew all the same."""
    made = await bench({"a": raw(tmp_path / "one")})
    await made.connected("a")
    other = {"a": raw(tmp_path / "two")}
    changing = asyncio.create_task(made.servers.change(lambda document: document["mcpServers"].update(other)))
    await made.until(lambda: made.server("a").state != "connected")
    changing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await changing
    await made.connected("a")
    assert (tmp_path / "two").exists()


async def test_a_file_is_followed_when_the_database_is_back(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Which knows who has signed in where. Until then everything stays as it is."""
    away = [True]

    async def stamps(accounts: object) -> dict[str, Any]:
        if away:
            raise DatabaseError("away")
        return {}

    monkeypatch.setattr("chatcore_mcp.servers.stamps", stamps)
    made = await bench({})
    made.servers.options = attrs.evolve(made.servers.options, accounts=object())
    with pytest.raises(DatabaseError):
        await made.change({"a": raw(tmp_path / "a")})
    assert made.servers.get("a") is None
    away.clear()
    await made.until(lambda: made.servers.get("a"))
    await made.connected("a")


async def test_names_stay_while_a_server_is_away(bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its tools go after a while, the other's keep the prefix; they have it only as long as both are in the file."""
    monkeypatch.setattr("chatcore_mcp.connection.KEPT", 0.0)
    made = await bench({"a": raw(tmp_path / "a"), "b": raw(tmp_path / "b", "once")})
    await made.connected("a", "b")
    assert {"a__echo", "b__echo"} <= set(made.names())
    assert (await made.call("b__die")).is_error
    await made.until(lambda: made.server("b").problem and not made.server("b").offered)
    assert "a__echo" in made.names()
    assert not any(name.startswith("b__") for name in made.names())
    await made.change({"a": raw(tmp_path / "a"), "b": {**raw(tmp_path / "b"), "enabled": False}})
    assert "echo" in made.names()


async def test_a_prefix_for_all(bench, tmp_path: Path):
    """By the setting; one in the file is put in its place."""
    entries = {"a": raw(tmp_path / "a"), "b": {**raw(tmp_path / "b"), "tool_prefix": "other"}}
    made = await bench(entries, prefix=True)
    await made.connected("a", "b")
    assert {"a__echo", "other__echo"} <= set(made.names())


async def test_wrong_entries_harm_nobody(bench, tmp_path: Path, caplog):
    """They are there with the reason, which is logged once."""
    made = await bench({"wrong": {"command": "${NOT_THERE}"}, "a": raw(tmp_path / "a")})
    await made.connected("a")
    assert made.server("wrong").problem == "the environment has no NOT_THERE: set it, or write ${NOT_THERE:-default}"
    await made.servers.reload()
    assert caplog.text.count("wrong is off: ") == 1
    await made.change({"wrong": raw(tmp_path / "b")})
    await made.connected("wrong")


async def test_tools_have_the_contexts_of_the_file(bench, tmp_path: Path):
    """Also when these change: only that tool is another then."""
    entry = {**raw(tmp_path / "a"), "contexts": ["Files"]}
    made = await bench({"a": entry})
    await made.connected("a")
    before = {tool.name: tool for tool in made.servers.tools()}
    assert {tool.contexts for tool in before.values()} == {("files",)}
    await made.change({"a": {**entry, "tool_overrides": {"echo": {"contexts": ["voice"]}}}})
    after = {tool.name: tool for tool in made.servers.tools()}
    assert after["echo"].contexts == ("voice",)
    assert all(after[name] is tool for name, tool in before.items() if name != "echo")


async def test_tools_about_their_conversation_get_its_id(bench, tmp_path: Path):
    """As `session_id`, if the model does not give another."""
    made = await bench({"a": raw(tmp_path / "a", "named=notes__chat_history")})
    await made.connected("a")
    [tool] = [tool for tool in made.servers.tools() if tool.name == "notes__chat_history"]
    for given, wanted in [
        ({}, "conversation"),
        ({"session_id": "other"}, "other"),
        ({"session_id": ""}, "conversation"),
    ]:
        result = await tool.run(Invocation(ToolCall("1", tool.name), given, "local", "conversation", "run"))
        assert json.loads(result.text)["session_id"] == wanted


async def test_a_switched_off_server_cannot_be_called(bench, tmp_path: Path):
    """By a turn that still has its tools."""
    made = await bench({"a": raw(tmp_path / "a")})
    await made.connected("a")
    [tool] = [tool for tool in made.servers.tools() if tool.name == "echo"]
    await made.change({"a": {**raw(tmp_path / "a"), "enabled": False}})
    assert made.names() == []
    with pytest.raises(ToolFailed, match="the server a is switched off"):
        await tool.run(Invocation(ToolCall("1", "echo"), {}, "local", "conversation", "run"))


@pytest.mark.slow
async def test_fifty_servers_add_little_to_a_turn(tmp_path: Path):
    """With twenty tools each: it takes no longer than to write them down for the model a few times."""
    with running() as url:
        file = tmp_path / "mcp_servers.json"
        file.write_text(json.dumps([{"id": f"s{number}", "url": f"{url}/mcp?{number}"} for number in range(50)]))
        async with running_chat(tmp_path / "data", Mcp, settings={"servers": file}) as chat:
            state = chat.app.extensions["chatcore"]
            async with asyncio.timeout(30):
                while len(state.registry.tools()) < 1000:
                    await asyncio.sleep(0.02)
            turn = Turn(id="t", principal=LOCAL, conversation_id="c", model="m", provider="p", history=())
            hook = state.registry.of("prepare_turn")[0].value
            took, written = [], []
            for _ in range(300):
                before = time.thread_time()
                prepared = await hook(attrs.evolve(turn, tools=state.registry.tools()))
                took.append((time.thread_time() - before) * 1000)
                before = time.thread_time()
                json.dumps([(tool.name, tool.description, dict(tool.parameters)) for tool in prepared.tools.values()])
                written.append((time.thread_time() - before) * 1000)
            assert len(prepared.tools) == 1000
    print(f"{min(took):.2f} ms, {min(written):.2f} ms to write them")
    assert min(took) < 4 * min(written)  # the least of many: the rest is what else the machine does


def test_without_servers_the_sdk_is_not_imported(tmp_path: Path):
    """It takes most of a second. A start without servers, and the command line, do not pay for it."""
    code = f"""
import asyncio, sys
from pathlib import Path
from chatcore_mcp import Mcp
from chatcore.testing.chat import running_chat

async def main():
    async with running_chat(Path({str(tmp_path)!r}), Mcp) as chat:
        await chat.say("hello")
        assert (await chat.client.get("/api/mcp/servers")).json()["servers"] == []

asyncio.run(main())
print(sorted(set(sys.modules) & {{"mcp", "mcp_types", "pydantic", "httpx2"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.stdout == "[]\n", done.stderr


def test_what_its_tools_come_from():
    """As rules of the operator name it."""
    assert source("github") == "mcp/github"
