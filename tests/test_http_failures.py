"""Servers that cannot be reached, each for another reason: what people are told, and what they can do about it."""

import asyncio
import ipaddress
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chatcore.errors import ChatcoreError
from chatcore.openai import OpenAIProvider
from chatcore.terminal.client import connected

PAGE = b"<html><title>Bad\x1b[2J Gateway</title></html>"
CHECK = "check the address"
NAME = "call it by a name that its certificate has"


def answer(status: str, body: bytes = PAGE, *headers: str) -> bytes:
    """An answer of HTTP, as it is on the wire."""
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


@attrs.frozen(kw_only=True)
class Case:
    """A server: what it answers, what its certificate is like, and how it is called; what is told of it.

    `valid` is from when to when, in days from now. The certificate is trusted unless `trusted` is False.
    """

    says: bytes = answer("200 OK", PAGE, "content-type: text/html; charset=utf-8")
    tls: bool = False
    valid: tuple[int, int] = (-1, 1)
    named: str = "127.0.0.1"
    trusted: bool = True
    url: str = "http://127.0.0.1:{port}"
    reason: str
    remedy: str


BROKEN = {
    "nobody trusts it": Case(
        tls=True, trusted=False, url="https://127.0.0.1:{port}",
        reason=r"its certificate is not trusted \(self-signed certificate\)", remedy="SSL_CERT_FILE",
    ),
    "expired": Case(
        tls=True, valid=(-9, -1), url="https://127.0.0.1:{port}", reason="certificate has expired", remedy="renew it"
    ),
    "not yet valid": Case(
        tls=True, valid=(1, 9), url="https://127.0.0.1:{port}", reason="certificate is not valid yet", remedy="clock"
    ),
    "another address": Case(
        tls=True, named="127.0.0.2", url="https://127.0.0.1:{port}", reason="for another address", remedy=NAME
    ),
    "another name": Case(
        tls=True, url="https://localhost:{port}", reason="certificate is for another name", remedy=NAME
    ),
    "https to http": Case(url="https://127.0.0.1:{port}", reason="it does not speak TLS", remedy="write http://"),
    "http to https": Case(tls=True, reason="the connection was closed", remedy="https://"),
    "an alert of TLS": Case(says=b"\x15\x03\x01\x00\x02\x02\x46", reason="is not HTTP|was closed", remedy="https://"),
    "no such name": Case(url="http://127.0.0.1.invalid:{port}", reason="name is not known", remedy="check the name"),
}  # fmt: skip
"""What goes wrong before there is an answer."""

STRANGE = {
    "a page": Case(reason=r"is not chatcore \(HTTP 200: Bad", remedy=CHECK),
    "a proxy": Case(says=answer("502 Bad Gateway"), reason=r"\(HTTP 502: Bad", remedy="a proxy answers for it"),
    "a sign-in": Case(
        says=answer("302 Found", b"", "location: https://login.test/"),
        reason="redirected to https://login.test/", remedy=CHECK,
    ),
    "http to https, by nginx": Case(
        says=answer("400 Bad Request", b"<title>400 The plain HTTP request was sent to HTTPS port</title>"),
        reason="was sent to HTTPS port", remedy=CHECK,
    ),
    "another API": Case(
        says=answer("200 OK", b'{"models": []}', "content-type: text/plain"), reason="not chatcore", remedy=CHECK
    ),
}  # fmt: skip
"""Answers, of others than chatcore."""


def certificate(case: Case, path: Path) -> Path:
    """Makes a certificate with its key in one file; it has signed itself."""
    key, now, name = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC), x509.Name([])
    start, end = (now + timedelta(days=days) for days in case.valid)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, end)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(case.named))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, raw = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(signed.public_bytes(pem) + key.private_bytes(pem, raw, serialization.NoEncryption()))
    return path


@asynccontextmanager
async def served(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of a server on a socket."""
    tls = None
    if case.tls:
        file = certificate(case, tmp_path / "certificate.pem")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(file)
        if case.trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(file))

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(case.says)
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0, ssl=tls) as server:
        yield case.url.format(port=server.sockets[0].getsockname()[1])


async def chat(url: str) -> None:
    async with connected(url, None, None) as client:
        async for _ in client.ask("hi"):
            pass


async def models(url: str) -> None:
    async with connected(url, None, None) as client:
        await client.models()


async def provider(url: str) -> None:
    async with OpenAIProvider(name="fake", base_url=f"{url}/v1", retries=0).session() as provider:
        await provider.models()


def check(error: ChatcoreError, case: Case) -> None:
    """One line, no orders for a terminal, and what to do."""
    assert error.hint is not None
    assert (error.message.isprintable(), error.hint.isprintable()) == (True, True)
    assert re.search(case.reason, error.message), error.message
    assert case.remedy in error.hint


@pytest.mark.parametrize("ask", [chat, models, provider])
@pytest.mark.parametrize("name", BROKEN)
async def test_a_connection_that_cannot_be_made(
    name: str, ask: Callable[[str], Awaitable[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat in the terminal, and a provider, name the cause and its remedy; neither asks whether the server runs."""
    async with served(BROKEN[name], tmp_path, monkeypatch) as url:
        with pytest.raises(ChatcoreError) as caught:
            await ask(url)
    check(caught.value, BROKEN[name])
    assert "cannot be reached" in caught.value.message


@pytest.mark.parametrize("ask", [chat, models])
@pytest.mark.parametrize("name", STRANGE)
async def test_an_answer_that_is_not_of_chatcore(
    name: str, ask: Callable[[str], Awaitable[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat in the terminal says what it is, and is not left with half an answer."""
    async with served(STRANGE[name], tmp_path, monkeypatch) as url:
        with pytest.raises(ChatcoreError) as caught:
            await ask(url)
    check(caught.value, STRANGE[name])
    assert url in caught.value.message


@pytest.mark.parametrize(("ask", "hint"), [(chat, "start a server"), (provider, "running?")])
async def test_nobody_listens(ask: Callable[[str], Awaitable[None]], hint: str, unused_tcp_port: int) -> None:
    """Then it may be that no server runs."""
    for address in (f"localhost:{unused_tcp_port}", f"127.0.0.1:{unused_tcp_port}"):
        with pytest.raises(ChatcoreError, match="cannot be reached: connection refused") as caught:
            await ask(f"http://{address}")
        assert hint in (caught.value.hint or "")


async def test_a_password_in_an_address_is_not_told(unused_tcp_port: int) -> None:
    """What was tried is told without it."""
    with pytest.raises(ChatcoreError, match=f"^http://127.0.0.1:{unused_tcp_port} cannot") as caught:
        await chat(f"http://me:secret@127.0.0.1:{unused_tcp_port}/?key=secret")
    assert "secret" not in caught.value.in_full
