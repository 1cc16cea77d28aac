"""A route that says nothing about who may call it."""

from quart import Blueprint

from chatcore.access import public
from chatcore.hooks import NoSettings, Plugin, hookimpl

blueprint = Blueprint("open_route", __name__)


@blueprint.get("/closed")
@public
async def closed():
    """Says it."""
    return ""


@blueprint.get("/open")
async def unprotected():
    """Does not."""
    return ""


class OpenRoute(Plugin[NoSettings]):
    """Leaves a door open."""

    @hookimpl
    def register_routes(self):
        yield blueprint
