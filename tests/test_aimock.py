"""OpenRouter as somebody else understands it: the npm package @copilotkit/aimock, on a real port."""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from chatcore_openrouter.provider import OpenRouterProvider, make_provider
from chatcore_openrouter.settings import Settings

from chatcore.answer import Answer
from chatcore.errors import ProviderError, ProviderRefused, ProviderUnavailable, StreamBroken
from chatcore.secrets import Secret
from chatcore.testing.chat import Reply, frames
from chatcore.tools import Tool
from chatcore.types import Message, ModelRequest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60, func_only=True)]

NPM = Path(__file__).parent / "npm"
_LISTENING = re.compile(rb"listening on (http://127\.0\.0\.1:\d+)")


def needed(command: str) -> str:
    """Where a command of Node.js is. Without it the tests are skipped, but not where all of them must run."""
    found = shutil.which(command)
    if found is None:
        missing = f"{command} is not installed: these tests need Node.js 20.15 or newer"
        pytest.fail(missing) if os.environ.get("CI") == "true" else pytest.skip(missing)
    return found


@pytest.fixture(scope="session")
def installed() -> Path:
    """The directory with the npm packages of `npm/`, installed once for every lock file, in the user's cache."""
    npm = needed("npm")
    lock = (NPM / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatcore-tests"
    directory = cache / f"npm-{hashlib.sha256(lock).hexdigest()[:16]}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{directory.name}.lock").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)  # one process installs, others wait for it
        if not directory.exists():
            install(npm, directory)
    return directory


def install(npm: str, directory: Path) -> None:
    """Installs all packages or, if that breaks off, none. Networks fail now and then, so it is tried three times."""
    making = directory.with_name(f"{directory.name}.making")
    for _ in range(3):
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(NPM, making)
        with suppress(subprocess.TimeoutExpired):
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=making, capture_output=True, text=True, timeout=300)
            if done.returncode == 0:
                making.rename(directory)
                return
            print(done.stderr)
    pytest.fail(f"the packages of {NPM} cannot be installed")


