"""The way to servers that have a URL: an httpx2 transport that looks where it goes and how much comes back."""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator

import httpx2

from chatcore.addresses import Reach
from chatcore_mcp.definitions import Endpoint
from chatcore_mcp.offers import ConnectionLost
from chatcore_mcp.sizes import LARGEST, bounded, whole

CONNECT = 10.0
"""Seconds for a connection to a server, and for each message to be sent."""

_DATA = b"data:"
_PORTS = {"http": 80, "https": 443}


@functools.cache
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()


class Outbound(httpx2.AsyncBaseTransport):
    """What the requests of one connection go through.

    `reach` says where they may go, beside the host `own`. The name in the URL is looked up once for each request, and
    the address that was checked is the one that is connected to. `refusal` is the status of the last answer, if that
    was an error. What comes back is cut as `sizes` says.
    """

    def __init__(self, reach: Reach, certificates: ssl.SSLContext, own: str | None) -> None:
        self.refusal: int | None = None
        self._reach = reach
        self._own = own
        unlimited = httpx2.Limits(max_connections=None, max_keepalive_connections=5, keepalive_expiry=30.0)
        self._inner = httpx2.AsyncHTTPTransport(verify=certificates, trust_env=False, limits=unlimited)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(await self._directed(request))
        self.refusal = response.status_code if response.status_code >= 400 else None
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise ConnectionLost("it compresses what it sends, although it was asked not to")
        events = response.headers.get("content-type", "").lower().startswith("text/event-stream")
        response.stream = _Cut(response.stream, events)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _directed(self, request: httpx2.Request) -> httpx2.Request:
        """The request at an address that was checked."""
        url = request.url
        if url.scheme not in _PORTS:
            raise httpx2.UnsupportedProtocol(f"{url.scheme!r} is neither http nor https", request=request)
        if url.host == self._own:
            return request
        try:
            address = await self._reach.resolve(url.host, url.port or _PORTS[url.scheme])
        except OSError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        extensions = {**request.extensions, "sni_hostname": url.raw_host.decode("ascii")}
        return httpx2.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions=extensions,
        )


class _Cut(httpx2.AsyncByteStream):
    """A body, or the events of a stream, with messages no longer than they may be."""

    def __init__(self, inner: object, events: bool) -> None:
        if not isinstance(inner, httpx2.AsyncByteStream):
            raise TypeError("the answer to an asynchronous request has an asynchronous body")
        self._inner = inner
        self._events = events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._events:
            async for line in self._lines():
                yield line
        else:
            yield await whole([piece async for piece in self._limited()])

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _limited(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._inner:
            size += len(piece)
            if size > LARGEST:
                raise httpx2.StreamError(f"the answer has more than {LARGEST // 2**20} MB")
            yield piece

    async def _lines(self) -> AsyncIterator[bytes]:
        pending: list[bytes] = []
        size = 0
        async for piece in self._inner:
            first, *rest = piece.split(b"\n")
            pending.append(first)
            size += len(first)
            for line in rest:
                yield await whole(pending, _event_line) + b"\n"
                pending, size = [line], len(line)
            if size > LARGEST:
                raise httpx2.StreamError(f"an event has more than {LARGEST // 2**20} MB")
        yield b"".join(pending)


def _event_line(line: bytes) -> bytes:
    if not line.startswith(_DATA):
        return line
    return _DATA + bounded(line[len(_DATA) :])  # blanks round it are JSON's too: to take them off would be a copy more


async def make_client(
    endpoint: Endpoint, reach: Reach, auth: httpx2.Auth | None = None
) -> tuple[httpx2.AsyncClient, Outbound]:
    """The client of one connection, and its transport. Whoever makes it closes it.

    The host of a server of the operator's own file may be anywhere; what that server names, such as an authorization
    server, may not. It waits for answers as long as whoever asks: calls have limits of their own, and streams are
    silent for hours.
    """
    certificates = await asyncio.to_thread(_certificates)
    transport = Outbound(reach, certificates, None if endpoint.checked else httpx2.URL(endpoint.url).host)
    client = httpx2.AsyncClient(
        headers={"user-agent": "chatcore", "accept-encoding": "identity", **endpoint.headers},
        timeout=httpx2.Timeout(CONNECT, read=None),
        transport=transport,
        auth=auth,
        trust_env=False,
    )
    return client, transport
