"""The routes of approvals and questions: what waits for its user, and the decisions and answers."""

from quart import Blueprint
from quart.typing import ResponseReturnValue

from chatcore.access import authenticated, current_principal
from chatcore.builtin.chat.records import approval_record, question_record
from chatcore.builtin.chat.requests import AnswerRequest, DecisionRequest
from chatcore.database import Approvals, Questions
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.runs.questions import give_answer
from chatcore.state import current
from chatcore.tools import QuestionAnswer

blueprint = Blueprint("approvals", __name__, url_prefix="/api/chat")


@blueprint.get("/approvals")
@describe(summary="The tool calls that wait for your consent")
@authenticated
async def list_approvals() -> ResponseReturnValue:
    """The oldest first. One that was decided, or has expired, is not among them."""
    waiting = await Approvals(current().database).open(current_principal())
    return {"approvals": [approval_record(one) for one in waiting]}


@blueprint.post("/runs/<run_id>/approvals/<path:call_id>")
@describe(summary="Decide a tool call that waits", body=DecisionRequest, errors=(404, 409))
@authenticated
async def decide(run_id: str, call_id: str) -> ResponseReturnValue:
    """Once and for all. The `digest` stands for the call as it was shown: tool, arguments, until when.

    With another digest, for a call that was decided or has expired, or whose run has ended, the answer is 409.
    """
    body = await read_body(DecisionRequest)
    table = Approvals(current().database)
    decided = await table.decide(current_principal(), run_id, call_id, body.digest, body.decision)
    return approval_record(decided)


@blueprint.get("/questions")
@describe(summary="The questions of running tools that wait for your answer")
@authenticated
async def list_questions() -> ResponseReturnValue:
    """The oldest first. One that was answered, has expired, or whose call has ended is not among them."""
    waiting = await Questions(current().database).open(current_principal())
    return {"questions": [question_record(one) for one in waiting]}


@blueprint.post("/runs/<run_id>/questions/<question_id>")
@describe(summary="Answer a question of a running tool", body=AnswerRequest, errors=(404, 409))
@authenticated
async def answer(run_id: str, question_id: str) -> ResponseReturnValue:
    """Once and for all: `accept` with the `content` that the question's form asks for, `decline`, or `cancel`.

    What is left out of the content and has a default is filled in; content that is not what the form asks for is a
    422, and the question goes on waiting. With another digest, for a question that was answered, has expired, or whose
    call has ended, the answer is 409.
    """
    body = await read_body(AnswerRequest)
    given = QuestionAnswer(action=body.action, content=body.content)
    table = Questions(current().database)
    answered = await give_answer(table, current_principal(), run_id, question_id, body.digest, given)
    return question_record(answered)
