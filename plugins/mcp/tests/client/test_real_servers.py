"""Servers that nobody here has written, each in an environment of its own, with what it takes to connect them."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore.forms import form
from chatcore.tools import QuestionAnswer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

INHERITED = ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "UV_CACHE_DIR", "UV_INDEX_URL", "npm_config_registry")
"""What downloads may need; servers are not given the environment otherwise."""


@attrs.frozen
class Real:
    """A server, a tool of it, what that is called with, and what it answers."""

    command: tuple[str, ...]
    tool: str
    arguments: dict[str, Any]
    answer: str
    tools: int


def tool(package: str, *arguments: str, using: str = "") -> tuple[str, ...]:
    return ("uv", "tool", "run", *(("--with", using) if using else ()), package, *arguments)


TIME = ("get_current_time", {"timezone": "Europe/Vienna"}, "Europe/Vienna", 2)
SERVERS = {
    "time": Real(tool("mcp-server-time"), *TIME),
    "time on the SDK before 2": Real(tool("mcp-server-time", using="mcp<2"), *TIME),
    "git": Real(tool("mcp-server-git"), "git_status", {"repo_path": "REPO"}, "On branch", 10),
    "fetch": Real(tool("mcp-server-fetch"), "fetch", {"url": "http://127.0.0.1:9/"}, "", 1),
    "everything": Real(
        ("npx", "-y", "@modelcontextprotocol/server-everything"), "echo", {"message": "hello"}, "Echo: hello", 10
    ),
}


def children() -> set[int]:
    """The processes that this one has started."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.add(int(status.parent.name))
    return found


@pytest.mark.parametrize("name", SERVERS)
async def test_a_real_server_is_used_and_returns(bench, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Connected, listed, called, killed; it comes back by itself, and is called again."""
    monkeypatch.setattr("chatcore_mcp.process.GRACE", 2.0)
    real = SERVERS[name]
    if shutil.which(real.command[0]) is None:
        pytest.skip(f"{real.command[0]} is not installed")
    await asyncio.to_thread(subprocess.run, ["git", "init", "-q", "-b", "main", tmp_path / "repo"], check=True)
    before = children()
    started = time.perf_counter()
    environ = {key: f"${{{key}:-}}" for key in INHERITED if key in os.environ}
    made = await bench({"real": {"command": list(real.command), "env": environ}}, timeout=180)
    await made.until(lambda: made.server("real").state == "connected" or made.server("real").problem, 200)
    assert made.server("real").problem == ""
    connected = time.perf_counter()
    assert len(made.names()) >= real.tools
    arguments = {key: f"{tmp_path}/repo" if value == "REPO" else value for key, value in real.arguments.items()}
    result = await made.call(real.tool, **arguments)
    assert real.answer in result.text
    called = time.perf_counter()
    [leader] = children() - before
    os.kill(leader, signal.SIGKILL)
    await made.until(lambda: made.server("real").state != "connected")
    lost = time.perf_counter()
    result = await made.call(real.tool, **arguments)
    while "cannot be reached now" in result.text:
        result = await made.call(real.tool, **arguments)
    assert real.answer in result.text
    back = time.perf_counter()
    print(
        f"{name}: connected in {connected - started:.1f} s, {len(made.names())} tools, "
        f"called in {(called - connected) * 1000:.0f} ms, the kill noticed after {(lost - called) * 1000:.0f} ms, "
        f"back and called after {back - lost:.1f} s"
    )


async def test_a_real_server_asks_a_person(bench):
    """With a form of every kind of field; it gets what was filled in."""
    real = SERVERS["everything"]
    if shutil.which(real.command[0]) is None:
        pytest.skip(f"{real.command[0]} is not installed")
    environ = {key: f"${{{key}:-}}" for key in INHERITED if key in os.environ}
    made = await bench({"real": {"command": list(real.command), "env": environ}}, timeout=180)
    await made.until(lambda: "trigger-elicitation-request" in made.names() or made.server("real").problem, 200)
    made.answers = [QuestionAnswer(action="accept", content={"name": "Ann"})]
    result = await made.call("trigger-elicitation-request")
    [asked] = made.asked
    kinds = {field["type"] for field in form(asked.form)["properties"].values()}
    assert kinds == {"string", "integer", "number", "boolean", "array"}
    assert "Ann" in result.text
