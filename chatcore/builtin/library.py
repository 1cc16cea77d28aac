"""What clients keep on the server: their settings (contract §1.4)."""

from collections.abc import Iterable
from typing import Any

from quart import Blueprint, Response

from chatcore import wire
from chatcore.access import authenticated, current_principal
from chatcore.builtin.chat.settings import (
    LlmSettings,
    change_settings,
    client_named,
    reset_settings,
    stored_settings,
)
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.state import current


class Library(Plugin[NoSettings]):
    """Keeps the settings of each client: its model, its prompt, its parameters."""

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        routes = Blueprint("library", __name__, url_prefix="/api/clients/<client_id>")
        routes.add_url_rule("/llm", view_func=read_llm, methods=["GET"])
        routes.add_url_rule("/llm", view_func=change_llm, methods=["PUT"])
        routes.add_url_rule("/llm/reset", view_func=reset_llm, methods=["POST"])
        yield routes


@describe(summary="How a client wants its model", answer=LlmSettings, errors=(404,))
@authenticated
async def read_llm(client_id: str) -> Response:
    """The clients are svelte, kiosk, voice and cli."""
    return _json(await stored_settings(current(), current_principal(), client_named(client_id)))


@describe(summary="Change how a client wants its model", body=dict[str, Any], answer=LlmSettings, errors=(404,))
@authenticated
async def change_llm(client_id: str) -> Response:
    """Takes any of the fields. What is absent stays, null goes back to the default, unknown fields are ignored."""
    client = client_named(client_id)
    return _json(await change_settings(current(), current_principal(), client, await read_body(dict[str, Any])))


@describe(summary="Set a client's settings back to the defaults", answer=LlmSettings, errors=(404,))
@authenticated
async def reset_llm(client_id: str) -> Response:
    """The clients are svelte, kiosk, voice and cli."""
    return _json(await reset_settings(current(), current_principal(), client_named(client_id)))


def _json(settings: LlmSettings) -> Response:
    return Response(wire.dumps(settings), mimetype="application/json")
