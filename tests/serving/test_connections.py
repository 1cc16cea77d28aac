"""Connections (chatcore/serving/connections.py)."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
import pytest_asyncio
from quart import Quart

from chatcore.config import Config
from chatcore.errors import ConfigError
from chatcore.serving import connections, sockets
from chatcore.serving.connections import Connections

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@attrs.frozen
class Place:
    """An app on a port, which answers when it may."""

    connections: Connections
    port: int
    asked: asyncio.Event = attrs.field(factory=asyncio.Event)
    may_answer: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest_asyncio.fixture
async def place() -> AsyncIterator[Place]:
    """One that accepts connections."""
    app, config = Quart("test"), Config(port=0)
    listening = sockets.listen(config)
    place = Place(Connections(app, config), listening.getsockname()[1])

    @app.get("/")
    async def answer() -> str:
        place.asked.set()
        await place.may_answer.wait()
        return "answered"

    await place.connections.accept(listening)
    yield place
    await place.connections.close()


async def test_who_is_in_when_nobody_is_let_in_any_more_is_answered(place: Place) -> None:
    """Who has connected and not yet said anything, too."""
    place.may_answer.set()
    silent_reader, silent_writer = await place.connect()
    reader, writer = await place.connect()
    writer.write(REQUEST)
    await reader.readuntil(b"answered")  # so both were let in
    place.connections.refuse()
    with pytest.raises(ConnectionRefusedError):
        await place.connect()
    silent_writer.write(REQUEST)
    await silent_reader.readuntil(b"answered")
    await place.connections.close()
    assert await reader.read() == await silent_reader.read() == b""
    writer.close()
    silent_writer.close()


async def test_a_request_under_way_is_answered_before_its_connection_is_closed(place: Place) -> None:
    """What is idle is closed at once."""
    idle_reader, idle_writer = await place.connect()
    reader, writer = await place.connect()
    writer.write(REQUEST)
    await place.asked.wait()
    closing = asyncio.create_task(place.connections.close())
    assert await idle_reader.read() == b""
    assert not closing.done()
    place.may_answer.set()
    assert (await reader.read()).endswith(b"answered")
    await closing
    writer.close()
    idle_writer.close()


async def test_a_request_that_takes_too_long_is_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a word in the log: it is nobody's mistake."""
    monkeypatch.setattr(connections, "CLOSE_TIME", 0.02)
    reader, writer = await place.connect()
    writer.write(REQUEST)
    await place.asked.wait()
    await place.connections.close()
    assert b"answered" not in await reader.read()
    assert caplog.text == ""
    writer.close()


@pytest.mark.parametrize("said", ["nothing", "half", "asked", "answered"])
async def test_a_client_that_has_gone_holds_no_connection(place: Place, said: str) -> None:
    """Long before it would have been idle for too long, whatever it had said."""
    reader, writer = await place.connect()
    match said:
        case "half":
            writer.write(REQUEST[:20])
        case "asked" | "answered":
            writer.write(REQUEST)
            await place.asked.wait()
    if said == "answered":
        place.may_answer.set()
        await reader.readuntil(b"answered")
    async with asyncio.timeout(2):
        while not place.connections._tasks:
            await asyncio.sleep(0.001)
        writer.close()
        while place.connections._tasks:
            await asyncio.sleep(0.001)


async def test_a_certificate_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    """As a mistake in the configuration, with what to do."""
    file = tmp_path / "x.pem"
    file.write_text("not a certificate")
    config = Config(port=0, certfile=file, keyfile=file)
    with sockets.listen(config) as listening, pytest.raises(ConfigError, match="the certificate cannot be used"):
        await Connections(Quart("test"), config).accept(listening)
