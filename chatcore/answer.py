"""An answer, put together from the events in which it comes.

Adding an event takes the same time however long the answer is: pieces are kept in lists and joined once, at the end.
"""

import math
import re
from collections.abc import Iterable
from typing import Any

import attrs

from chatcore.tools import JsonObject, ToolCall
from chatcore.types import (
    Annotated,
    Attachment,
    Event,
    Finish,
    Message,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

_GROWING = ("text", "summary", "data")


_PLACEHOLDER = re.compile(r"\s*\{\s*\}\s*(?=\{)")
"""Before the arguments of some gateways (https://github.com/microsoft/autogen/pull/7549)."""


@attrs.define
class _Call:
    id: str
    name: str
    arguments: list[str] = attrs.field(factory=list)
    mark: str = ""

    def whole(self) -> ToolCall:
        arguments = _PLACEHOLDER.sub("", "".join(self.arguments), count=1)
        return ToolCall(self.id, self.name, arguments if arguments.strip() else "{}", self.mark)


class _Detail:
    """One of the `reasoning_details`, put together from its fragments.

    Fragments of one detail have its type and index. `text`, `summary` and `data` grow; of everything else (`signature`,
    `id`, `format` …) the last that is not null counts.
    """

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._grown: dict[str, list[str]] = {}

    def takes(self, fragment: JsonObject) -> bool:
        """Whether a fragment with the same type and index is of this detail.

        Two ids are two details. Data without an index is a whole encrypted block.
        """
        if fragment.get("index") is None and "data" in fragment:
            return False
        mine, its = self._fields.get("id"), fragment.get("id")
        return mine is None or its is None or mine == its

    def add(self, fragment: JsonObject) -> None:
        for key, value in fragment.items():
            if key in _GROWING and isinstance(value, str):
                self._grown.setdefault(key, []).append(value)
            elif value is None and key in self._fields:
                continue
            self._fields[key] = value

    def whole(self) -> JsonObject:
        return self._fields | {key: "".join(pieces) for key, pieces in self._grown.items()}


class Answer:
    """What a model has said so far. `finish` is None as long as it has not ended; `usage` is the last that came;
    `images` are what was no text."""

    def __init__(self) -> None:
        self.finish: Finish | None = None
        self.usage: JsonObject | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._reasoning_mark = ""
        self._details: list[_Detail] = []
        self._latest_details: dict[tuple[object, object], _Detail] = {}
        self._calls: dict[int, _Call] = {}
        self._annotations: list[JsonObject] = []
        self.images: list[JsonObject] = []

    @property
    def finish_reason(self) -> str | None:
        """Why the model ended, in its own words; None if it did not say, which is an answer that broke off."""
        return None if self.finish is None else self.finish.reason

    @property
    def cost(self) -> float:
        """What the call cost, in US dollars; 0 where the usage does not say it in a number."""
        try:
            cost = float((self.usage or {}).get("cost") or 0)
        except (TypeError, ValueError):
            return 0.0
        return cost if 0 < cost < math.inf else 0.0

    @property
    def empty(self) -> bool:
        """Whether the model has said nothing, not even that it has ended. One that ends without a word has answered:
        why it ended, and what that cost, is all that its message holds."""
        said = self._text or self._reasoning or self._details or self._calls or self._annotations or self.images
        return not said and self.finish is None

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls, in the order of their indexes. A call without arguments has the empty object."""
        return tuple(self._calls[index].whole() for index in sorted(self._calls))

    def add(self, events: Iterable[Event]) -> None:
        """Takes in what the model said. Events of other kinds are no part of an answer.

        Raises:
            TypeError: there is something that is no event at all.
        """
        for event in events:
            match event:
                case TextDelta():
                    if event.text:
                        self._text.append(event.text)
                case ReasoningDelta():
                    self._add_reasoning(event)
                case ToolCallDelta():
                    call = self._calls[event.index]
                    call.arguments.append(event.arguments)
                    call.mark = event.mark or call.mark
                case _:
                    self._add_rare(event)

    def message(self) -> Message:
        """The answer as a message. Its `reasoning_details` are as the model needs to get them back."""
        return Message(
            role="assistant",
            content="".join(self._text) or (None if self._calls else ""),
            tool_calls=self.tool_calls,
            reasoning="".join(self._reasoning) or None,
            reasoning_mark=self._reasoning_mark,
            reasoning_details=tuple(detail.whole() for detail in self._details),
            annotations=tuple(self._annotations),
            images=tuple(self.images),
        )

    def _add_rare(self, event: Event) -> None:
        match event:
            case ToolCallStarted():
                self._calls[event.index] = _Call(event.id, event.name)
            case Annotated():
                self._annotations.extend(event.annotations)
            case Attachment():
                self.images.append(event.part)
            case Usage():
                self.usage = event.usage
            case Finish():
                self.finish = event
            case _ if not isinstance(event, Event):
                raise TypeError(f"a model gave {event!r}, wanted an event")

    def _add_reasoning(self, event: ReasoningDelta) -> None:
        if event.text:
            self._reasoning.append(event.text)
        self._reasoning_mark = event.mark or self._reasoning_mark
        for fragment in event.details:
            key = fragment.get("type"), fragment.get("index")
            detail = self._latest_details.get(key)
            if detail is None or not detail.takes(fragment):
                detail = self._latest_details[key] = _Detail()
                self._details.append(detail)
            detail.add(fragment)
