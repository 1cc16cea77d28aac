"""The protocol's HTTP transport: what of it is the library's, and what is ours to say."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from chatcore.types import Principal

PRINCIPAL = "chatcore_mcp.principal"
"""Where in the scope of a request it says who is asking."""


class Transport:
    """The sessions of one server, and the requests that need none."""

    def __init__(self, server: Server[Any], *, sessions: bool) -> None:
        # Host and Origin have been looked at when a request comes here, and so has the size of its body.
        self._manager = StreamableHTTPSessionManager(server, stateless=not sessions, max_request_body_size=sys.maxsize)
        self.answer = self._manager.handle_request

    async def run(self, started: asyncio.Event, closing: asyncio.Event) -> None:
        """Lets requests be answered until `closing` is set."""
        async with self._manager.run():
            started.set()
            await closing.wait()

    def signed(self, scope: Mapping[str, Any], principal: Principal) -> Mapping[str, Any]:
        """The scope of a request, with who is asking. Only who has opened a session may use it."""
        owner = AccessToken(token="", client_id=principal.id, scopes=sorted(principal.scopes))
        return {**scope, PRINCIPAL: principal, "user": AuthenticatedUser(owner)}
