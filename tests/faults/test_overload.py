"""What a client cannot do to a server: keep it waiting, fill its memory, or take the place of everybody else.

On real sockets. Where a time-out is no setting, the server runs in this process with a shorter one.
"""

import asyncio
import inspect
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import h2.config
import h2.connection
import h2.events
import h2.settings
import httpx
import pytest
from quart import Blueprint, Response, websocket

from chatcore import requests, sse, state, streams
from chatcore.access import public
from chatcore.builtin.chat.settings import LARGEST_SETTINGS
from chatcore.config import Config
from chatcore.database.messages import VALUE
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.runs import log as runlog
from chatcore.runs import readers, turn
from chatcore.serving import connections, sockets

KEEP_ALIVE, BODY_TIMEOUT, MAX_BODY, MAX_STREAMS = 1.0, 0.6, 200_000, 5
LIMITS = {
    "CHATCORE_KEEP_ALIVE": str(KEEP_ALIVE),
    "CHATCORE_BODY_TIMEOUT": str(BODY_TIMEOUT),
    "CHATCORE_MAX_BODY": str(MAX_BODY),
    "CHATCORE_MAX_STREAMS": str(MAX_STREAMS),
}
NETWORK = 2**16
"""Bytes that the network stack takes in each direction of a connection, where the tests say how many: how many it takes
by itself is the machine's affair."""
SLACK = 3.0
"""Seconds within which something has happened that was due: the machine may be busy. Without the settings above it
would take longer."""


@attrs.frozen
class Server:
    """`chatcore serve` as a user starts it."""

    url: str
    process: subprocess.Popen


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One with tight limits, for all tests that leave it as it was."""
    options = [option for name in ("llama", "openrouter", "mcp") for option in ("--disable", name)]
    directory = tmp_path_factory.mktemp("overload")
    process = subprocess.Popen(
        [sys.executable, "-m", "chatcore", "serve", "--port", "0", *options],
        cwd=directory, env={**os.environ, **LIMITS}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stderr:
        if found := re.search(r"listening on (http\S+)", line):
            break
    yield Server(found[1], process)
    process.terminate()
    said = process.communicate(timeout=20)[1]
    assert " error " not in said, said


@pytest.fixture
async def client(server):
    """A client that behaves."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20) as client:
        yield client


def bound(connection):
    """Has the network stack take no more than `NETWORK` for a socket, or for the connections of one that listens."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NETWORK)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NETWORK)
    return connection


@pytest.fixture
def bounded(monkeypatch):
    """Bounds what the network stack takes for the connections of a server in this process."""
    monkeypatch.setattr(sockets, "listen", lambda config, listen=sockets.listen: bound(listen(config)))


@pytest.fixture
async def connect():
    """Connects to a server: gives where to read and where to write. `bounded`: the network stack takes `NETWORK`. All
    is closed after the test."""
    writers = []

    async def connected(url, *, bounded=False, **options):
        place = urlsplit(url)
        connection = bound(socket.socket()) if bounded else socket.socket()
        connection.connect((place.hostname, place.port))
        reader, writer = await asyncio.open_connection(sock=connection, **options)
        writers.append(writer)
        return reader, writer

    yield connected
    for writer in writers:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def until_closed(reader):
    """What comes until the server lets go; and how many seconds that took."""
    started = time.monotonic()
    received = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(20):
            received = await reader.read()
    return received, time.monotonic() - started


async def trickle(writer, data, pause=0.05):
    """Sends byte by byte, as long as it is let."""
    with suppress(ConnectionError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause)


HEAD = b"HTTP/1.1\r\nHost: localhost\r\n"


def question(words="hello", session=None, **headers):
    body = {"model": "echo", "messages": [{"role": "user", "content": words}], "session_id": session}
    return {"json": body, "headers": headers}


# --- who takes his time -----------------------------------------------------------------------------------------------


async def test_a_connection_on_which_no_request_comes_is_dropped(server, connect):
    """A silent one, one whose head comes byte by byte, and one that has had an answer: each after `keep_alive`."""

    async def silent():
        reader, _ = await connect(server.url)
        return await until_closed(reader)

    async def slow():
        reader, writer = await connect(server.url)
        trickling = asyncio.create_task(trickle(writer, b"GET / " + HEAD + b"X: y\r\n" * 100))
        ended = await until_closed(reader)
        trickling.cancel()
        return ended

    async def idle():
        reader, writer = await connect(server.url)
        writer.write(b"GET /health " + HEAD + b"\r\n")
        await reader.readuntil(b"}}")
        return await until_closed(reader)

    for received, taken in await asyncio.gather(silent(), slow(), idle()):
        assert KEEP_ALIVE - 0.1 < taken < KEEP_ALIVE + SLACK
        assert b"HTTP" not in received


async def test_a_connection_that_does_not_shake_hands_is_dropped(make_chat, connect, monkeypatch, tmp_path):
    """One to a server with a certificate, on which nothing comes."""
    monkeypatch.setattr(connections, "HANDSHAKE_TIME", 0.2)
    pem = certificate(tmp_path / "server.pem")
    chat = await make_chat(config={"certfile": pem, "keyfile": pem})
    reader, _ = await connect(chat.url)
    received, taken = await until_closed(reader)
    assert (received, 0.1 < taken < 0.2 + SLACK) == (b"", True)


def certificate(file):
    """A certificate with its key, which nobody would trust."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now, name = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC), x509.Name([])
    signed = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1)).sign(
        key, hashes.SHA256()
    )
    pem = serialization.Encoding.PEM
    text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(text + signed.public_bytes(pem))
    return file


