"""Servers that nobody here has written, each in an environment of its own, with what it takes to connect them."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore.forms import form
from chatcore.tools import QuestionAnswer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240, func_only=True)]

INHERITED = ("UV_CACHE_DIR", "npm_config_cache")
"""What is needed to find what was downloaded; servers are not given the environment otherwise."""
OFFLINE = {"UV_OFFLINE": "1", "npm_config_offline": "true"}
"""Nothing is downloaded while a server starts."""
DOWNLOAD_TIME = 300
"""Seconds that one attempt to download a server may take."""


@attrs.frozen
class Real:
    """A server, what downloads all of it, a tool of it, what that is called with, and what it answers."""

    command: tuple[str, ...]
    download: tuple[str, ...]
    tool: str
    arguments: dict[str, Any]
    answer: str
    tools: int

    @classmethod
    def of_uv(cls, package: str, *does: Any, using: str = "") -> "Real":
        command = ("uv", "tool", "run", *(("--with", using) if using else ()), package)
        return cls(command, (*command, "--help"), *does)

    @classmethod
    def of_npm(cls, package: str, *does: Any) -> "Real":
        return cls(("npx", "-y", package), ("npx", "-y", "-p", package, "-c", "true"), *does)


TIME = ("get_current_time", {"timezone": "Europe/Vienna"}, "Europe/Vienna", 2)
SERVERS = {
    "time": Real.of_uv("mcp-server-time", *TIME),
    "time on the SDK before 2": Real.of_uv("mcp-server-time", *TIME, using="mcp<2"),
    "git": Real.of_uv("mcp-server-git", "git_status", {"repo_path": "REPO"}, "On branch", 10),
    "fetch": Real.of_uv("mcp-server-fetch", "fetch", {"url": "http://127.0.0.1:9/"}, "", 1),
    "everything": Real.of_npm(
        "@modelcontextprotocol/server-everything", "echo", {"message": "hello"}, "Echo: hello", 10
    ),
}


@pytest.fixture
def real(request: pytest.FixtureRequest) -> Real:
    """One of them, by its name. It was downloaded: networks fail now and then, so that is tried three times."""
    real = SERVERS[request.param]
    if shutil.which(real.command[0]) is None:
        assert os.environ.get("CI") != "true", f"{real.command[0]} is missing, and all tests must run"
        pytest.skip(f"{real.command[0]} is not installed")
    for _ in range(3):
        with suppress(subprocess.TimeoutExpired):
            done = subprocess.run(real.download, capture_output=True, text=True, timeout=DOWNLOAD_TIME)
            if done.returncode == 0:
                return real
            print(done.stderr)
    pytest.fail(f"{request.param} cannot be downloaded: {' '.join(real.download)}")


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


def entry(real: Real) -> dict[str, Any]:
    inherited = {key: f"${{{key}}}" for key in INHERITED if key in os.environ}
    return {"command": list(real.command), "env": {**inherited, **OFFLINE}}


@pytest.mark.parametrize("real", SERVERS, indirect=True)
async def test_a_real_server_is_used_and_returns(bench, real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Connected, listed, called, killed; it comes back by itself, and is called again."""
    monkeypatch.setattr("chatcore_mcp.process.GRACE", 2.0)
    await asyncio.to_thread(subprocess.run, ["git", "init", "-q", "-b", "main", tmp_path / "repo"], check=True)
    before = children()
    started = time.perf_counter()
    made = await bench({"real": entry(real)}, timeout=90)
    await made.until(lambda: made.server("real").state == "connected" or made.server("real").problem, 100)
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
        f"connected in {connected - started:.1f} s, {len(made.names())} tools, "
        f"called in {(called - connected) * 1000:.0f} ms, the kill noticed after {(lost - called) * 1000:.0f} ms, "
        f"back and called after {back - lost:.1f} s"
    )


@pytest.mark.parametrize("real", ["everything"], indirect=True)
async def test_a_real_server_asks_a_person(bench, real: Real):
    """With a form of every kind of field; it gets what was filled in."""
    made = await bench({"real": entry(real)}, timeout=90)
    await made.until(lambda: "trigger-elicitation-request" in made.names() or made.server("real").problem, 100)
    made.answers = [QuestionAnswer(action="accept", content={"name": "Ann"})]
    result = await made.call("trigger-elicitation-request")
    [asked] = made.asked
    kinds = {field["type"] for field in form(asked.form)["properties"].values()}
    assert kinds == {"string", "integer", "number", "boolean", "array"}
    assert "Ann" in result.text
