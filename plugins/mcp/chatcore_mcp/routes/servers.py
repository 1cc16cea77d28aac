"""The routes about servers (contract §1.6, §1.17). Who changes what is there for everybody needs the scope `mcp`."""

from collections.abc import Callable
from typing import Any

from quart import Blueprint, Response, request

from chatcore.access import authenticated, requires
from chatcore.errors import NotFound, Problem, ValidationFailed
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.tools import JsonObject
from chatcore_mcp import edits
from chatcore_mcp.definitions import Unusable, check_id, definition_of, entry_of, written
from chatcore_mcp.discovery import Discovery
from chatcore_mcp.file import remove, set_fields
from chatcore_mcp.routes import as_json, records
from chatcore_mcp.servers import Server, Servers

SCOPE = "mcp"
PATIENCE = 5.0
"""Seconds that an answer waits for the servers that it is about to be connected."""


def blueprint(servers: Servers, discovery: Discovery) -> Blueprint:
    """The routes under `/api/mcp/servers`."""
    routes = informed(Blueprint("mcp_servers", __name__, url_prefix="/api/mcp/servers"), servers)
    _reading(routes, servers)
    _looking(routes, servers, discovery)
    _changing(routes, servers)
    return routes


def informed(routes: Blueprint, servers: Servers) -> Blueprint:
    """Routes that know what another worker has just changed."""

    @routes.before_request
    async def keep_up() -> None:
        if await servers.keep_up():
            await servers.settled([server for server in servers if server.state == "connecting"], PATIENCE)

    return routes


def _reading(routes: Blueprint, servers: Servers) -> None:
    @routes.get("/")
    @describe(summary="All MCP servers", answer=records.ServerCollection)
    @authenticated
    async def list_servers() -> Response:
        """What is there and what of it can be used, with the tools."""
        return as_json(records.collection(servers))

    @routes.get("/<server_id>/tools")
    @describe(summary="The tools of a server", answer=records.ServerTools, errors=(404,))
    @authenticated
    async def list_tools(server_id: str) -> Response:
        """With what they say of themselves."""
        return as_json(records.details(servers, servers.named(server_id)))


def _looking(routes: Blueprint, servers: Servers, discovery: Discovery) -> None:
    @routes.post("/connect")
    @describe(
        summary="Add a server",
        body=records.ConnectRequest,
        answer=records.ServerStatus,
        errors=(403, 409, 502),
    )
    @requires(SCOPE)
    async def connect() -> Response:
        """It is named as it names itself. One that is there already is connected again."""
        asked = await read_body(records.ConnectRequest)
        return as_json(records.status(servers, await discovery.connect(asked.url)))

    @routes.post("/discover")
    @describe(
        summary="Look for servers", body=records.DiscoverRequest, answer=records.ServerCollection, errors=(403, 409)
    )
    @requires(SCOPE)
    async def discover() -> Response:
        """At the ports of a host, under `/mcp`; what is found is added. Without ports this is a refresh."""
        asked = await read_body(records.DiscoverRequest) if await request.get_data() else records.DiscoverRequest()
        if asked.ports:
            found = await discovery.scan(asked.host, asked.ports)
            await servers.settled(found, PATIENCE)
        else:
            await _refresh(servers, discovery)
        return as_json(records.collection(servers))

    @routes.post("/refresh")
    @describe(summary="Read the servers' file again", answer=records.ServerCollection)
    @requires(SCOPE)
    async def refresh() -> Response:
        """Connects what is not connected, looks for servers where the file says, and asks all for their tools."""
        await _refresh(servers, discovery)
        return as_json(records.collection(servers))


