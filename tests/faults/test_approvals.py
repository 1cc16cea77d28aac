"""A tool call that waits for consent outlives whatever happens to servers, and is run once at the most."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from chatcore.testing.chat import Frame, frames

StartServer = Callable[..., Awaitable[Any]]

DANGER = '''
from chatcore import NoSettings, Plugin, Tool, hookimpl

class Danger(Plugin[NoSettings]):
    """Destroys things."""

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.destroy, destructive=True)
        yield Tool.of(self.look, read_only=True)

    async def destroy(self, what: str) -> str:
        """Destroys something."""
        with open(self.context.data / "destroyed", "a") as file:
            file.write(what + "\\n")
        return f"{what} is gone"

    async def look(self) -> str:
        """Looks."""
        return "all there"
'''
ASKS = {
    "model": "echo",
    "session_id": "s",
    "messages": [{"role": "user", "content": '/call look\n/call destroy {"what": "moon"}'}],
}


@attrs.define
class House:
    """Servers that share their data, and one call that waits in the first of them."""

    start_server: StartServer
    directory: Path
    environ: dict[str, str] = attrs.field(factory=dict)

    async def start(self) -> Any:
        own = self.directory / "own"
        own.mkdir(exist_ok=True)
        (own / "danger.py").write_text(DANGER)
        off = [argument for name in ("llama", "openrouter", "mcp") for argument in ("--disable", name)]
        # Strict, so that what was read is on disk: a kill may cost the others the last 25 ms of their log.
        environ = {"CHATCORE_DURABILITY": "strict", **self.environ}
        return await self.start_server("--plugins-dir", str(own), *off, env=environ)

    @property
    def destroyed(self) -> str:
        file = self.directory / "data" / "plugins" / "danger" / "destroyed"
        return file.read_text() if file.exists() else ""

    async def ask(self, server: Any) -> dict[str, Any]:
        """Asks for what needs consent, reads until it waits, and goes away. Gives what is to be decided."""
        headers = {"Chatcore-Approvals": "ask"}
        read = b""
        async with client_of(server) as client:
            async with client.stream("POST", "/api/chat/stream", json=ASKS, headers=headers) as response:
                async for data in response.aiter_bytes():
                    read += data
                    if b"event: approval" in read and b"all there" in read:
                        break
            [asked] = (await client.get("/api/chat/approvals")).json()["approvals"]
        return dict(asked)


@pytest.fixture
def house(start_server: StartServer, tmp_path: Path) -> House:
    return House(start_server, tmp_path)


def client_of(server: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30)


async def decide(client: httpx.AsyncClient, asked: dict[str, Any], **changes: str) -> int:
    body = {"digest": asked["digest"], "decision": "approve", **changes}
    path = f"/api/chat/runs/{asked['run_id']}/approvals/{asked['call_id']}"
    return (await client.post(path, json=body)).status_code


async def read(client: httpx.AsyncClient, asked: dict[str, Any]) -> tuple[Frame, ...]:
    """The whole stream of the run, to its end."""
    return frames((await client.get(f"/api/chat/runs/{asked['run_id']}/events")).content)


def tools_of(got: tuple[Frame, ...]) -> list[tuple[str, str]]:
    return [(frame.data["status"], frame.data["name"]) for frame in got if frame.event == "tool"]


@pytest.mark.parametrize(
    ("database", "number"),
    [
        ("sqlite", signal.SIGKILL),
        ("sqlite", signal.SIGTERM),
        pytest.param("postgres", signal.SIGKILL, marks=pytest.mark.slow),
    ],
    ids=str,
)
async def test_the_approval_is_still_open_after_a_restart(
    house: House, request: pytest.FixtureRequest, database: str, number: signal.Signals
) -> None:
    """However the server ended: nothing else is lost, the decision lets the turn go on, and the tool is run once."""
    if database == "postgres":
        house.environ = {"CHATCORE_DATABASE": request.getfixturevalue("postgres_url")}
    server = await house.start()
    asked = await house.ask(server)
    await server.end(number)
    server = await house.start()
    async with client_of(server) as client:
        run = (await client.get(f"/api/chat/runs/{asked['run_id']}")).json()
        assert (run["state"], run["approvals"]) == ("waiting", [asked])
        assert await decide(client, asked, digest="0" * 64) == 409
        reading = asyncio.create_task(read(client, asked))
        assert await decide(client, asked) == 200
        assert await decide(client, asked) == 409
        got = await reading
        assert tools_of(got) == [
            ("started", "look"),
            ("finished", "look"),
            ("started", "destroy"),
            ("finished", "destroy"),
        ]
        assert got[-1].data == "[DONE]"
        numbers = [int(frame.id.rpartition(":")[2]) for frame in got if frame.id]
        assert numbers == sorted(set(numbers))
        assert house.destroyed == "moon\n"
        run = (await client.get(f"/api/chat/runs/{asked['run_id']}")).json()
        assert (run["state"], run["reason"], run["approvals"]) == ("completed", "stop", [])
        history = (await client.get("/api/chat/session/s/messages")).json()["messages"]
        assert [(m["role"], m.get("content")) for m in history[2:]] == [
            ("tool", "all there"),
            ("tool", "moon is gone"),
            ("assistant", "The tool said: moon is gone"),
        ]


async def test_a_refusal_after_a_restart_is_one(house: House) -> None:
    """The turn goes on without the tool."""
    server = await house.start()
    asked = await house.ask(server)
    await server.kill()
    server = await house.start()
    async with client_of(server) as client:
        assert await decide(client, asked, decision="reject") == 200
        assert tools_of(await read(client, asked))[2:] == [("error", "destroy")]
    assert house.destroyed == ""


async def test_what_waits_can_be_stopped_after_a_restart(house: House) -> None:
    """And the conversation goes on."""
    server = await house.start()
    asked = await house.ask(server)
    await server.kill()
    server = await house.start()
    async with client_of(server) as client:
        stopped = (await client.post(f"/api/chat/runs/{asked['run_id']}/stop")).json()
        assert (stopped["state"], stopped["reason"]) == ("stopped", "user")
        assert await decide(client, asked) == 409
        body = {"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": "and now"}]}
        assert b"[DONE]" in (await client.post("/api/chat/stream", json=body)).content
    assert house.destroyed == ""


async def test_it_can_be_decided_in_another_worker(house: House) -> None:
    """Where the run does not live, it is seen, decided, and read to its end."""
    first, second = await house.start(), await house.start()
    asked = await house.ask(first)
    async with client_of(second) as client:
        assert (await client.get("/api/chat/approvals")).json() == {"approvals": [asked]}
        reading = asyncio.create_task(read(client, asked))
        assert await decide(client, asked) == 200
        assert tools_of(await reading)[-1] == ("finished", "destroy")
    assert house.destroyed == "moon\n"


@pytest.mark.slow
async def test_another_worker_takes_the_run_over(house: House) -> None:
    """When its own has died; a decision made before that is found there, too."""
    first, second = await house.start(), await house.start()
    asked = await house.ask(first)
    await first.kill()
    async with client_of(second) as client:
        assert await decide(client, asked) == 200
        assert tools_of(await read(client, asked))[-1] == ("finished", "destroy")
    assert house.destroyed == "moon\n"
