"""What an OpenAI-shaped chat server says, as events.

Servers differ in almost everything that the format leaves open. What is read here is in OpenRouter's documentation and
OpenAPI file (August 2026), in recorded streams, and in what vLLM, llama-server and Ollama send.
"""

import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeAlias

import attrs
import msgspec

from chatcore import sse, wire
from chatcore.openai.failure import UNREADABLE, Failure, failure_of, parsed
from chatcore.openai.thoughts import CONTENT, PART, mark_of, mark_with
from chatcore.tools import JsonObject
from chatcore.types import (
    Annotated,
    Attachment,
    Finish,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

_Objects: TypeAlias = list[dict[str, Any]] | None

# Only the fields that are used are decoded. `Any` stands where servers differ in the type.


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _Fragment(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None
    extra_content: Any = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None
    reasoning_details: _Objects = None
    tool_calls: list[_Fragment] | None = None
    annotations: _Objects = None
    images: _Objects = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    error: Any = None


class _Chunk(msgspec.Struct, gc=False):
    id: Any = None
    model: Any = None
    provider: Any = None
    choices: list[_Choice] | None = None
    usage: dict[str, Any] | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Chunk).decode

_HEAD = 2**16
"""Bytes that are kept of a stream while there is nothing in it."""


@attrs.define
class _Call:
    """A tool call while it comes in. Its name and id are told once, its arguments as they come."""

    index: int
    id: str
    upstream_id: str | None
    name: str = ""
    started: bool = False
    mark: str = ""  # not told yet
    arguments: list[str] = attrs.field(factory=list)


class ChunkReader:
    """Turns the chunks of one answer into events, and knows how the answer ended.

    A tool call without an id gets `call_<n>`; `first_call` is the first n. `provider` gives what is noted of
    reasoning. `begun`: it has said something. After `[DONE]` (`done`) or an error (`failure`) nothing more is read.
    """

    def __init__(self, *, first_call: int = 0, provider: str = "") -> None:
        self.begun = False
        self.done = False
        self.failure: Failure | None = None
        self._finish_reason: str | None = None
        self._names = _Chunk()  # the first id, model and provider that were named
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}  # by the upstream's index
        self._first_call = first_call
        self._provider = provider
        self._marked = False
        self._raw: bytes | None = None
        self._parser = sse.Parser()
        self._unread = b""

    @property
    def ended(self) -> bool:
        """Whether what follows in the stream is of no interest."""
        return self.done or self.failure is not None

    @property
    def complete(self) -> bool:
        """Whether the model has said all that it wanted to."""
        return self.failure is None and (self.done or self._finish_reason is not None)

    def feed(self, data: bytes) -> list[ModelEvent]:
        """What some bytes of the stream say. The first event of each chunk has the chunk as `raw`.

        Raises:
            StreamBroken: the stream, or an event of it, is larger than allowed.
        """
        found: list[ModelEvent] = []
        for event in self._parser.feed(data):
            self._read(event, found)
            if self.done or self.failure is not None:
                break
        if found:
            self.begun = True
        elif not self.begun:
            self._unread = (self._unread + data)[:_HEAD]
        return found

    def close(self) -> None:
        """Takes note of the end of the stream, or of an error that came in its place."""
        if not self.ended:
            for event in self._parser.close():
                self._read(event, [])
        if not (self.begun or self.ended):
            self.failure = _error_in(self._unread)

    def read_whole(self, body: bytes) -> list[ModelEvent]:
        """What a completion says that came in one piece. There is no chunk then: `raw` is None."""
        found: list[ModelEvent] = []
        try:
            chunk = _decode(body)
        except (ValueError, RecursionError) as error:
            self.failure = Failure(message=f"not a chat completion: {error}", kind=UNREADABLE)
            return found
        self._add(chunk, None, found)
        if not chunk.choices and self.failure is None:
            self.failure = Failure(message=failure_of(_any(body)).message, kind=UNREADABLE)
        self.begun = bool(found)
        self.done = True
        return found

    def finish(
        self,
        generation_id: str | None = None,
        routing: JsonObject | None = None,
        public_id: Callable[[str], str] = str,
    ) -> list[ModelEvent]:
        """The events that end a complete answer; none if the stream ended without saying that it is complete.

        `public_id` gives the id by which the outside knows the model that the server names.
        """
        found: list[ModelEvent] = []
        if not self.complete:
            return found
        for call in self._calls:
            self._start(call, "", found)
        names = self._names
        found.append(
            Finish(
                self._finish_reason or "stop",
                model=public_id(str(names.model)) if names.model else None,
                provider=_name(names.provider),
                generation_id=generation_id or _name(names.id),
                routing=routing,
                raw=b"",
            )
        )
        return found

    def _read(self, event: sse.Event, found: list[ModelEvent]) -> None:
        if event.event != "message" and not self._may_be_chunk(event):
            return
        data = event.data.strip()
        if data == sse.DONE:
            self.done = True
        if self.done or not data:  # some proxies give a sign of life that way
            return
        try:
            chunk, raw = _chunk(data)
        except (ValueError, RecursionError, OverflowError) as error:
            why = f"an event of the stream is not a chat chunk: {error}"
            self.failure = _error_in(data) or Failure(message=why, kind=UNREADABLE)
            return
        if chunk.choices is None and not (chunk.usage or chunk.error):
            self.failure = _error_in(data)
        if self.failure is None:
            self._add(chunk, raw, found)

    def _may_be_chunk(self, event: sse.Event) -> bool:
        """Whether an event with a name has a chunk in it. An error is noted."""
        if event.event == "error":
            self.failure = failure_of(_any(event.data))
        return self.failure is None and b'"choices"' in event.data

    def _add(self, chunk: _Chunk, raw: bytes | None, found: list[ModelEvent]) -> None:
        self._note(chunk)
        # Choices other than the first are had by asking for them with `n`. Their chunks are passed on, no more.
        for choice in chunk.choices or ():
            if not choice.index:
                break
        else:
            choice = _Choice()
        error = chunk.error or choice.error or (choice.finish_reason == "error" and "the model's server failed")
        self._raw = None if error else raw  # an error is told in its own way: its chunk is not passed on
        if delta := choice.delta or choice.message:
            self._add_delta(delta, found)
        if chunk.usage:
            found.append(Usage(chunk.usage, self._take_raw()))
        if error:
            self.failure = failure_of(error)
        elif choice.finish_reason:
            self._finish_reason = choice.finish_reason
        if self._raw:
            found.append(TextDelta("", self._take_raw()))

    def _note(self, chunk: _Chunk) -> None:
        names = self._names
        if not names.id:
            names.id = chunk.id
        if not names.model:
            names.model = chunk.model
        if not names.provider:
            names.provider = chunk.provider

    def _add_delta(self, delta: _Delta, found: list[ModelEvent]) -> None:
        if delta.reasoning or delta.reasoning_content is not None or delta.reasoning_details:
            self._add_reasoning(delta, found)
        if isinstance(delta.content, list):
            self._add_parts(delta.content, found)
        elif text := delta.content or delta.refusal:
            found.append(TextDelta(text, self._take_raw()))
        if delta.tool_calls:
            for fragment in delta.tool_calls:
                self._add_fragment(fragment, found)
        if delta.annotations:
            found.append(Annotated(delta.annotations, self._take_raw()))
        if delta.images:
            self._add_parts(delta.images, found)

    def _add_reasoning(self, delta: _Delta, found: list[ModelEvent]) -> None:
        details = delta.reasoning_details or []
        mark = ""
        if not (thought := _text(delta.reasoning)) and delta.reasoning_content is not None:
            # An empty one is worth noting, too: such servers want the field back even where there was no thought.
            thought, mark = _text(delta.reasoning_content), mark_of(self._provider, CONTENT)
        if thought or details or (mark and not self._marked):
            self._marked = self._marked or bool(mark)
            found.append(ReasoningDelta(thought or _text(details), details, self._take_raw(), mark))

    def _add_parts(self, parts: Sequence[Any], found: list[ModelEvent]) -> None:
        for part in parts:
            if isinstance(part, dict) and part.get("type") == "thinking":
                thought = _text(part.get("thinking"))
                found.append(ReasoningDelta(thought, (), self._take_raw(), mark_of(self._provider, PART)))
            elif isinstance(part, dict) and part.get("type", "text") not in ("text", "reference"):
                found.append(Attachment(part, self._take_raw()))
            elif text := _text(part):
                found.append(TextDelta(text, self._take_raw()))

    def _add_fragment(self, fragment: _Fragment, found: list[ModelEvent]) -> None:
        function = fragment.function or _Function()
        arguments = function.arguments or ""
        if not isinstance(arguments, str):
            arguments = wire.dumps(arguments).decode()
        call = self._call(fragment, function.name, arguments)
        if call.started and function.name and arguments == _whole(call):
            return  # some servers say it all again at the end
        if arguments:
            call.arguments.append(arguments)
        if call.started and arguments:
            found.append(ToolCallDelta(call.index, arguments, self._take_raw()))
        elif function.name:
            self._start(call, function.name, found)
        if fragment.extra_content:
            call.mark = mark_with(self._provider, fragment.extra_content)
        if call.mark and call.started:
            found.append(ToolCallDelta(call.index, "", self._take_raw(), call.mark))
            call.mark = ""

    def _start(self, call: _Call, name: str, found: list[ModelEvent]) -> None:
        """Tells of a call, once. What came of its arguments before its name did follows it."""
        if call.started:
            return
        call.started, call.name = True, name
        found.append(ToolCallStarted(call.index, call.id, name, self._take_raw()))
        if call.arguments:
            found.append(ToolCallDelta(call.index, "".join(call.arguments), self._take_raw()))

    def _call(self, fragment: _Fragment, name: str | None, arguments: str) -> _Call:
        """The call that a fragment belongs to; a new one if it begins one."""
        if fragment.index is not None:
            call = self._open.get(fragment.index)
        elif fragment.id:
            call = next((call for call in reversed(self._calls) if call.upstream_id == fragment.id), None)
        else:
            call = self._calls[-1] if self._calls and not name else None
        if call is None or (name and _is_another(call, fragment.id, name, arguments)):
            call = self._new_call(fragment)
        return call

    def _new_call(self, fragment: _Fragment) -> _Call:
        index = fragment.index if fragment.index is not None else len(self._calls)
        if any(call.index == index for call in self._calls):
            index = 1 + max(call.index for call in self._calls)
        ids = {call.id for call in self._calls}
        call_id = fragment.id
        if not call_id or call_id in ids:
            number = self._first_call + len(ids)
            call_id = next(f"call_{n}" for n in count(number) if f"call_{n}" not in ids)
        call = _Call(index, call_id, fragment.id)
        self._calls.append(call)
        if fragment.index is not None:
            self._open[fragment.index] = call
        return call

    def _take_raw(self) -> bytes | None:
        raw = self._raw
        if raw:
            self._raw = b""
        return raw


