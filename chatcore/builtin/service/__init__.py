"""The server about itself: its health, and what stands at its root."""

import asyncio
import base64
from collections.abc import Iterable
from importlib.metadata import version

from quart import Blueprint, Response
from quart.typing import ResponseReturnValue

from chatcore import state
from chatcore.access import public, requires
from chatcore.builtin.service.readiness import Readiness, health
from chatcore.config import Config
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openapi import describe
from chatcore.operation import published
from chatcore.operation.published import Published

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
        routes.add_url_rule("/health/ready", view_func=Readiness().ready)
        routes.add_url_rule("/metrics", view_func=metrics)
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


@describe(summary="The numbers of the server, for Prometheus")
@requires("metrics")
async def metrics() -> Response:
    """Of all its workers, in Prometheus' text format. The label `worker` has the number of the worker."""
    server = state.current()
    page, content_type = await asyncio.to_thread(_page, server.config, server.runs.worker, published.own(server))
    return Response(page, content_type=content_type)


def _page(config: Config, worker: str, own: Published) -> tuple[bytes, str]:
    from chatcore.builtin.service import exposition  # noqa: PLC0415  0.1 s, which no start should pay

    others = published.by_others(config.data / "workers", worker) if config.workers > 1 else ()
    return exposition.text([*others, own]), exposition.CONTENT_TYPE


@describe(summary="The plugins and their states")
@requires("operator")
async def plugins() -> ResponseReturnValue:
    return {"plugins": state.current().plugins.table()}


@describe(summary="A transparent icon")
@public
async def favicon() -> Response:
    return Response(_TRANSPARENT_PIXEL, mimetype="image/png", headers={"Cache-Control": "max-age=86400"})
