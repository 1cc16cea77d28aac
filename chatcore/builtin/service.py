"""The server about itself: its health, and what stands at its root."""

import base64
from collections.abc import Iterable
from importlib.metadata import version

from quart import Blueprint, Response, g
from quart.typing import ResponseReturnValue

from chatcore import state
from chatcore.access import authenticated, public
from chatcore.builtin.chat.settings import stored_settings
from chatcore.errors import ChatcoreError
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openapi import describe
from chatcore.types import Principal

_TRANSPARENT_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


class Service(Plugin[NoSettings]):
    """Says how the server is, and what it consists of."""

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        routes = Blueprint("service", __name__)
        routes.add_url_rule("/", view_func=root)
        routes.add_url_rule("/health", view_func=health)
        routes.add_url_rule("/favicon.ico", view_func=favicon)
        routes.add_url_rule("/api/plugins", view_func=plugins)
        yield routes


@describe(summary="What this server is")
@public
async def root() -> ResponseReturnValue:
    return {
        "status": "online",
        "service": "chatcore",
        "version": version("chatcore"),
        "docs": "/docs",
        "health": "/health",
    }


@describe(summary="Whether the server answers, and with which models")
@public
async def health() -> ResponseReturnValue:
    """`status` is `ok` when requests are served. `providers` tells of each whether it can be used now."""
    server = state.current()
    states = {name: provider.health() for name, provider in server.registry.providers.items()}
    default = _default_model(server)
    return {
        "status": "ok",
        "default_model": default,
        "active_model": await _svelte_model(server) or default,
        "providers": {name: {"state": known.state, "detail": known.detail} for name, known in states.items()},
    }


async def _svelte_model(server: state.State) -> str | None:
    """The model that the caller has set for the web page, if the caller is known."""
    principal: Principal | None = g.get("principal")
    return None if principal is None else (await stored_settings(server, principal, "svelte")).model


def _default_model(server: state.State) -> str | None:
    try:
        return server.default_model()[1]
    except ChatcoreError:
        return None  # no provider is configured: `providers` says so


@describe(summary="The plugins and their states")
@authenticated
async def plugins() -> ResponseReturnValue:
    return {"plugins": state.current().plugins.table()}


@describe(summary="A transparent icon")
@public
async def favicon() -> Response:
    return Response(_TRANSPARENT_PIXEL, mimetype="image/png", headers={"Cache-Control": "max-age=86400"})
