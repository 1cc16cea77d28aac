"""The outbound client."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from chatcore.errors import ConfigError
from chatcore.http import Timeouts, content, failures, make_client, reason_of
from chatcore.testing.upstream import FakeUpstream, Reply


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        yield upstream


def test_importing_it_is_cheap() -> None:
    """Neither httpx nor aiohttp is imported before the first client is made."""
    code = "import chatcore.openai, sys; print({'httpx', 'aiohttp', 'rich'} & set(sys.modules) or 'nothing')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "nothing\n"


async def test_connections_are_used_again(upstream: FakeUpstream) -> None:
    """One connection for requests that come one after the other."""
    async with make_client(base_url=upstream.url) as client:
        for _ in range(3):
            assert (await client.get("models")).status_code == 200
    assert (upstream.connections, len(upstream.requests)) == (1, 3)


async def test_no_request_waits_for_a_free_connection(upstream: FakeUpstream) -> None:
    """Each of 300 at once gets a connection of its own."""
    upstream.route("/slow", Reply.silence())
    async with make_client(base_url=upstream.url) as client:
        requests = [asyncio.create_task(client.get("slow")) for _ in range(300)]
        await upstream.request(299)
        assert upstream.connections == 300
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)


async def test_what_is_sent(upstream: FakeUpstream) -> None:
    """The headers that were asked for, no compression, a name."""
    async with make_client(base_url=upstream.url, headers={"X-Title": "Kiosk"}) as client:
        await client.post("models", json={"a": 1})
    headers = upstream.requests[0].headers
    assert (headers["x-title"], headers["accept-encoding"], headers["user-agent"]) == ("Kiosk", "identity", "chatcore")
    assert upstream.requests[0].json == {"a": 1}


async def test_cookies_are_not_kept(upstream: FakeUpstream) -> None:
    """One client serves many people."""
    upstream.route("/models", Reply.json({}, headers={"set-cookie": "who=me; Path=/"}))
    async with make_client(base_url=upstream.url) as client:
        await client.get("models")
        await client.get("models")
    assert "cookie" not in upstream.requests[1].headers


async def test_redirects_are_not_followed(upstream: FakeUpstream) -> None:
    """They would take the key to where it does not belong."""
    upstream.route("/models", Reply(status=302, headers={"location": "/api/v1/key"}))
    async with make_client(base_url=upstream.url) as client:
        assert (await client.get("models")).status_code == 302
    assert len(upstream.requests) == 1


async def test_proxies_of_the_environment_are_not_used(upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where requests go is a matter of configuration."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with make_client(base_url=upstream.url) as client:
        assert (await client.get("models")).status_code == 200


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None) -> None:
    """It is no fault of the server that is called: the error says where to look."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ConfigError, match="certificates") as caught:
        make_client()
    assert "SSL_CERT_FILE" in str(caught.value.hint)


async def test_large_bodies_go_in_pieces(upstream: FakeUpstream) -> None:
    """A body of 5 MB arrives whole, without a warning that it blocks the loop (warnings are errors here)."""
    upstream.route("/upload", Reply.json({}))
    body = bytes(range(256)) * 20_000
    async with make_client(base_url=upstream.url) as client:
        headers = {"content-length": str(len(body))}
        assert (await client.post("upload", content=content(body), headers=headers)).status_code == 200
    assert upstream.requests[0].body == body
    assert content(b"small") == b"small"


async def test_the_first_byte_may_take_longer_than_any_later_one(upstream: FakeUpstream) -> None:
    """A model may think long before it begins."""
    gate = asyncio.Event()
    upstream.route("/slow", Reply(body=b"hello", gates={0: gate}))
    async with make_client(base_url=upstream.url, timeouts=Timeouts(first_byte=20, idle=0.2)) as client:
        asyncio.get_running_loop().call_later(0.3, gate.set)
        assert (await client.get("slow")).content == b"hello"


async def test_silence_between_two_reads_is_bounded(upstream: FakeUpstream) -> None:
    """Any byte is a sign of life: only `idle` seconds without one end the request."""
    gates = {number: asyncio.Event() for number in range(7)}
    for number in range(1, 6):
        asyncio.get_running_loop().call_later(0.15 * number, gates[number].set)
    gates[0].set()
    upstream.route("/slow", Reply(body=b"abcdefg", chunks=1, gates=gates))
    read = bytearray()

    async def read_all(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", "slow") as response:
            async for data in response.aiter_raw():
                read.extend(data)

    start = time.monotonic()
    async with make_client(base_url=upstream.url, timeouts=Timeouts(first_byte=20, idle=0.6)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await read_all(client)
    assert read == b"abcdef"
    assert 1.2 < time.monotonic() - start < 5


async def test_the_first_byte_is_bounded(upstream: FakeUpstream) -> None:
    """A server that accepts a request and says nothing."""
    upstream.route("/slow", Reply.silence())
    async with make_client(base_url=upstream.url, timeouts=Timeouts(first_byte=0.1)) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("slow")


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"220 ready\r\n\r\n")
    writer.close()


async def _nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def _half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    await writer.drain()
    writer.close()


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    writer.transport.abort()


async def _half_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-le")
    writer.close()


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (_garbage, "what it answers is not HTTP"),
        (_nothing, "the connection was closed"),
        (_half, "the connection was closed"),
        (_half_a_head, "the connection was closed"),
        (_reset, "the connection was closed"),
    ],
)
async def test_failures(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], reason: str
) -> None:
    """All that a request can fail with is among `failures`, also what httpx-aiohttp forgets to translate. The reason is
    for people: one line, without the bytes."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, make_client(base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(failures()) as caught:
            await client.get("/")
    assert reason_of(caught.value) == reason


async def test_a_reason_phrase_in_any_encoding() -> None:
    """Some servers say it in their own language, as bytes of their own."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 401 Acc\xe8s refus\xe9\r\ncontent-length: 2\r\n\r\nno")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, make_client(base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        response = await client.get("/")
    assert (response.status_code, response.content) == (401, b"no")


async def test_nobody_there(unused_tcp_port: int) -> None:
    """A refused connection is a failure, told at once."""
    async with make_client(base_url=f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(failures()):
            await client.get("/")


async def test_a_response_can_be_closed_while_it_is_read(upstream: FakeUpstream) -> None:
    """Who reads it gets a failure, at once; the server sees the connection closed."""
    upstream.route("/slow", Reply(body=b"ab", chunks=1, gates={1: asyncio.Event()}))
    async with make_client(base_url=upstream.url) as client:
        response = await client.send(client.build_request("GET", "slow"), stream=True)
        reading = asyncio.create_task(response.aread())
        await asyncio.sleep(0)
        await response.aclose()
        with pytest.raises(failures()):
            await reading
        await asyncio.wait_for(upstream.requests[0].closed, 10)