def _chunk(data: bytes) -> tuple[_Chunk, bytes]:
    """A chunk, and its JSON on one line."""
    if b"\n" not in data:
        try:
            return _decode(data), data
        except msgspec.DecodeError:
            # Python's parser takes what some servers send: NaN among the log probabilities, half of a surrogate pair.
            pass
    data = wire.dumps(json.loads(data))
    return _decode(data), data


def _error_in(data: bytes) -> Failure | None:
    """The error that some JSON tells of: also without the word, as FastChat, vLLM and Mistral have it, and those that
    stand on DashScope or FastAPI, or in a list, as Google's servers do."""
    value = _any(data)
    match value:
        case [{"error": _}] | {"object": "error"}:
            return failure_of(value)
        case {"error": error} if error:
            return failure_of(value)
        case {"object": _}:
            return None
        case {"message": _} | {"detail": _}:
            return failure_of(value)
    return None


def _is_another(call: _Call, upstream_id: str | None, name: str, arguments: str) -> bool:
    """Whether a fragment with a name begins another call than the one that its index or id leads to.

    Some servers give all calls the same index, and no ids, or all the same one. Some repeat the name, or change the id,
    in every fragment, but not both.
    """
    if upstream_id and call.upstream_id not in (None, upstream_id):
        return True
    if not call.started:
        return False
    return name != call.name or (bool(arguments.strip()) and _whole(call) not in (None, arguments))


def _whole(call: _Call) -> str | None:
    """The arguments of a call, if all of them have come."""
    if not call.arguments or not call.arguments[-1].rstrip().endswith("}"):
        return None
    text = "".join(call.arguments)
    try:
        return text if isinstance(json.loads(text), dict) else None
    except (ValueError, RecursionError):
        return None


def _text(value: object) -> str:
    """The text of a value that is text, or has it in one of the usual places, or is a list of such."""
    match value:
        case str():
            return value
        case list():
            return "".join(map(_text, value))
        case {"text": text} | {"summary": text} | {"content": text}:
            return _text(text)
        case _:
            return ""


def _name(value: object) -> str | None:
    return str(value) if value else None


def _any(data: bytes) -> object:
    try:
        return parsed(data)
    except ValueError:
        return data.decode(errors="replace")
