"""The one way out: the client with which chatcore and its plugins call other servers.

It is an `httpx.AsyncClient` on aiohttp's connections: httpx's own pool looks at every idle connection for each request,
which with some hundred of them takes longer than the request. Both are imported when the first client is made, because
that takes 0.4 s: where others are being served meanwhile, call `make_client` in a thread (`asyncio.to_thread`).
"""

import asyncio
import math
import weakref
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import attrs

from chatcore.errors import ConfigError

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import httpx

KEEP_ALIVE = 30.0
"""Seconds for which an idle connection is kept."""

_PIECE = 2**18
_LARGE = 2**20  # from this size on aiohttp warns of a body in one piece: it would block the loop


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long to wait for a server, in seconds.

    `connect` is for the connection, with name lookup and TLS. `first_byte` is for the answer to begin, from then on;
    once its head is there, its body may take as long again to begin. `idle` is for silence between two reads after
    that, which is noticed within a quarter more: any byte is a sign of life, also that of a comment in an event stream.
    """

    connect: float = 10.0
    first_byte: float = 120.0
    idle: float = 120.0


def make_client(
    *, base_url: str = "", headers: Mapping[str, str] | None = None, timeouts: Timeouts | None = None
) -> "httpx.AsyncClient":
    """A client. Whoever makes it closes it: `await client.aclose()`, after the responses that are still being read.

    It keeps no cookies, follows no redirects, reads no proxy settings, asks for no compression, and never lets a
    request wait for a free connection: how much goes out at once is for those to decide who ask.

    Raises:
        ConfigError: the certificates by which servers are known cannot be read.
    """
    import httpx  # noqa: PLC0415  slow, see above
    from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415  slow, see above

    from chatcore.straight import StraightClient  # noqa: PLC0415  slow, see above

    timeouts = timeouts or Timeouts()
    try:
        certificates = httpx.create_ssl_context()  # those of certifi, or what SSL_CERT_FILE or SSL_CERT_DIR name
    except OSError as error:
        hint = "check SSL_CERT_FILE and SSL_CERT_DIR in the environment"
        raise ConfigError(f"the certificates of servers cannot be read: {error}", hint=hint) from error
    return StraightClient(
        AiohttpTransport(verify=certificates, client=lambda: _session(timeouts, certificates)),
        base_url=base_url,
        headers={"user-agent": "chatcore", "accept-encoding": "identity", **(headers or {})},
        timeout=httpx.Timeout(connect=timeouts.connect, read=timeouts.first_byte, write=None, pool=timeouts.connect),
        trust_env=False,
    )


def failures() -> tuple[type[Exception], ...]:
    """What a request of such a client fails with, if not with a status: for `except failures() as error:`."""
    import aiohttp  # noqa: PLC0415  slow, see above
    import httpx  # noqa: PLC0415  slow, see above

    # httpx-aiohttp leaves some of aiohttp's errors as they are, such as that for an answer that is not HTTP.
    return (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError)


def reason_of(failure: Exception) -> str:
    """Why a request failed, in a few words."""
    import aiohttp  # noqa: PLC0415  slow, and there by now

    # The transport's own error says more than that of httpx, which most of them become.
    cause = failure if isinstance(failure, aiohttp.ClientError) else failure.__cause__ or failure
    if isinstance(cause, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the connection was closed"  # in its own words, that the body's framing is a bad request
    if isinstance(cause, aiohttp.ClientResponseError):
        return "what it answers is not HTTP"  # in its own words, several lines with the bytes in them
    return str(cause) or type(cause).__name__


def content(body: bytes) -> "bytes | AsyncIterator[bytes]":
    """A request body as httpx is to be given it: a large one in pieces. It then needs a `content-length` header."""
    return body if len(body) <= _LARGE else _pieces(body)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _session(timeouts: Timeouts, certificates: "ssl.SSLContext") -> "aiohttp.ClientSession":
    import aiohttp  # noqa: PLC0415  slow, see above

    async def watch_silence(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        response = await handler(request)
        response.reason = ""  # of no use to anybody, and httpx-aiohttp fails with one that is not UTF-8
        if response.connection is not None and response.connection.protocol is not None:
            response.connection.protocol.read_timeout = None  # it would make a timer for every piece
            _look(weakref.ref(response), timeouts.idle, 0, math.inf)
        return response

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=certificates, keepalive_timeout=KEEP_ALIVE),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=[watch_silence],
    )


def _look(watched: "weakref.ref[aiohttp.ClientResponse]", idle: float, known: int, since: float) -> None:
    """Ends a response whose body has begun and then was silent for too long, at the next of four looks in that time.
    `known` bytes had come at time `since`. Until the body begins, the limit for the head counts."""
    import aiohttp  # noqa: PLC0415  slow, see above

    response = watched()
    if response is None or response.connection is None or response.connection.transport is None:
        return
    loop = asyncio.get_running_loop()
    come = response.content.total_bytes
    if come != known or (come and not response.connection.transport.is_reading()):
        known, since = come, loop.time()
    elif loop.time() - since >= idle:
        response.content.set_exception(aiohttp.SocketTimeoutError(f"nothing has come for {idle:g} s"))
        return
    loop.call_later(idle / 4, _look, watched, idle, known, since)
