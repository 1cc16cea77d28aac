"""The way to servers that have a URL: what they answer, and where they are."""

import asyncio
import ipaddress
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from chatcore_mcp import outbound
from chatcore_mcp.definitions import definition_of
from chatcore_mcp.streams import MOST_REQUESTS
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chatcore.addresses import Reach
from chatcore.tools import QuestionAnswer

from .conftest import PROGRAMS, delaying_nobody, lag


@contextmanager
def running(port: str = "0") -> Iterator[str]:
    """The address of a raw server over HTTP, which is killed at the end."""
    command = [sys.executable, str(PROGRAMS / "raw_http.py"), port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as url:
        yield url


async def test_an_old_server_is_connected_and_called(bench, url: str):
    """One that speaks 2025-03-26, in sessions and without streams."""
    made = await bench({"raw": {"url": f"{url}/mcp", "type": "http"}})
    await made.connected("raw")
    assert (await made.call("echo", text="hello")).text == '{"text": "hello"}'


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("401", "it wants to know who is asking (HTTP 401): give it a token in 'headers'"),
        ("403", "it wants to know who is asking (HTTP 403): give it a token in 'headers'"),
        ("500", "it answers HTTP 500"),
        ("404", "it answers HTTP 404"),  # it was asked whether it speaks the older transport as well
        ("html", "Unexpected content type: text/html"),
        ("redirect", "Redirect to http://localhost:9/mcp not followed"),
        ("gzip", "it compresses what it sends, although it was asked not to"),
        ("half", "its answer cannot be read"),
        ("hang", "it did not answer within 0.5 s"),
    ],
)
async def test_what_is_no_server_says_why(bench, url: str, path: str, problem: str):
    """In one line, with the remedy where there is one."""
    made = await bench({"broken": {"url": f"{url}/{path}"}}, timeout=0.5 if path == "hang" else 20)
    await made.until(lambda: made.server("broken").problem)
    assert made.server("broken").problem.startswith(problem)
    assert "\n" not in made.server("broken").problem


async def test_a_token_is_sent(bench, url: str):
    """From the environment."""
    entry = {"url": f"{url}/secret", "headers": {"Authorization": "Bearer ${TOKEN}"}}
    made = await bench({"secret": entry}, environ={"TOKEN": "letmein"})
    await made.connected("secret")
    assert "echo" in made.names()


async def test_broken_answers_are_errors_that_the_model_reads(bench, url: str):
    """Half a JSON text, and a content of an unknown kind. The connection stays."""
    made = await bench({"raw": {"url": f"{url}/mcp"}})
    await made.connected("raw")
    assert (await made.call("half")).text == "the server refused the call: its answer cannot be read"
    strange = await made.call("strange")
    assert strange.is_error
    assert strange.text.startswith("the answer has the wrong shape")
    assert not (await made.call("echo")).is_error


async def test_a_large_answer_is_cut_and_delays_nobody(bench, url: str):
    """Five megabytes are; of twenty the call says that they are too much."""
    made = await bench({"raw": {"url": f"{url}/mcp"}})
    await made.connected("raw")
    result = await delaying_nobody(lambda: made.call("big", size=5_000_000))
    assert len(result.text) == 400_000
    assert "the answer has more than 16 MB" in (await made.call("big", size=20_000_000)).text
    assert not (await made.call("echo")).is_error


async def test_a_call_that_asks_again_and_again_ends(bench, url: str):
    """After ten rounds, and the model learns why."""
    made = await bench({"modern": {"url": f"{url}/modern"}})
    await made.connected("modern")
    made.answers = [QuestionAnswer(action="accept")] * 11
    result = await made.call("echo")
    assert result.is_error
    assert result.text == "it has asked for more 10 times, and not ended"
    assert len(made.asked) == 10


