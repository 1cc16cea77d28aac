"""The route `/mcp`: the protocol over HTTP, for whoever may sign in to the server.

What speaks the protocol is imported at the first request, not before.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any, cast

from quart import Blueprint, Response, request

from chatcore.access import authenticated, current_principal
from chatcore.openapi import describe
from chatcore.requests import admitted
from chatcore_mcp.server.exchange import Exchange

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from chatcore_mcp.server.transport import Transport

_READABLE = "Mcp-Session-Id"  # for pages: other headers of an answer are not shown to them


class Endpoint:
    """The endpoint of one app. `make` gives what speaks the protocol; it is called at the first request, in a thread.

    `sessions`: clients of the revisions before 2026-07-28 get a session, which lives in this process.
    """

    def __init__(self, make: "Callable[[], Server[Any]]", *, sessions: bool = True) -> None:
        self._make = make
        self._sessions = sessions
        self._opening: asyncio.Task[Transport] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def blueprint(self) -> Blueprint:
        """The route."""
        routes = Blueprint("mcp_server", __name__)

        @routes.route("/mcp", methods=["GET", "POST", "DELETE"])
        @describe(summary="The Model Context Protocol", stream=True, errors=(400, 403, 404, 405, 406, 413, 503))
        @authenticated
        async def protocol() -> Response:
            """Streamable HTTP, in all revisions from 2024-11-05 to 2026-07-28. What is done is done for the caller."""
            if request.method != "DELETE":  # which makes room
                _take_place()
            transport = await self._opened()
            body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
            scope = transport.signed(cast("Mapping[str, Any]", request.scope), current_principal())
            response = await Exchange(scope, body).run(transport.answer)
            response.headers["Access-Control-Expose-Headers"] = _READABLE
            return response

        return routes

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """The time in which the endpoint can be used. At its end the sessions of its clients end."""
        try:
            yield
        finally:
            self._closing.set()
            if self._opening is not None:
                await asyncio.wait([self._opening])
            if self._serving is not None:
                await self._serving

    def _opened(self) -> "Awaitable[Transport]":
        if self._opening is None:
            # Not of this request, which may be over before it is done.
            self._opening = asyncio.create_task(self._open(), context=Context())
        return asyncio.shield(self._opening)

    async def _open(self) -> "Transport":
        transport = await asyncio.to_thread(self._make_transport)
        started = asyncio.Event()
        self._serving = asyncio.create_task(transport.run(started, self._closing))
        await started.wait()
        return transport

    def _make_transport(self) -> "Transport":
        from chatcore_mcp.server.transport import Transport  # noqa: PLC0415  half a second, see above

        return Transport(self._make(), sessions=self._sessions)


def _take_place() -> None:
    """Counts the request among the answers of which there are `max_streams`, until its own task ends.

    Raises:
        Overloaded: the server is full, or about to stop.
    """
    place = ExitStack()
    place.enter_context(admitted())
    answering = asyncio.current_task()
    assert answering is not None  # noqa: S101  coroutines run in tasks
    answering.add_done_callback(lambda _: place.close())
