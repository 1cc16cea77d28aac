"""A provider that says what a test tells it to.

    ScriptedProvider([call("forecast", days=2)], [text("Sunny.")])

answers the first request with a tool call and the second with text.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import attrs

from chatcore import wire
from chatcore.protocols import Health
from chatcore.types import (
    Finish,
    Model,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

Step: TypeAlias = Sequence[ModelEvent] | Exception | asyncio.Event
"""Events to yield together, an error to raise, or something to wait for."""


def text(*pieces: str) -> list[ModelEvent]:
    """An answer in these pieces."""
    return [TextDelta(piece) for piece in pieces]


def think(thought: str) -> list[ModelEvent]:
    """A thought before the answer."""
    return [ReasoningDelta(thought)]


def call(name: str, /, *, id: str = "", **arguments: Any) -> list[ModelEvent]:  # noqa: A002  the wire's word
    """A request for a tool. Calls of one answer need different ids."""
    call_id = id or f"call_{name}"
    return [ToolCallStarted(-1, call_id, name), ToolCallDelta(-1, wire.dumps(arguments).decode())]


class ScriptedProvider:
    """Answers the n-th request with the n-th script, and remembers the requests.

    A script is a list of steps. It ends with a usage and a fitting `Finish` unless it has a `Finish` of its own, or
    `finish=False`. When the scripts are used up, the answer is "ok".

    `asked` is set when a request has come, `closed` when an answer has ended.
    """

    name = "scripted"
    open = True
    default_model = "scripted/model"

    def __init__(self, *scripts: Sequence[Step], finish: bool = True) -> None:
        self.requests: list[ModelRequest] = []
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self._scripts = list(scripts)
        self._finish = finish

    def health(self) -> Health:
        return Health()

    async def models(self) -> Sequence[Model]:
        return [Model(self.default_model, "Scripted", context_length=100_000, supports_tools=True)]

    async def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        self.requests.append(request)
        self.asked.set()
        steps = self._scripts.pop(0) if self._scripts else [text("ok")]
        calls = 0
        finished = False
        try:
            for step in steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                    continue
                events, calls = _numbered(step, calls)
                finished = finished or any(isinstance(event, Finish) for event in events)
                yield events
            if self._finish and not finished:
                yield [
                    Usage({"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}),
                    Finish("tool_calls" if calls else "stop", model=request.model),
                ]
        finally:
            self.closed.set()


def _numbered(events: Sequence[ModelEvent], calls: int) -> tuple[list[ModelEvent], int]:
    """The events with an index for each tool call that has none, and the number of calls so far."""
    numbered: list[ModelEvent] = []
    for event in events:
        if isinstance(event, ToolCallStarted) and event.index < 0:
            event = attrs.evolve(event, index=calls)
            calls += 1
        elif isinstance(event, ToolCallDelta) and event.index < 0:
            event = attrs.evolve(event, index=calls - 1)
        numbered.append(event)
    return numbered, calls