def _changing(routes: Blueprint, servers: Servers) -> None:
    @routes.put("/")
    @describe(
        summary="Replace all servers", body=records.ServersRequest, answer=records.ServerCollection, errors=(403, 409)
    )
    @requires(SCOPE)
    async def replace_servers() -> Response:
        """Those that are not among the definitions are taken out. What the file says of a command stays as it is."""
        asked = await read_body(records.ServersRequest)
        await _take_out(servers, lambda document: _replace(servers, document, asked.servers))
        return as_json(records.collection(servers))

    @routes.patch("/<server_id>")
    @describe(summary="Change a server", body=dict[str, Any], answer=records.ServerCollection, errors=(403, 404, 409))
    @requires(SCOPE)
    async def change_server(server_id: str) -> Response:
        """Takes any of the fields of a definition: `enabled`, `disabled_tools`, `tool_prefix` …"""
        given = await read_body(dict[str, Any])
        server = servers.named(server_id)

        def change(document: Any) -> None:
            _there(document, server_id)
            _change(servers, document, server_id, given)

        await servers.change(change)
        await servers.settled([server], PATIENCE)
        return as_json(records.collection(servers))

    @routes.delete("/<server_id>")
    @describe(summary="Take a server out", answer=records.RemovedServer, errors=(404, 409))
    @requires(SCOPE)
    async def remove_server(server_id: str) -> Response:
        """Also of the file."""
        servers.named(server_id)
        await _take_out(servers, lambda document: remove(document, {server_id}))
        return as_json(records.RemovedServer(server_id=server_id))

    @routes.post("/<server_id>/tools")
    @describe(
        summary="Switch a tool on or off", body=records.ToolRequest, answer=records.ServerCollection, errors=(404, 409)
    )
    @requires(SCOPE)
    async def switch_tool(server_id: str) -> Response:
        """For everybody. A tool that is not there (yet) can be switched off as well."""
        asked = await read_body(records.ToolRequest)
        server = servers.named(server_id)
        tool = _own_name(servers, server, asked.tool_name)
        await servers.change(lambda document: _switch(document, server_id, tool, enabled=asked.enabled))
        return as_json(records.collection(servers))


async def _take_out(servers: Servers, change: Callable[[Any], None]) -> None:
    """Changes the file, and signs out of the servers that are not there any more."""
    before = list(servers)
    await servers.change(change)
    for server in before:
        if servers.get(server.id) is None and server.sign_in is not None:
            await server.sign_in.end()


async def _refresh(servers: Servers, discovery: Discovery) -> None:
    await servers.reload()
    for server in servers:
        server.retry()
    await discovery.scan_known()
    await servers.settled(servers, PATIENCE)


# --- changes of the file ----------------------------------------------------------------------------------------------


def _change(servers: Servers, document: Any, key: str, given: JsonObject) -> None:
    """Changes one entry of the document, or makes it."""
    stored = entry_of(document, key)
    fields = edits.changes(stored, given)
    _check(servers, key, {**(stored or {}), **fields})
    set_fields(document, key, fields)


def _replace(servers: Servers, document: Any, definitions: tuple[JsonObject, ...]) -> None:
    """Leaves these servers in the document, and no others."""
    wanted = []
    for number, definition in enumerate(definitions):
        key = definition.get("id")
        if not isinstance(key, str) or key in wanted:
            raise ValidationFailed([Problem(f"$.servers[{number}].id", "is missing, or another server's")])
        wanted.append(key)
        _change(servers, document, key, definition)
    remove(document, {known for known, _ in written(document)} - set(wanted))


def _switch(document: Any, key: str, tool: str, *, enabled: bool) -> None:
    """Switches a tool of an entry on or off."""
    entry = _there(document, key)
    entry["disabled_tools"] = edits.with_tool(entry, tool, enabled=enabled)


def _there(document: Any, key: str) -> dict[str, Any]:
    """An entry. Raises NotFound: somebody has just taken it out."""
    entry = entry_of(document, key)
    if entry is None:
        raise NotFound(f"there is no entry {key!r} in the file of the servers")
    return entry


def _check(servers: Servers, key: str, entry: JsonObject) -> None:
    """Raises ValidationFailed: the entry could not be used. One that could not be used before may stay as it is."""
    try:
        check_id(key)
    except ValueError as error:
        raise ValidationFailed([Problem("$.id", str(error))]) from error
    known = servers.get(key)
    if known is not None and isinstance(known.definition, Unusable):
        return
    defined = definition_of(key, entry, environ=servers.options.environ, directory=servers.directory)
    if isinstance(defined, Unusable):
        raise ValidationFailed([Problem("$", defined.reason)])


def _own_name(servers: Servers, server: Server, name: str) -> str:
    """The tool's own name, by whichever of its names."""
    own = {servers.names.get((server.id, info.name)): info.name for info in server.offered}
    return name if name in own.values() else own.get(name, name)
