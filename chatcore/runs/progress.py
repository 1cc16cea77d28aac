"""What a running tool tells of how far it is."""

import asyncio
import math

import attrs

from chatcore.tools import ToolCall
from chatcore.types import Notice, Tell

PROGRESS = 0.2
"""Seconds between two reports of a call's progress that are told; those that come sooner are not."""

_LONGEST = 500  # characters of a report


@attrs.define
class Progress:
    """The reports of one call."""

    call: ToolCall
    tell: Tell
    _next: float = 0.0

    def report(self, message: str, done: float | None = None, of: float | None = None) -> None:
        """Tells how far the call is, unless it has just done so. To be called from the event loop."""
        now = asyncio.get_running_loop().time()
        if now >= self._next:
            self._next = now + PROGRESS
            data = {"tool": self.call.name, "call_id": self.call.id, "done": done, "of": of}
            self.tell([Notice("tool_progress", message[:_LONGEST], data)])

    def end(self) -> None:
        """The call has ended: what it left behind is not listened to."""
        self._next = math.inf
