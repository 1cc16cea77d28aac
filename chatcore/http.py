"""The one way out: the client with which chatcore and its plugins call other servers.

It is an `httpx.AsyncClient` on aiohttp's connections: httpx's own pool looks at every idle connection for each request,
which with some hundred of them takes longer than the request. Both are imported when the first client is made, because
that takes 0.4 s: where others are being served meanwhile, call `make_client` in a thread (`asyncio.to_thread`).
"""

import asyncio
import math
import os
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

import attrs

from chatcore.errors import ConfigError

if TYPE_CHECKING:
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


def content(body: bytes) -> "bytes | AsyncIterator[bytes]":
    """A request body as httpx is to be given it: a large one in pieces. It then needs a `content-length` header."""
    return body if len(body) <= _LARGE else _pieces(body)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def _session(timeouts: Timeouts, certificates: ssl.SSLContext) -> "aiohttp.ClientSession":
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


# --- why it has failed ------------------------------------------------------------------------------------------------

_TRUST = (
    "have it signed by an authority that is known here; or put its authority's certificate into a file, with those of "
    "the others that are called, and name that file in SSL_CERT_FILE"
)
_NAME = "call it by a name that its certificate has, or give it a certificate with this name"
# By OpenSSL's numbers, X509_V_ERR_…; the others are all that whoever signed it is not known.
_CERTIFICATES = {
    9: ("is not valid yet", "set the clock of this machine, or that of the one that made it"),
    10: ("has expired", "renew it on the server; if it is new, set the clock of this machine"),
    62: ("is for another name", _NAME),
    64: ("is for another address", _NAME),
}
# What OpenSSL makes of an answer that is plain text.
_PLAIN = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
SILENT = "see what its log says; if it speaks TLS, its address begins with https://"
"""What to do where a server that is called without TLS closes the connection, or answers something that is not HTTP."""


def failures() -> tuple[type[Exception], ...]:
    """What a request of such a client fails with, if not with a status: for `except failures() as error:`."""
    import aiohttp  # noqa: PLC0415  slow, see above
    import httpx  # noqa: PLC0415  slow, see above

    # httpx-aiohttp leaves some of aiohttp's errors as they are, such as that for an answer that is not HTTP.
    return (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError)


def reason_of(failure: Exception) -> str:
    """Why a request failed, in a few words."""
    import aiohttp  # noqa: PLC0415  slow, and there by now

    if known := cause_of(failure):
        return known.reason
    cause = _own(failure)
    if isinstance(cause, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the connection was closed"  # in its own words, that the body's framing is a bad request
    if isinstance(cause, aiohttp.ClientResponseError):
        return "what it answers is not HTTP"  # in its own words, several lines with the bytes in them
    if isinstance(cause, aiohttp.ClientConnectorError) and cause.errno:
        return os.strerror(cause.errno).lower()  # in its own words, with the insides of a socket
    return str(cause) or type(cause).__name__


def remedy_of(failure: Exception, url: str) -> str | None:
    """What to do about a request to a URL that failed, where that is more than to see that the server runs."""
    import aiohttp  # noqa: PLC0415  slow, and there by now

    if known := cause_of(failure):
        return known.remedy
    odd = isinstance(_own(failure), aiohttp.ServerDisconnectedError | aiohttp.ClientResponseError)
    return SILENT if odd and url.lower().startswith("http:") else None


def _own(failure: Exception) -> BaseException:
    """The transport's own error, which says more than that of httpx that most of them become."""
    import aiohttp  # noqa: PLC0415  slow, and there by now

    return failure if isinstance(failure, aiohttp.ClientError) else failure.__cause__ or failure


@attrs.frozen
class Cause:
    """Why there is no connection, and what to do about it."""

    reason: str
    remedy: str


def cause_of(failure: BaseException) -> Cause | None:
    """The cause of a failed request, if that is more than that nobody listens: a certificate, TLS, a name. Also of
    other libraries: what the system said is among the causes of their errors."""
    for error in reversed([*_chain(failure)]):  # libraries' own errors claim to be the system's, which are further in
        match error:
            case ssl.SSLCertVerificationError():
                what, remedy = _CERTIFICATES.get(
                    error.verify_code, (f"is not trusted ({error.verify_message})", _TRUST)
                )
                return Cause(f"its certificate {what}", remedy)
            case ssl.SSLError() if error.reason in _PLAIN:
                return Cause("it does not speak TLS", "write http:// in its address, not https://")
            case ssl.SSLError():
                return Cause(f"TLS with it fails ({error.reason or error})", "its log says more")
            case socket.gaierror():
                return Cause("its name is not known", "check the name in its address, and that this machine is online")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__
