"""The plugin: what it contributes."""

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import attrs
import click
from quart import Blueprint

from chatcore.database import Documents
from chatcore.hooks import Plugin, hookimpl
from chatcore.protocols import Lifespan, ToolSource
from chatcore.types import Turn
from chatcore_mcp.choices import Choices
from chatcore_mcp.discovery import Discovery
from chatcore_mcp.routes import choices, servers
from chatcore_mcp.server.command import command
from chatcore_mcp.server.endpoint import Endpoint
from chatcore_mcp.server.toolset import Toolset
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
        )
        return Servers(settings.servers or context.directory.parents[1] / SERVERS_FILE, options)

    @cached_property
    def discovery(self) -> Discovery:
        return Discovery(self.servers, self.settings.ports)

    @cached_property
    def choices(self) -> Choices:
        return Choices(Documents(self.context.database))

    @cached_property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.make_server, sessions=self.settings.sessions)

    def make_server(self) -> "Server[Any]":
        """What is served at `/mcp`."""
        from chatcore_mcp.server.protocol import make_server  # noqa: PLC0415  slow to import, and rarely needed

        return make_server(Toolset(self.context.host, share=self.settings.share_tools))

    @hookimpl
    def register_tools(self) -> Iterable[ToolSource]:
        yield self.servers

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        yield servers.blueprint(self.servers, self.discovery)
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
            return None
        scope = await self.choices.scope(turn)
        given = {name: turn.tools[name] for name, one in identities.items() if one is None or scope.allows(*one)}
        return attrs.evolve(turn, tools=given)

    @hookimpl
    def register_commands(self) -> Iterable[click.Command]:
        yield command
