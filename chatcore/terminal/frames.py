"""What a stream of the chat API (contract §2) says, as parts that can be shown."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import attrs

from chatcore import sse, wire
from chatcore.tools import JsonObject


@attrs.frozen
class Text:
    """A piece of the answer, in Markdown."""

    text: str


@attrs.frozen
class Reasoning:
    """A piece of the model's thinking."""

    text: str


@attrs.frozen
class ToolUse:
    """A tool begins, or has ended. `status` is started, finished or error."""

    name: str
    status: str


@attrs.frozen
class Approval:
    """A call of a tool that needs consent. `arguments` are JSON; the decision repeats the `digest`."""

    call_id: str
    tool: str
    arguments: str
    digest: str


@attrs.frozen
class Asked:
    """A question of a running tool: a form to fill in, or a page to open."""

    question_id: str
    asker: str
    message: str
    form: JsonObject
    url: str | None
    digest: str


@attrs.frozen
class Note:
    """Something that the model did not say."""

    text: str


@attrs.frozen
class Problem:
    """Why there is no answer, or none that is whole."""

    text: str


Part: TypeAlias = Text | Reasoning | ToolUse | Approval | Asked | Note | Problem

_NOTES = {
    "length": "The answer was cut off: it reached its greatest length.",
    "content_filter": "The answer was cut off by the provider's filter.",
}


class FrameReader:
    """Reads the frames of one answer. `session_id` and `model` are told by the way, and the number of the `last` event;
    `done`: nothing more comes."""

    def __init__(self) -> None:
        self.done = False
        self.last = 0
        self.session_id: str | None = None
        self.model: str | None = None
        self._error: str | None = None

    def read(self, event: sse.Event) -> Iterator[Part]:
        """The parts of a frame. Frames of a kind that is not known have none."""
        number = (event.id or "").rpartition(":")[2]
        if number.isdigit():
            self.last = int(number)
        if event.data == sse.DONE:
            self.done = True
            return
        yield from self._read(event.event, wire.loads(event.data))

    def _read(self, name: str, data: Any) -> Iterator[Part]:
        match name, data:
            case "session", {"session_id": str(session_id)}:
                self.session_id = session_id
            case "message", {"choices": [{"delta": dict(delta)}, *_]}:
                yield from self._delta(delta)
            case "metadata", {"role": "assistant"}:
                yield from self._metadata(data)
            case "tool", {"status": str(status), "name": str(tool)}:
                yield from _tool(status, tool, data.get("message"))
            case "approval" | "question", {"digest": str()}:
                yield _asked(name, data)
            case "notice", {"message": str(message)}:
                yield Note(message)
            case "error", {"error": str(error)}:
                self._error = error
                yield Problem(error)

    def _metadata(self, data: dict[str, Any]) -> Iterator[Part]:
        self.model = data.get("model") or self.model
        if note := _NOTES.get(data.get("finish_reason") or ""):
            yield Note(note)

    def _delta(self, delta: dict[str, Any]) -> Iterator[Part]:
        if reasoning := _text(delta.get("reasoning") or delta.get("reasoning_content")):
            yield Reasoning(reasoning)
        text = _text(delta.get("content"))
        # An error comes twice: as itself, and as text for clients that know no errors.
        if text and text != f"Error: {self._error}":
            yield Text(text)
        for image in delta.get("images") or ():
            yield Text(_text([image]))


def _asked(name: str, data: Mapping[str, Any]) -> Approval | Asked:
    if name == "approval":
        return Approval(data["call_id"], data["tool"], wire.dumps(data.get("arguments")).decode(), data["digest"])
    return Asked(data["question_id"], data["asker"], data["message"], data["form"], data.get("url"), data["digest"])


def _tool(status: str, name: str, message: object) -> Iterator[Part]:
    if status in ("started", "finished", "error"):
        yield ToolUse(name, status)
    elif status == "notice":
        yield Note(str(message))
    # The others are pauses, whose text comes as a part of the answer, too.


def _text(content: object) -> str:
    """The text of content that is text or a list of parts; an image is a link."""
    match content:
        case str():
            return content
        case list():
            return "".join(map(_text, content))
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return f"\n\n[image]({url if len(url) < 500 else 'data:'})\n\n"
        case {"text": str(text)}:
            return text
        case _:
            return ""
