"""The routes by which users sign in to servers, and out."""

import asyncio
from importlib import import_module
from typing import Any

from quart import Blueprint, Response, request

from chatcore.access import Policy, authenticated, current_principal, public
from chatcore.accounts import CALL_BACK
from chatcore.errors import Conflict, Forbidden, NotFound
from chatcore.openapi import describe
from chatcore_mcp.routes import as_json, records
from chatcore_mcp.routes.servers import SCOPE, informed
from chatcore_mcp.servers import Servers
from chatcore_mcp.sign_in import SignIn

PATIENCE = 30.0
"""Seconds in which it must be known where somebody is to sign in."""


def blueprint(servers: Servers) -> Blueprint:
    """The routes `/api/mcp/servers/{id}/sign-in`, and what authorization servers are told of chatcore."""
    routes = informed(Blueprint("mcp_sign_in", __name__, url_prefix="/api/mcp"), servers)

    @routes.post("/servers/<server_id>/sign-in")
    @describe(summary="Sign in to a server", answer=records.SignInBegun, errors=(400, 403, 404, 409, 502))
    @authenticated
    async def sign_in(server_id: str) -> Response:
        """Gives the URL to open. When the browser has come back from there, the server is connected, and its tools are
        yours alone. For a server that is `shared` this needs the scope `mcp`."""
        one = _sign_in(servers, server_id)
        if one.shared:
            _check_scope()
        return as_json(records.SignInBegun(url=await one.begin(current_principal(), PATIENCE)))

    @routes.delete("/servers/<server_id>/sign-in")
    @describe(summary="Sign out of a server", answer=records.ServerStatus, errors=(403, 404, 409))
    @authenticated
    async def sign_out(server_id: str) -> Response:
        """What the server has given is revoked there, if it can be, and forgotten here. For a sign-in that is shared,
        or somebody else's, this needs the scope `mcp`."""
        one = _sign_in(servers, server_id)
        if one.shared or not one.is_of(current_principal()):
            _check_scope()
        if not await one.end():
            raise NotFound(f"nobody is signed in to {server_id}")
        return as_json(records.status(servers, servers.named(server_id)))

    @routes.get("/client.json")
    @describe(summary="What authorization servers are told of chatcore", answer=dict[str, Any], errors=(404, 409))
    @public
    async def describe_client() -> Response:
        """For those that know a client by the URL of such a document: it is the `client_id` in a server's `oauth`."""
        accounts = servers.options.accounts
        if accounts is None:
            raise NotFound("nobody signs in here")
        oauth = await asyncio.to_thread(import_module, "chatcore_mcp.oauth")
        client_id = accounts.redirect_uri.removesuffix(CALL_BACK) + request.path
        return as_json(oauth.published_client(client_id, accounts.redirect_uri))

    return routes


def _sign_in(servers: Servers, key: str) -> SignIn:
    one = servers.named(key).sign_in
    if one is None:
        raise Conflict(f"{key} is no server to sign in to: it is a process, has a token in its headers, or is off")
    return one


def _check_scope() -> None:
    """Raises Forbidden: who is asking may not decide for others."""
    if Policy("authenticated", frozenset({SCOPE})).missing(current_principal()):
        raise Forbidden(f"this needs the scope {SCOPE!r}")
