"""The routes of approvals: the tool calls that wait for their user's consent, and the decisions."""

from quart import Blueprint
from quart.typing import ResponseReturnValue

from chatcore.access import authenticated, current_principal
from chatcore.builtin.chat.records import approval_record
from chatcore.builtin.chat.requests import DecisionRequest
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.state import current

blueprint = Blueprint("approvals", __name__, url_prefix="/api/chat")


@blueprint.get("/approvals")
@describe(summary="The tool calls that wait for your consent")
@authenticated
async def list_approvals() -> ResponseReturnValue:
    """The oldest first. One that was decided, or has expired, is not among them."""
    waiting = await current().runs.approvals(current_principal())
    return {"approvals": [approval_record(one) for one in waiting]}


@blueprint.post("/runs/<run_id>/approvals/<path:call_id>")
@describe(summary="Decide a tool call that waits", body=DecisionRequest, errors=(404, 409))
@authenticated
async def decide(run_id: str, call_id: str) -> ResponseReturnValue:
    """Once and for all. The `digest` stands for the call as it was shown: tool, arguments, until when.

    With another digest, for a call that was decided or has expired, or whose run has ended, the answer is 409.
    """
    body = await read_body(DecisionRequest)
    decided = await current().runs.decide(current_principal(), run_id, call_id, body.digest, body.decision)
    return dict(approval_record(decided))
