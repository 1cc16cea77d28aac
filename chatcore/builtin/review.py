"""For the operator: the tools whose definition has changed since they were first used."""

from collections.abc import Iterable
from typing import Any

import attrs
from quart import Blueprint
from quart.typing import ResponseReturnValue

from chatcore.access import requires
from chatcore.database import Pin
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.state import current


class Review(Plugin[NoSettings]):
    """Shows the operator the tools that have changed, and takes the word that a change is well."""

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        routes = Blueprint("review", __name__, url_prefix="/api/tools/review")
        routes.add_url_rule("", view_func=list_changed, methods=["GET"])
        routes.add_url_rule("", view_func=accept, methods=["POST"])
        yield routes


@attrs.frozen(kw_only=True)
class AcceptRequest:
    """The tool whose new definition is accepted. `fingerprint` is that of the definition that was looked at."""

    source: str
    name: str
    fingerprint: str


@describe(summary="The tools that are suspended because they have changed")
@requires("operator")
async def list_changed() -> ResponseReturnValue:
    """With the definition that is trusted, and the one that the tool has now."""
    pins = await current().plugins.trust.pins.all()
    return {"tools": [_record(pin) for pin in pins if pin.changed is not None]}


@describe(summary="Accept the new definition of a tool", body=AcceptRequest, errors=(404, 409))
@requires("operator")
async def accept() -> ResponseReturnValue:
    """It is offered again within seconds. If it has changed once more since it was looked at, the answer is 409."""
    body = await read_body(AcceptRequest)
    return _record(await current().plugins.trust.pins.accept(body.source, body.name, body.fingerprint))


def _record(pin: Pin) -> dict[str, Any]:
    record = {"source": pin.source, "name": pin.name, "trusted": dict(pin.definition)}
    if pin.changed is None:
        return record
    return {**record, "changed": dict(pin.changed), "fingerprint": pin.changed_fingerprint}
