"""What running tools tell: how far they are, and what they ask."""

import asyncio
from typing import Any

import attrs

from chatcore.tools import ToolCall
from chatcore.types import Event, Notice

PROGRESS = 0.2
"""Seconds between two reports of a call's progress that are told; those that come sooner are not."""

_LONGEST = 500  # characters of a report


@attrs.define
class Reports:
    """What running tools tell, until it is taken."""

    _told: list[Event] = attrs.field(factory=list)
    _next: dict[str, float] = attrs.field(factory=dict)
    _some: asyncio.Event = attrs.field(factory=asyncio.Event)
    _coming: list[asyncio.Task[Any]] = attrs.field(factory=list)  # one or none

    def add(self, call: ToolCall, message: str, done: float | None = None, of: float | None = None) -> None:
        """Notes how far a call is. To be called from the event loop."""
        now = asyncio.get_running_loop().time()
        if now < self._next.get(call.id, 0.0):
            return
        self._next[call.id] = now + PROGRESS
        data = {"tool": call.name, "call_id": call.id, "done": done, "of": of}
        self.tell(Notice("tool_progress", message[:_LONGEST], data))

    def tell(self, event: Event) -> None:
        """Notes what else there is to tell."""
        self._told.append(event)
        self._some.set()

    def coming(self) -> asyncio.Task[Any]:
        """The task that ends when there is something to take."""
        if not self._coming or self._coming[0].done():
            self._coming[:] = [asyncio.create_task(self._some.wait())]
        return self._coming[0]

    def take(self) -> list[Event]:
        """What was told since the last time."""
        self._some.clear()
        told, self._told = self._told, []
        return told