async def test_killed_it_returns(bench):
    """A call that is under way says that its outcome is unknown; the next one waits until the server is back."""
    with running() as url:
        made = await bench({"raw": {"url": f"{url}/mcp"}})
        await made.connected("raw")
        slow = asyncio.create_task(made.call("slow"))
        await made.call("echo")
    assert (await slow).is_error
    call = asyncio.create_task(made.call("echo"))
    await made.until(lambda: made.server("raw").problem)
    with running(url.rpartition(":")[2]):
        assert not (await call).is_error


async def test_a_restart_that_nobody_noticed_is_borne(bench):
    """The server has forgotten the session: a new one is made, and the call is answered."""
    with running() as url:
        made = await bench({"raw": {"url": f"{url}/mcp"}})
        await made.connected("raw")
    with running(url.rpartition(":")[2]):
        assert not (await made.call("echo")).is_error


async def test_an_address_that_came_over_http_is_checked(bench, url: str):
    """One on this machine is refused if that is not configured; one of the operator's own file is not."""
    local = {"url": f"{url}/mcp"}
    entries = {"own": local, "theirs": {**local, "added_over_http": True}}
    made = await bench(entries, reach=Reach())
    await made.connected("own")
    await made.until(lambda: made.server("theirs").problem)
    assert (
        made.server("theirs").problem
        == "127.0.0.1 (127.0.0.1) is not a public address, nor in a network that is allowed"
    )
    allowed = await bench(entries)
    await allowed.connected("theirs")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("pings", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_a_flood_of_pings_delays_nobody(bench, url: str, pings: int):
    """Each is answered, in a request of its own, one after the other: they wait at the server's end, not as tasks here,
    and the event loop is free again at once."""
    made = await bench({"raw": {"url": f"{url}/mcp", "type": "http"}}, timeout=120)
    await made.connected("raw")
    async with lag() as busy:
        result = await made.call("flood", size=pings)
    print(f"{pings} pings: p99 {busy.p99:.1f} ms, {busy.tasks} tasks")
    assert result.text == f"{pings} were answered"
    assert busy.p99 < 25
    assert busy.tasks < MOST_REQUESTS + 50


async def test_what_is_secret_in_a_url_is_not_told(bench, tmp_path):
    """Neither in the problem nor in the log."""
    made = await bench({"gone": {"url": "http://me:password@127.0.0.1:9/mcp?key=secret"}})
    await made.until(lambda: made.server("gone").problem)
    assert made.server("gone").problem == "nobody answers at http://127.0.0.1:9/mcp: All connection attempts failed"
    definition = definition_of("x", {"url": "http://x/?key=secret"}, environ={}, directory=tmp_path)
    assert "secret" not in repr(definition)


def certificate(path: Path, *, lasts: int) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate for this machine that has signed itself, in a file."""
    key, now, name = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC), x509.Name([])
    start, end = now - timedelta(days=9), now + timedelta(days=lasts)
    host = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, start, end).add_extension(host, critical=True)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, form, serialization.NoEncryption())
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.mark.parametrize(
    ("scheme", "tls", "problem"),
    [
        ("https", {"lasts": 9}, "cannot be reached: its certificate is not trusted (self-signed certificate); have it"),
        ("https", {"lasts": -1, "trusted": True}, "cannot be reached: its certificate has expired; renew it"),
        ("https", {}, "cannot be reached: it does not speak TLS; write http://"),
        ("http", {"lasts": 9}, "without sending a response.; see what its log says; if it speaks TLS"),
    ],
)
async def test_a_certificate_and_a_wrong_scheme_are_named(bench, monkeypatch, tmp_path, scheme, tls, problem):
    """With what to do about it, and without the URL's secrets."""
    trusted = tls.pop("trusted", False)
    context = certificate(tmp_path / "server.pem", **tls) if tls else None
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "server.pem"))
    outbound._certificates.cache_clear()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"" if context else b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
        url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        made = await bench({"there": {"url": f"{url}?key=secret"}})
        await made.until(lambda: made.server("there").problem)
    outbound._certificates.cache_clear()
    told = made.server("there").problem
    assert (problem in told, url in told, "secret" in told) == (True, True, False), told
