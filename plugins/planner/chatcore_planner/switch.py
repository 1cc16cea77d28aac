"""Whether turns are planned: as their principal has switched it, else as the configuration says."""

import attrs
from quart import Blueprint, Response

from chatcore import wire
from chatcore.access import authenticated, current_principal
from chatcore.database import RecentDocuments
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.tools import JsonObject
from chatcore.types import Principal

_PLACE = ("planner", "switch")
"""Namespace and key of the document, `{"on": true or false}`."""


@attrs.frozen
class Switch:
    """The switch of each principal."""

    documents: RecentDocuments
    default: bool

    async def is_on(self, principal: Principal) -> bool:
        """Whether the turns of a principal are planned."""
        document = await self.documents.get(principal, *_PLACE) or {}
        return bool(document.get("on", self.default))

    async def set(self, principal: Principal, on: bool | None) -> None:
        """Switches it; None: back to what the configuration says."""
        if on is None:
            await self.documents.delete(principal, *_PLACE)
        else:
            await self.documents.update(principal, *_PLACE, lambda _: {"on": on})


@attrs.frozen(kw_only=True)
class SwitchState:
    """Whether one's turns are planned."""

    llm_planner_enabled: bool


@attrs.frozen(kw_only=True)
class SwitchRequest:
    """Whether one's turns are to be planned. Null: as the configuration says."""

    llm_planner_enabled: bool | None
    extra: JsonObject = wire.rest()


def blueprint(switch: Switch) -> Blueprint:
    """The route `/api/settings/planner`."""
    routes = Blueprint("planner", __name__, url_prefix="/api/settings")

    @routes.get("/planner")
    @describe(summary="Whether one's turns are planned", answer=SwitchState)
    @authenticated
    async def read_switch() -> Response:
        """As one has switched it, else as the configuration says."""
        return await _state(switch)

    @routes.put("/planner")
    @describe(summary="Switch planning on or off", body=SwitchRequest, answer=SwitchState)
    @authenticated
    async def set_switch() -> Response:
        """For one's own turns, whatever the client. Null goes back to what the configuration says."""
        asked = await read_body(SwitchRequest)
        await switch.set(current_principal(), asked.llm_planner_enabled)
        return await _state(switch)

    return routes


async def _state(switch: Switch) -> Response:
    state = SwitchState(llm_planner_enabled=await switch.is_on(current_principal()))
    return Response(wire.dumps(state), mimetype="application/json")