@pytest_asyncio.fixture
async def aimock(installed: Path) -> AsyncIterator[str]:
    """Its address."""
    node = needed("node")
    cli = installed / "node_modules/@copilotkit/aimock/dist/cli.js"
    process = await asyncio.create_subprocess_exec(
        node, str(cli), "-p", "0", "-f", str(NPM / "aimock.json"), "--strict",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        while not (found := _LISTENING.search(line := await asyncio.wait_for(process.stdout.readline(), 20))):
            assert line, "aimock did not start"
        yield found[1].decode()
    finally:
        process.terminate()
        await process.communicate()


@pytest_asyncio.fixture
async def provider(aimock: str) -> AsyncIterator[OpenRouterProvider]:
    settings = Settings(api_key=Secret("sk-or-v1-mock"), base_url=f"{aimock}/api/v1")
    async with make_provider(settings).session() as provider:
        yield provider


async def look(city: str) -> str:
    """Tells the weather."""
    return f"18 degrees in {city}"


async def ask(provider: OpenRouterProvider, *messages: Message) -> tuple[Answer, ProviderError | None]:
    """What came of an answer, and the error if it ended in one."""
    answer = Answer()
    request = ModelRequest(model="openai/gpt-4o-mini", messages=messages, tools=(Tool.of(look),))
    try:
        async for events in provider.stream(request):
            answer.add(events)
    except ProviderError as error:
        return answer, error
    return answer, None


def user(text: str) -> Message:
    return Message(role="user", content=text)


async def test_plain(provider: OpenRouterProvider) -> None:
    """Text in many pieces, reasoning, usage, a generation id."""
    answer, error = await ask(provider, user("plain"))
    message = answer.message()
    assert error is None
    assert (message.text, message.reasoning) == ("Hello! Café ☕ and 日本 — ready.", "The user says plain.")
    assert answer.finish is not None
    assert (answer.finish.reason, answer.finish.model) == ("stop", "openai/gpt-4o-mini")
    assert (answer.finish.generation_id or "").startswith("gen-")
    assert answer.usage is not None
    assert answer.usage["total_tokens"] > 0


async def test_tool_loop(provider: OpenRouterProvider) -> None:
    """Two calls, their answers sent back, an answer in words."""
    first, error = await ask(provider, user("weather"))
    calls = first.tool_calls
    assert error is None
    assert [(call.name, call.arguments) for call in calls] == [
        ("look", '{"city":"Zürich"}'),
        ("look", '{"city":"Oslo"}'),
    ]
    answers = (Message(role="tool", content="18 degrees", tool_call_id=call.id) for call in calls)
    second, error = await ask(provider, user("weather"), first.message(), *answers)
    assert (second.message().text, second.finish_reason, error) == ("Warmer in Zürich.", "stop", None)


async def test_too_busy(provider: OpenRouterProvider) -> None:
    """Once is tried again; for ever is told."""
    answer, error = await ask(provider, user("busy once"))
    assert (answer.message().text, error) == ("Here I am.", None)
    answer, error = await ask(provider, user("always busy"))
    assert isinstance(error, ProviderUnavailable)
    assert (error.upstream_status, error.kind, answer.empty) == (429, "rate_limit_exceeded", True)


async def test_blocked(provider: OpenRouterProvider) -> None:
    """A refusal comes with its reasons."""
    _, error = await ask(provider, user("blocked"))
    assert isinstance(error, ProviderRefused)
    assert (error.upstream_status, error.details) == (403, {"metadata": {"reasons": ["violence"]}})


async def test_dropped(provider: OpenRouterProvider) -> None:
    """The connection goes in the middle: what had come stays."""
    answer, error = await ask(provider, user("dropped"))
    assert isinstance(error, StreamBroken)
    assert error.kind == "cut_off"
    assert answer.finish is None
    assert "This is the beginning of a long answer.".startswith(answer.message().text)
    assert answer.message().text


async def test_malformed(provider: OpenRouterProvider) -> None:
    """Status 200 and no JSON."""
    answer, error = await ask(provider, user("malformed"))
    assert isinstance(error, ProviderRefused)
    assert (error.kind, answer.empty) == ("unreadable", True)


async def test_hung_up(provider: OpenRouterProvider) -> None:
    """A connection that is closed before anything comes, each time."""
    _, error = await ask(provider, user("hung up"))
    assert isinstance(error, ProviderUnavailable)
    assert error.kind == "unreachable"


async def test_models_and_key(provider: OpenRouterProvider) -> None:
    """The catalogue says who can use tools; the key says what it may spend."""
    models = await provider.models()
    assert {model.supports_tools for model in models} == {True}
    assert all(model.context_length for model in models)
    assert (await provider.key())["limit"] is None


# --- the whole server -------------------------------------------------------------------------------------------------

LOOK = """
from chatcore import NoSettings, Plugin, Tool, hookimpl


class Look(Plugin[NoSettings]):
    \"\"\"Tells the weather.\"\"\"

    @hookimpl
    def register_tools(self):
        return [Tool.of(look)]


async def look(city: str) -> str:
    \"\"\"Tells the weather.\"\"\"
    return f"18 degrees in {city}"
"""


@pytest_asyncio.fixture
async def server(
    aimock: str, start_server: Callable[..., Awaitable[Any]], tmp_path: Path
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `chatcore serve` with aimock as OpenRouter and one tool."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "look.py").write_text(LOOK)
    env = {"OPENROUTER_API_KEY": "sk-or-v1-mock", "OPENROUTER_BASE_URL": f"{aimock}/api/v1"}
    started = await start_server("--disable", "llama", "--plugins-dir", str(tmp_path / "plugins"), env=env)
    async with httpx.AsyncClient(base_url=started.url, trust_env=False, timeout=30) as client:
        yield client


async def say(client: httpx.AsyncClient, text: str) -> tuple[Reply, dict[str, Any], list[dict[str, Any]]]:
    """What the client sees, how the run ended, and what is kept."""
    body = {"messages": [{"role": "user", "content": text}], "session_id": "s", "model": "openai/gpt-4o-mini"}
    response = await client.post("/api/chat/stream", json=body)
    assert response.status_code == 200, response.text
    reply = Reply(frames(response.content), response.headers["chatcore-run-id"], "s")
    run = (await client.get(f"/api/chat/runs/{reply.run_id}")).json()
    return reply, run, (await client.get("/api/chat/session/s/messages")).json()["messages"]


async def test_server_plain(server: httpx.AsyncClient) -> None:
    """The words, the reasoning and the usage arrive, and are kept."""
    reply, run, messages = await say(server, "plain")
    assert reply.text == "Hello! Café ☕ and 日本 — ready."
    assert (run["state"], run["reason"]) == ("completed", "stop")
    assert messages[-1]["content"] == reply.text
    assert messages[-1]["reasoning"][0]["text"] == "The user says plain."
    assert messages[-1]["usage"]["total_tokens"] > 0


async def test_server_tool_loop(server: httpx.AsyncClient) -> None:
    """Both tools run, and the answer uses them."""
    reply, run, messages = await say(server, "weather")
    results = [frame.data["result"] for frame in reply.named("tool") if frame.data["status"] == "finished"]
    assert sorted(results) == ["18 degrees in Oslo", "18 degrees in Zürich"]
    assert reply.text == "Warmer in Zürich."
    assert run["state"] == "completed"
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "assistant"]


@pytest.mark.parametrize(
    ("text", "state", "status"),
    [("always busy", "failed", 429), ("dropped", "incomplete", 502), ("malformed", "failed", 502)],
)
async def test_server_faults(server: httpx.AsyncClient, text: str, state: str, status: int) -> None:
    """Each fault is told in the stream, with an honest end; what had come is kept, and the server goes on."""
    reply, run, messages = await say(server, text)
    assert run["state"] == state
    assert reply.named("error")[0].data["status"] == status
    assert reply.frames[-1].data == "[DONE]"
    kept = [message for message in messages if message["role"] == "assistant"]
    assert [message.get("status") for message in kept] == (["partial"] if state == "incomplete" else [])
    again, run, _ = await say(server, "plain")
    assert (again.text, run["state"]) == ("Hello! Café ☕ and 日本 — ready.", "completed")
