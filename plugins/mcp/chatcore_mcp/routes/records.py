"""The bodies and answers of the routes about servers (contract §1.6, §1.17)."""

from datetime import datetime
from typing import Any, Literal

import attrs
from attrs.validators import and_, deep_iterable, ge, le, max_len

from chatcore import wire
from chatcore.access import current_principal
from chatcore.tools import JsonObject
from chatcore.types import Principal
from chatcore_mcp.choices import MOST_SERVERS
from chatcore_mcp.definitions import Definition, shown
from chatcore_mcp.discovery import MOST_PORTS
from chatcore_mcp.offers import ToolInfo
from chatcore_mcp.servers import Server, Servers


@attrs.frozen(kw_only=True)
class ToolStatus:
    """A tool of a server, by its own name and by that which models know it by."""

    name: str
    qualified_name: str
    enabled: bool


@attrs.frozen(kw_only=True)
class ToolDetails(ToolStatus):
    """A tool of a server, with what it says of itself."""

    description: str
    input_schema: JsonObject


@attrs.frozen(kw_only=True)
class SignInStatus:
    """How chatcore is signed in to a server that asks for that.

    `url` is where you are to sign in, once you have begun to; `problem` is why the last attempt has failed. Unless it
    is `shared`, the tools are for nobody but whose sign-in it is.
    """

    state: Literal["signed_in", "needed"]
    url: str | None
    is_yours: bool
    shared: bool
    problem: str | None


@attrs.frozen(kw_only=True)
class SignInBegun:
    """Where the browser is to go for a sign-in."""

    url: str


@attrs.frozen(kw_only=True)
class ServerStatus:
    """A server as it is. `url` and `http_url` are without what may be secret; a process has none.

    `error` is why it cannot be used at the moment; `tool_count` are the tools that are switched on.
    """

    id: str
    url: str
    http_url: str | None
    transport: str | None
    enabled: bool
    connected: bool
    status: str
    error: str | None
    tool_count: int
    tools: tuple[ToolStatus, ...]
    disabled_tools: tuple[str, ...]
    tool_prefix: str | None
    contexts: tuple[Any, ...]
    tool_overrides: JsonObject
    kiosk_enabled: bool
    frontend_enabled: bool
    sign_in: SignInStatus | None


@attrs.frozen(kw_only=True)
class ServerCollection:
    """All servers. `error` is why the file of the servers cannot be read, if so."""

    servers: tuple[ServerStatus, ...]
    updated_at: datetime | None
    error: str | None


@attrs.frozen(kw_only=True)
class ServerTools:
    """The tools of a server."""

    server_id: str
    tools: tuple[ToolDetails, ...]


@attrs.frozen(kw_only=True)
class ConnectRequest:
    """The URL of a server that is to be added."""

    url: str
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class DiscoverRequest:
    """Where to look for servers. Without ports, where the file says."""

    host: str = "127.0.0.1"
    ports: tuple[int, ...] = attrs.field(
        default=(), validator=[max_len(MOST_PORTS), deep_iterable(and_(ge(1), le(65535)))]
    )
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class ToolRequest:
    """A tool to switch on or off, by either of its names."""

    tool_name: str
    enabled: bool
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class ServersRequest:
    """Definitions of servers in place of all that there are."""

    servers: tuple[JsonObject, ...] = attrs.field(validator=max_len(MOST_SERVERS))
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class RemovedServer:
    """A server that was taken out."""

    server_id: str
    status: str = "removed"


def collection(servers: Servers) -> ServerCollection:
    """All servers as they are."""
    every = tuple(status(servers, server) for server in servers)
    return ServerCollection(servers=every, updated_at=servers.changed_at, error=servers.problem or None)


def status(servers: Servers, server: Server) -> ServerStatus:
    """A server as it is."""
    entry = servers.entry(server.id)
    url = _text(entry.get("url") or entry.get("http_url"))
    principal = current_principal()
    tools = tuple(_tool(servers, server, info.name) for info in _visible(server, principal))
    connected = server.state == "connected"
    return ServerStatus(
        id=server.id,
        url=shown(url),
        http_url=shown(url) or None,
        transport=_transport(server),
        enabled=server.enabled,
        connected=connected,
        status="connected" if connected else "disconnected",
        error=server.problem or None,
        tool_count=sum(tool.enabled for tool in tools),
        tools=tools,
        disabled_tools=_disabled(server),
        tool_prefix=_text(entry.get("tool_prefix")) or None,
        contexts=tuple(_of(list, entry.get("contexts"))),
        tool_overrides=_of(dict, entry.get("tool_overrides")),
        kiosk_enabled=entry.get("kiosk_enabled") is True,
        frontend_enabled=entry.get("frontend_enabled") is not False,
        sign_in=_sign_in(server, principal),
    )


def _visible(server: Server, principal: Principal) -> tuple[ToolInfo, ...]:
    """Its tools, for those whom they are for."""
    return server.offered if server.allows(principal.id) else ()


def _sign_in(server: Server, principal: Principal) -> SignInStatus | None:
    one = server.sign_in
    if one is None or one.state is None:
        return None
    return SignInStatus(
        state=one.state,
        url=one.url(principal),
        is_yours=one.is_of(principal),
        shared=one.shared,
        problem=one.problem or None,
    )


def details(servers: Servers, server: Server) -> ServerTools:
    """The tools of a server, with what they say of themselves."""
    tools = [
        ToolDetails(
            **attrs.asdict(_tool(servers, server, info.name)),
            description=info.description,
            input_schema=info.schema,
        )
        for info in _visible(server, current_principal())
    ]
    return ServerTools(server_id=server.id, tools=tuple(tools))


def _tool(servers: Servers, server: Server, name: str) -> ToolStatus:
    qualified = servers.names.get((server.id, name), name)
    return ToolStatus(name=name, qualified_name=qualified, enabled=not server.is_off(name))


def _transport(server: Server) -> str | None:
    if not isinstance(server.definition, Definition):
        return None
    return server.definition.endpoint.transport or "http"


def _disabled(server: Server) -> tuple[str, ...]:
    return tuple(sorted(server.definition.disabled_tools)) if isinstance(server.definition, Definition) else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _of(kind: type, value: object) -> Any:
    return value if isinstance(value, kind) else kind()
