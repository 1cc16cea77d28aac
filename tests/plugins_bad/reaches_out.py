"""A blueprint that wants to see every request."""

from quart import Blueprint

from chatcore.hooks import NoSettings, Plugin, hookimpl

blueprint = Blueprint("reaches_out", __name__)


@blueprint.before_app_request
async def watch():
    """Would run for everybody's requests, and could not be taken back."""


class ReachesOut(Plugin[NoSettings]):
    """Reaches into requests that are not its own."""

    @hookimpl
    def register_routes(self):
        yield blueprint
