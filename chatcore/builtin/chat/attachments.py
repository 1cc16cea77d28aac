"""The files of conversations over HTTP (contract §1.9)."""

from quart import Blueprint, redirect
from quart.typing import ResponseReturnValue

from chatcore.access import authenticated, current_principal
from chatcore.openapi import describe
from chatcore.state import current

blueprint = Blueprint("uploads", __name__, url_prefix="/api/uploads")


@blueprint.get("/<attachment_id>/content")
@describe(summary="A file of a conversation", status=302, errors=(404,))
@authenticated
async def read_content(attachment_id: str) -> ResponseReturnValue:
    """Leads to the file by a link that a browser can follow without signing in, until it expires."""
    return redirect(await current().attachments.link(current_principal(), attachment_id))
