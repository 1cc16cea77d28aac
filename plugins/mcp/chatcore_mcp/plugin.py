"""The plugin: what it contributes."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
from quart import Blueprint

from chatcore.database import Documents
from chatcore.hooks import Plugin, hookimpl
from chatcore.protocols import Lifespan, ToolSource
from chatcore.types import Turn
from chatcore_mcp.browsing import led
from chatcore_mcp.choices import Choices
from chatcore_mcp.discovery import Discovery
from chatcore_mcp.ports import PORTS_FILE, Ports
from chatcore_mcp.routes import choices, servers, sign_in
from chatcore_mcp.server.command import command
from chatcore_mcp.server.endpoint import Endpoint
from chatcore_mcp.servers import Options, Servers
from chatcore_mcp.settings import Settings

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

SERVERS_FILE = "mcp_servers.json"


class Mcp(Plugin[Settings]):
    """The tools of MCP servers, and chatcore as one."""

    settings_class = Settings

    @cached_property
    def servers(self) -> Servers:
        context, settings = self.context, self.settings
        options = Options(
            reach=settings.reach,
            timeout=settings.connect_timeout,
            prefix=settings.prefix,
            environ=context.environ,
            log=context.log,
            accounts=context.host.accounts,
        )
        return Servers(settings.servers or self._data / SERVERS_FILE, options)

    @property
    def _data(self) -> Path:
        """The directory of all that chatcore keeps."""
        return self.context.directory.parents[1]

    @cached_property
    def discovery(self) -> Discovery:
        settings, log = self.settings, self.context.log
        ports = Ports(self._data / PORTS_FILE, log, settings.port_start, settings.port_end)
        return Discovery(self.servers, ports)

    @cached_property
    def choices(self) -> Choices:
        return Choices(Documents(self.context.database))

    @cached_property
    def endpoint(self) -> Endpoint:
        # A session is in the memory of one worker, and the next request may come to another.
        return Endpoint(self.make_server, sessions=self.settings.sessions and self.context.host.workers == 1)

    def make_server(self) -> "Server[Any]":
        """What is served at `/mcp`."""
        from chatcore_mcp.server.protocol import make_server  # noqa: PLC0415  slow to import, and rarely needed
        from chatcore_mcp.server.toolset import Toolset  # noqa: PLC0415  as above

        return make_server(Toolset(self.context.host, share=self.settings.share_tools, allows=self.servers.allows))

    @hookimpl
    def register_tools(self) -> Iterable[ToolSource]:
        yield self.servers

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        yield servers.blueprint(self.servers, self.discovery)
        yield sign_in.blueprint(self.servers)
        yield choices.preferences(self.choices)
        yield choices.profiles(self.choices)
        yield self.endpoint.blueprint()

    @hookimpl
    def register_lifespans(self) -> Iterable[Lifespan]:
        yield Lifespan("servers", self.servers.session)
        yield Lifespan("discovery", self.discovery.session)
        yield Lifespan("endpoint", self.endpoint.session)

    @hookimpl
    async def prepare_turn(self, turn: Turn) -> Turn | None:
        """Leaves the tools of those servers that the turn's profile, or its client, is to have."""
        identities = {name: self.servers.identify(tool) for name, tool in turn.tools.items()}
        if not any(identities.values()):
            self.servers.reconnect()
            return None
        scope = await self.choices.scope(turn)
        open_to = {server.id for server in self.servers if server.allows(turn.principal.id)}
        given = {
            name: turn.tools[name]
            for name, one in identities.items()
            if one is None or (one[0] in open_to and scope.allows(*one))
        }
        return attrs.evolve(turn, tools=led(given, {name: one[1] for name, one in identities.items() if one}))

    @hookimpl
    def register_commands(self) -> Iterable[click.Command]:
        yield command