async def test_a_body_that_takes_too_long_is_refused(server, connect):
    """However busily it comes: 408 after `body_timeout`, and the connection is closed."""
    reader, writer = await connect(server.url)
    writer.write(b"POST /api/chat/stream " + HEAD + b"Content-Length: 1000\r\n\r\n")
    trickling = asyncio.create_task(trickle(writer, b'{"messages": ' + b" " * 900))
    received, taken = await until_closed(reader)
    trickling.cancel()
    assert received.startswith(b"HTTP/1.1 408")
    assert b'"code":"request_timeout"' in received
    assert BODY_TIMEOUT - 0.1 < taken < BODY_TIMEOUT + SLACK


# --- who sends too much -----------------------------------------------------------------------------------------------


async def test_a_body_over_the_limit_is_refused_before_it_has_come(server, client, connect):
    """By its announced length before its first byte, by what has come when it is in chunks: 413, with the limit."""
    reader, writer = await connect(server.url)
    writer.write(b"POST /api/chat/stream " + HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1))
    announced, _ = await until_closed(reader)
    reader, writer = await connect(server.url)
    writer.write(b"POST /api/chat/stream " + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"%x\r\n%b\r\n" % (MAX_BODY + 1, b" " * (MAX_BODY + 1))
    writer.write(chunk)  # without an end
    chunked, _ = await until_closed(reader)
    for received in (announced, chunked):
        assert received.startswith(b"HTTP/1.1 413")
        assert json.loads(received.partition(b"\r\n\r\n")[2]) == {
            "detail": f"the body has more than {MAX_BODY} bytes",
            "code": "too_large",
            "hint": "max_body is the server's limit",
        }
    answer = await client.post("/api/chat/stream", content=b" " * MAX_BODY)
    assert answer.status_code == 400  # it is no JSON, but was read


async def test_a_compressed_body_is_not_unpacked(client):
    """So none can become larger than it came."""
    answer = await client.post("/api/chat/stream", content=b"\x1f\x8b\x08", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 400


@pytest.mark.parametrize("start", [b"GET / " + HEAD + b"X: ", b"GET /?", b"GET / " + HEAD + b"X: y\r\n"])
async def test_a_head_without_end_is_refused(server, start, connect):
    """A header, a query, or ever new headers: when no more than the limit has come, not when it has an end."""
    reader, writer = await connect(server.url)
    limit = connections._settings(Config()).h11_max_incomplete_size
    more = start[-6:] if start.endswith(b"\n") else b"a" * 1000
    writer.write(start + more * (limit // len(more) + 1))
    received, _ = await until_closed(reader)
    assert received.startswith(b"HTTP/1.1 431")


async def test_many_large_bodies_at_once_are_refused(server, connect):
    """What comes at the same time is kept up to eight times `max_body`; then 503, and the others go on."""
    piece = MAX_BODY * 9 // 10

    async def send():
        reader, writer = await connect(server.url)
        writer.write(b"POST /api/chat/stream " + HEAD + b"Content-Length: %d\r\n\r\n" % MAX_BODY + b" " * piece)
        received, _ = await until_closed(reader)
        ended.append(time.monotonic())
        return received

    for _ in range(3):  # on a machine that is so busy that the first are over before the last have come, once more
        ended = []
        began = time.monotonic()
        answers = await asyncio.gather(*(send() for _ in range(30)))
        if sorted(ended)[21] - began < BODY_TIMEOUT:
            break
    refused = [received for received in answers if received.startswith(b"HTTP/1.1 503")]
    waited = [received for received in answers if received.startswith(b"HTTP/1.1 408")]
    assert all(b"retry-after: 1" in received for received in refused)
    assert len(waited) + len(refused) == 30
    assert 6 <= len(waited) <= 8  # eight; but what was kept for others before is there until it is collected


async def test_requests_that_come_without_waiting_wait(server, client, connect):
    """A client that asks and asks on one connection and reads nothing is made to wait; the others are not."""
    before = memory(server)
    _, writer = await connect(server.url, bounded=True)
    request = b"GET /openapi.json " + HEAD + b"\r\n"
    await send_until_it_waits(writer, request * 100)
    assert (await client.get("/health")).status_code == 200
    assert memory(server) - before < 20e6


async def send_until_it_waits(writer, data):
    """Sends something again and again, until nothing was taken for a while; gives how often."""
    writer.transport.set_write_buffer_limits(high=0)
    for sent in range(10_000):
        writer.write(data)
        try:
            await asyncio.wait_for(writer.drain(), 0.5)
        except TimeoutError:
            return sent
    raise AssertionError("everything was taken")


def memory(server):
    """The bytes that a server holds in memory."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- who comes too often ----------------------------------------------------------------------------------------------


async def test_of_many_questions_at_once_no_more_than_the_limit_are_let_in(server, client):
    """All come in one moment: `max_streams` are answered, the others get 503 and when to try again, and nothing of
    theirs is kept."""
    asked = [question("/slow 0.05\n" + "word " * 1000, f"session {number}") for number in range(30)]
    async with AsyncExitStack() as stack:
        streams = (client.stream("POST", "/api/chat/stream", **one) for one in asked)
        answers = await asyncio.gather(*map(stack.enter_async_context, streams))
        let_in = [answer for answer in answers if answer.status_code == 200]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert (len(let_in), len(refused)) == (MAX_STREAMS, 30 - MAX_STREAMS)
        assert all(answer.headers["retry-after"] == "1" for answer in refused)
        assert all([b'"overloaded"' in await answer.aread() for answer in refused])
        for answer in let_in:
            await client.post(f"/api/chat/runs/{answer.headers['chatcore-run-id']}/stop")
            await answer.aread()
    known = [(await client.get(f"/api/chat/session/session {number}/messages")).status_code for number in range(30)]
    assert known.count(200) == MAX_STREAMS
    assert (await client.post("/api/chat/stream", **question())).status_code == 200


async def test_the_readers_of_a_run_are_bounded(server, client):
    """As many as `max_streams`, of one run or of several; the next one gets 503, until one of them has gone."""
    asked = question("/slow 0.05\n" + "word " * 300, **{"Chatcore-On-Disconnect": "continue"})
    async with client.stream("POST", "/api/chat/stream", **asked) as first:
        run = f"/api/chat/runs/{first.headers['chatcore-run-id']}"
        reading = [client.stream("GET", f"{run}/events") for _ in range(MAX_STREAMS - 1)]
        for stream in reading:
            assert (await stream.__aenter__()).status_code == 200
        refused = await client.get(f"{run}/events")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await client.post("/api/chat/stream", **question())).status_code == 503
        await reading.pop().__aexit__(None, None, None)
        async with asyncio.timeout(10):
            while (answer := await client.post("/api/chat/stream", **question())).status_code == 503:
                await asyncio.sleep(0.01)
        assert answer.status_code == 200
        for stream in reading:
            await stream.__aexit__(None, None, None)
    await client.post(f"{run}/stop")


async def test_too_many_connections_are_dropped(make_chat, monkeypatch, connect):
    """Those who are in stay; who comes when there is room again is let in."""
    monkeypatch.setattr(connections, "most", lambda config: 20)
    chat = await make_chat()
    opened = [await connect(chat.url) for _ in range(40)]
    ends = {asyncio.create_task(until_closed(reader)): writer for reader, writer in opened}
    async with asyncio.timeout(20):
        while len([end for end in ends if end.done()]) < 20:
            await asyncio.sleep(0.001)
    for end, writer in ends.items():
        if not end.done():
            writer.write(b"GET /health " + HEAD + b"Connection: close\r\n\r\n")
    answers = [received for received, _ in await asyncio.gather(*ends)]
    assert [bool(received) for received in answers].count(True) == 20
    assert {received[:12] for received in answers if received} == {b"HTTP/1.1 200"}
    async with httpx.AsyncClient(base_url=chat.url, trust_env=False) as client:
        assert (await client.get("/health")).status_code == 200


# --- who does not read ------------------------------------------------------------------------------------------------


class Floods(Plugin[NoSettings]):
    """Streams without end, and takes messages for ever."""

    ended: asyncio.Event

    @hookimpl
    def register_routes(self):
        type(self).ended = asyncio.Event()
        routes = Blueprint("floods", __name__)
        routes.add_url_rule("/flood", view_func=self.flood)
        routes.add_url_rule("/large", view_func=self.large)
        routes.websocket("/deaf")(self.deaf)
        yield routes

    @public
    async def flood(self):
        async def forever():
            try:
                while True:
                    yield b"x" * 10_000
            finally:
                self.ended.set()

        return Response(forever(), mimetype="text/event-stream")

    @public
    async def large(self):
        return Response(b"x" * 8_000_000)

    @public
    async def deaf(self):
        await websocket.accept()
        await asyncio.Event().wait()


@pytest.fixture
def stalled(monkeypatch):
    """Shortens the time after which a client that takes nothing is let go."""
    monkeypatch.setattr(sockets, "STALLED", 0.3)
    monkeypatch.setattr(streams, "STALLED", 0.3)
    monkeypatch.setattr(streams, "BEAT", 0.1)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux drops such connections by itself")
@pytest.mark.parametrize("path", ["/flood", "/large"])
async def test_a_client_that_does_not_read_is_dropped(make_chat, stalled, bounded, caplog, path, connect):
    """A stream and an answer of a known length, both more than the network takes: what made them is ended, nothing is
    kept, and nothing is said of it as of an error."""
    chat = await make_chat(Floods)
    reader, writer = await connect(chat.url, bounded=True, limit=1)
    writer.write(b"GET %b " % path.encode() + HEAD + b"\r\n")
    await reader.readexactly(100)
    held = chat.app.extensions["chatcore"]
    async with asyncio.timeout(20):
        if path == "/flood":
            await Floods.ended.wait()
        while any(task.get_coro().__qualname__ == "TCPServer.run" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
    assert held.streams.count == 0
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_a_client_of_http2_that_takes_nothing_is_dropped(make_chat, stalled, caplog, connect):
    """It says that it is there, and that there is no room for the answer: only its streams can be let go."""
    chat = await make_chat(Floods)
    reader, writer = await connect(chat.url)
    protocol = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    protocol.local_settings = h2.settings.Settings(
        client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    )
    protocol.initiate_connection()
    protocol.send_headers(
        1,
        [(":method", "GET"), (":path", "/flood"), (":scheme", "http"), (":authority", "localhost")],
        end_stream=True,
    )
    writer.write(protocol.data_to_send())
    received = []
    async with asyncio.timeout(10):
        while not Floods.ended.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    received += protocol.receive_data(await reader.read(65536))
                    writer.write(protocol.data_to_send())
    assert any(isinstance(event, h2.events.ResponseReceived) for event in received)
    assert not any(isinstance(event, h2.events.DataReceived) for event in received)
    assert "has taken nothing for" in caplog.text or not caplog.records


async def test_a_websocket_whose_view_does_not_keep_up_is_closed(make_chat, connect, bounded, monkeypatch):
    """When four megabytes wait for it; what waits is not kept, and the server goes on."""
    monkeypatch.setattr(connections, "CLOSE_TIME", 0.1)  # hypercorn's pings end with their pause
    chat = await make_chat(Floods)
    reader, writer = await connect(chat.url, bounded=True)
    writer.write(
        b"GET /deaf " + HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    size = 500_000
    message = struct.pack("!BBQ4s", 0x82, 0x80 | 127, size, b"\0\0\0\0") + b"x" * size
    sent = 0
    with suppress(ConnectionError):
        while not reader.at_eof() and sent < 100:
            writer.write(message)
            await writer.drain()
            await asyncio.sleep(0)
            sent += 1
    # What the mailbox holds, what is on its way there, and what the network stack takes.
    assert requests.LARGEST_MAILBOX / size < sent < requests.LARGEST_MAILBOX / size + 10


# --- what is said about it --------------------------------------------------------------------------------------------


def test_the_page_of_limits_says_what_they_are():
    """Each number of it is that of the code."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "limits.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    config, hypercorn = Config(), connections._settings(Config())
    event, stream = (inspect.signature(sse.Parser).parameters[name].default for name in ("limit", "total"))
    expected = {
        "answers under way, and requests at `/mcp`": f"({config.max_streams})",
        "connections": "4 × `max_streams` + 1000",
        "bodies that are coming, together": f"{requests.LARGEST_BODIES} × `max_body`",
        "large answers that wait for their clients, together": f" {streams.MOST_WAITING // 2**20} MiB",
        "what the models of answers under way are given, together": f" {state.MOST_HISTORIES // 2**20} MiB, but always",
        "long conversations (more than 256 KiB) that are read": " one at a time ",
        "a conversation that goes on, with all its branches and files": f"({config.max_conversation // 2**20} MiB)",
        "what is set for a client, or for a conversation": f" {LARGEST_SETTINGS // 2**10} KiB",
        "what models and tools say in a turn, with the chunks in which it comes": f"({config.max_answer // 2**20} MiB)",
        "one event of a model's server, and one answer of it": f" {event // 2**20} MiB, and {stream // 2**20} MiB ",
        "the text of a tool's answer": f"({config.tool_output} characters)",
        "values in a JSON body (what is in strings is none)": f" {requests.MOST_VALUES:,} ",
        "streams of one HTTP/2 connection": f" {hypercorn.h2_max_concurrent_streams} ",
        "requests of one connection": f" {hypercorn.keep_alive_max_requests} ",
        "the body of a request": f"({config.max_body // 2**20} MiB)",
        "the head of a request": f" {hypercorn.h11_max_incomplete_size // 2**10} KiB",
        "a message on a WebSocket": f" {connections.LARGEST_MESSAGE // 2**20} MiB",
        "messages that wait for the view of a WebSocket": f" {requests.LARGEST_MAILBOX // 2**20} MiB",
        "what is kept for one reader of an answer": f" {readers.LARGEST_BATCH} events",
        "from the connection, or the last answer, to the end of a request's head": f"({config.keep_alive:g} s)",
        "the TLS handshake": f" {connections.HANDSHAKE_TIME:g} s",
        "a hook of a plugin, before a turn and after it": f"({config.hook_timeout:g} s)",
        "a client that takes nothing of what it is sent": f" {streams.STALLED:g} s",
        "an idle stream": f" {streams.BEAT + streams.SILENCE:g} s",
        "an idle WebSocket": f" {connections.PING_INTERVAL:g} s",
    }
    assert {name: text in rows[name] for name, text in expected.items()} == dict.fromkeys(expected, True)
    assert f"and {VALUE} more for each value" in page
    assert f"each event has {turn.EVENT} bytes beside" in page
    assert state.SMALL_HISTORY == 256 * 2**10
    assert connections.most(config) == 4 * config.max_streams + 1000
    assert (sockets.STALLED, readers.LARGEST_BATCH) == (streams.STALLED, runlog.LONGEST_ROW)
    assert f"`body_timeout` ({config.body_timeout:g} s)" in page
