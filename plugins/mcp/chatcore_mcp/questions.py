"""What a server asks of a person while it works on a call: the protocol's elicitation, as questions of a tool."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import mcp_types as types
from mcp.client.context import ClientRequestContext
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError

from chatcore.errors import ToolFailed
from chatcore.tools import Invocation, Question, QuestionAnswer

REASON = "chatcore/reason"
"""Where a result says in its `_meta` why nobody has answered."""

_WHOSE = "chatcore cannot tell whose call this question belongs to: ask as revision 2026-07-28 does"


class Questions:
    """The calls under way on one connection, for which its server may ask."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._calls: list[Invocation] = []

    @contextmanager
    def during(self, invocation: Invocation) -> Iterator[None]:
        """The time of a call."""
        self._calls.append(invocation)
        try:
            yield
        finally:
            self._calls[:] = [call for call in self._calls if call is not invocation]

    async def create(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult | types.ErrorData:
        """Answers `elicitation/create`, which does not say for which call it asks. Where calls of several conversations
        are under way somebody else might be asked: then nobody is."""
        if len({(call.principal_id, call.conversation_id) for call in self._calls}) != 1:
            return _result(params, QuestionAnswer(action="decline", reason=_WHOSE))
        try:
            return await self._ask(params, self._calls[-1])
        except ToolFailed as error:
            return types.ErrorData(code=types.INVALID_PARAMS, message=error.message)

    async def responses(
        self, required: types.InputRequiredResult, invocation: Invocation
    ) -> types.InputResponses | None:
        """Answers what a call wants to know before it goes on. None: it asks for something that nobody here gives.

        Raises:
            ToolFailed: it asks in a form that cannot be shown.
        """
        requests = required.input_requests or {}
        asked = {key: one.params for key, one in requests.items() if isinstance(one, types.ElicitRequest)}
        if len(asked) < len(requests):
            return None
        answers = await asyncio.gather(*(self._ask(params, invocation) for params in asked.values()))
        return dict(zip(asked, answers, strict=True))

    async def opened(self, error: MCPError, invocation: Invocation) -> bool:
        """Whether it was for pages that had to be opened first that a call was refused, and somebody has done so."""
        if error.error.code != types.URL_ELICITATION_REQUIRED or not isinstance(error.error.data, dict):
            return False
        pages = UrlElicitationRequiredError.from_error(error.error).elicitations
        answers = await asyncio.gather(*(self._ask(page, invocation) for page in pages))
        return bool(answers) and all(answer.action == "accept" for answer in answers)

    async def _ask(self, params: types.ElicitRequestParams, invocation: Invocation) -> types.ElicitResult:
        if isinstance(params, types.ElicitRequestURLParams):
            question = Question(message=params.message, url=params.url, asker=self._server)
        else:
            question = Question(message=params.message, form=params.requested_schema, asker=self._server)
        return _result(params, await invocation.ask(question))


def _result(params: types.ElicitRequestParams, answer: QuestionAnswer) -> types.ElicitResult:
    has_content = answer.action == "accept" and isinstance(params, types.ElicitRequestFormParams)
    return types.ElicitResult(
        action=answer.action,
        content=dict(answer.content) if has_content else None,
        _meta={REASON: answer.reason} if answer.reason else None,
    )
