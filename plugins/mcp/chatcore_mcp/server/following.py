"""What a client is told, and asked, while a tool of ours works for it."""

import asyncio
import uuid
from typing import Any

import attrs
from mcp.server.context import ServerRequestContext

from chatcore import forms
from chatcore.errors import RequestError, ToolFailed
from chatcore.tools import Question, QuestionAnswer

_NOBODY = QuestionAnswer(action="decline", reason="the client that has called this tool cannot show questions")


@attrs.define
class Following:
    """The client of one call. `patience` is for how many seconds a question waits for its answer.

    Of the progress that is told faster than it can be sent the client gets the latest.
    """

    context: ServerRequestContext[Any, Any]
    patience: float
    _latest: tuple[float, float | None, str] | None = None
    _done: float = -1.0
    _some: asyncio.Event = attrs.field(factory=asyncio.Event)

    def progress(self, message: str, done: float | None = None, of: float | None = None) -> None:
        """Notes how far the call is. Where that is no number, or no more than before, the reports are counted."""
        if done is None or done <= self._done:
            done, of = self._done + 1, None
        self._done = done
        self._latest = done, of, message
        self._some.set()

    async def follow(self) -> None:
        """Tells the client of the progress, until cancelled."""
        while True:
            await self._some.wait()
            await self.tell()

    async def tell(self) -> None:
        """Tells the client what it does not know yet, if it wants to know such things."""
        self._some.clear()
        latest, self._latest = self._latest, None
        if latest is not None:
            await self.context.session.report_progress(*latest)

    async def ask(self, question: Question) -> QuestionAnswer:
        """Asks the client's user, where the client can.

        A client of revision 2026-07-28 would have to call the tool again, which would do anew what it has done.

        Raises:
            ToolFailed: the question, or the answer, is of a form that the protocol does not have.
        """
        capabilities = self.context.session.client_capabilities
        can = capabilities.elicitation if capabilities else None
        if can is None or (question.url is not None and can.url is None) or not self.context.session.can_send_request:
            return _NOBODY
        try:
            async with asyncio.timeout(self.patience):
                return await self._ask(question)
        except TimeoutError:
            return QuestionAnswer(action="cancel", reason="nobody has answered in time")
        except RequestError as error:
            raise ToolFailed(f"this cannot be asked: {error.message}") from error

    async def _ask(self, question: Question) -> QuestionAnswer:
        session, request = self.context.session, self.context.request_id
        if question.url is not None:
            result = await session.elicit_url(question.message, question.url, uuid.uuid4().hex, request)
            return QuestionAnswer(action=result.action)
        form = forms.form(question.form)
        result = await session.elicit_form(question.message, dict(form), request)
        content = forms.filled(form, result.content or {}) if result.action == "accept" else {}
        return QuestionAnswer(action=result.action, content=content)
