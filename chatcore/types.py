"""The values of a chat: messages, models, turns, and the events of a run. Frozen, and without I/O.

These are pure values: where they are stored and how a client sees them is decided elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import attrs

from chatcore.tools import JsonObject, Tool, ToolCall, ToolResult

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
Content: TypeAlias = str | tuple[JsonObject, ...] | None
"""Text, or content parts in the OpenAI form (`{"type": "text", …}`, `{"type": "image_url", …}`), passed as they are."""

RunState: TypeAlias = Literal["running", "waiting", "completed", "stopped", "incomplete", "failed"]
"""What has become of a run. The last four are final; `incomplete` is an answer that broke off."""

FINAL_STATES: frozenset[RunState] = frozenset({"completed", "stopped", "incomplete", "failed"})


@attrs.frozen
class Principal:
    """Somebody on whose behalf something is done. Everything stored belongs to one.

    `scopes` are what they may do: `*` for all; none for what needs no scope of its own (`chat`).
    """

    id: str
    scopes: frozenset[str] = frozenset()


LOCAL = Principal("local", frozenset({"*"}))
"""Everybody, on a server that listens on loopback only and has no tokens."""


@attrs.frozen(kw_only=True)
class Message:
    """One message of a conversation, as a model is given it.

    `reasoning_details` must go back to the model unmodified beside `tool_calls`. `reasoning_mark` is what the provider
    that gave `reasoning` noted of it, to be able to give it back; it is of no use to others. `extra` holds the fields
    of a request's message that chatcore has no use for; they go upstream.
    """

    role: Role
    content: Content = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None
    reasoning_mark: str = ""
    reasoning_details: tuple[JsonObject, ...] = ()
    annotations: tuple[JsonObject, ...] = ()
    images: tuple[JsonObject, ...] = ()
    extra: JsonObject = attrs.field(factory=dict)

    @property
    def text(self) -> str:
        """The text of the message, without its other parts."""
        return content_text(self.content)


def content_text(content: Content) -> str:
    """The text of a message's content: of parts, the text parts joined by newlines."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(str(part["text"]) for part in content if part.get("type") == "text" and part.get("text"))


@attrs.frozen(kw_only=True)
class MessageRecord:
    """A message with what is kept beside it.

    `state` is `complete`; `partial` for an answer that broke off or was stopped; `pending` for the place of a tool's
    answer while the tool runs (after a crash it says that the outcome is unknown). `finish_reason`, `model`,
    `usage`, `generation_id`, `provider` and `routing` are set on answers. `tool_name` and `is_error` on tool messages.
    """

    message: Message
    state: Literal["complete", "partial", "pending"] = "complete"
    run_id: str | None = None
    client_message_id: str | None = None
    parent_client_message_id: str | None = None
    model: str | None = None
    provider: str | None = None
    finish_reason: str | None = None
    generation_id: str | None = None
    usage: JsonObject | None = None
    routing: JsonObject | None = None
    tool_name: str | None = None
    is_error: bool = False
    metadata: JsonObject = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class StoredMessage(MessageRecord):
    """A message in the database."""

    id: int
    conversation_id: str
    parent_id: int | None
    created_at: datetime


@attrs.frozen
class Model:
    """A model that a provider offers. `info` is the catalogue entry as the provider gives it (OpenRouter's form)."""

    id: str
    name: str
    context_length: int | None = None
    supports_tools: bool | None = None
    info: JsonObject = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class ModelRequest:
    """One call of a model: what a `Provider` is given. `parameters` go upstream as they are."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    parameters: JsonObject = attrs.field(factory=dict)
    conversation_id: str | None = None


@attrs.frozen
class Limits:
    """Where a turn stops by itself. Times in seconds, sizes in characters, cost in US dollars (None: no limit).

    `max_answer` is in bytes: all that models and tools say in the turn, with the chunks in which it comes.
    """

    hops: int = 40
    tool_errors: int = 10
    tool_timeout: float = 120.0
    tool_output: int = 100_000
    max_answer: int = 2**28
    approval_timeout: float = 3600.0
    hook_timeout: float = 60.0
    cost: float | None = None


@attrs.frozen(kw_only=True)
class Turn:
    """A question and everything needed to answer it. `prepare_turn` hooks give back changed copies (`attrs.evolve`).

    `history` is what the model is given: system prompt, earlier messages, the new ones. `tools` is a snapshot by name:
    what it holds may be called, nothing else; of those in `hidden` the model is not told until the result of a tool
    `reveals` them. `metadata` is the request's own, never sent upstream. The client is told the `notices` first. If
    there is a `stopped_for`, that is all: the model is not asked, and the turn ends for this reason.

    After the hooks the operator's policy divides the tools: those in `asking` need a person's consent for each call,
    which is asked for if the client `can_approve`; those in `withheld` were taken away, for the reason given there.
    """

    id: str
    principal: Principal
    conversation_id: str
    model: str
    provider: str
    history: tuple[Message, ...]
    parameters: JsonObject = attrs.field(factory=dict)
    tools: Mapping[str, Tool] = attrs.field(factory=dict)
    hidden: frozenset[str] = frozenset()
    limits: Limits = attrs.field(factory=Limits)
    client_id: str | None = None
    metadata: JsonObject = attrs.field(factory=dict)
    notices: tuple["Notice", ...] = ()
    stopped_for: str | None = None
    can_approve: bool = False
    asking: frozenset[str] = frozenset()
    withheld: Mapping[str, str] = attrs.field(factory=dict)
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))


@attrs.frozen(kw_only=True)
class TurnResult:
    """How a turn ended, for `finish_turn`. `messages` are those that it stored, in order."""

    state: RunState
    reason: str
    messages: tuple[StoredMessage, ...] = ()
    usage: JsonObject | None = None


# --- events -----------------------------------------------------------------------------------------------------------
#
# `raw` is the upstream chunk that an event came from, as JSON bytes on one line. Where one chunk gives several events,
# the first has the bytes and the others have b"": a format that forwards chunks sends each once. None: there is no
# chunk, a format that wants one must make it.


@attrs.frozen
class RunStarted:
    """The first event of every run. `new_conversation`: it did not exist before this request."""

    run_id: str
    conversation_id: str
    new_conversation: bool = False


@attrs.frozen
class TextDelta:
    """A piece of the answer. Empty where a chunk carries nothing that has an event of its own."""

    text: str
    raw: bytes | None = None


@attrs.frozen
class ReasoningDelta:
    """A piece of the model's thinking: `text` to show, `details` (fragments) to send back with tool calls.

    `mark` is what a provider needs to know of it when it is given the message back, as `Message.reasoning_mark`.
    """

    text: str
    details: Sequence[JsonObject] = ()
    raw: bytes | None = None
    mark: str = ""


@attrs.frozen
class ToolCallStarted:
    """The model begins to ask for a tool. `index` tells the calls of one answer apart."""

    index: int
    id: str
    name: str
    raw: bytes | None = None


@attrs.frozen
class ToolCallDelta:
    """A piece of the arguments of call `index`. `mark` is `ToolCall.mark`, where it is known by now."""

    index: int
    arguments: str
    raw: bytes | None = None
    mark: str = ""


@attrs.frozen
class Annotated:
    """Citations and other annotations of the answer, in OpenRouter's form."""

    annotations: Sequence[JsonObject]
    raw: bytes | None = None


@attrs.frozen
class Attachment:
    """Something that is not text, made by a model or a tool: a content part (`{"type": "image_url", …}`)."""

    part: JsonObject
    raw: bytes | None = None


@attrs.frozen
class Usage:
    """What the call cost, in the upstream's own words: `prompt_tokens`, `completion_tokens`, `cost` (US dollars) …"""

    usage: JsonObject
    raw: bytes | None = None


@attrs.frozen
class Finish:
    """The model says that it has ended, and why: stop, length, tool_calls, content_filter, error.

    `model` is the one that really answered, `routing` the upstream's headers about the way it took.
    """

    reason: str
    model: str | None = None
    provider: str | None = None
    generation_id: str | None = None
    routing: JsonObject | None = None
    raw: bytes | None = None


@attrs.frozen
class MessageStored:
    """A message of this run is in the database."""

    message: StoredMessage


@attrs.frozen(kw_only=True)
class ApprovalRequested:
    """A call waits for somebody's consent; it is not run before. The decision must repeat the `digest`.

    `arguments` are those that the tool will be given.
    """

    call_id: str
    tool: str
    arguments: JsonObject
    digest: str
    expires_at: datetime


@attrs.frozen(kw_only=True)
class QuestionAsked:
    """A running call asks a person something and waits for the answer, which must repeat the `digest`.

    `form` is the JSON Schema of what is to be filled in; with `url` a page is to be opened instead, and the form is
    empty. `asker` is who asks: a server of tools, or the tool.
    """

    question_id: str
    call_id: str
    asker: str
    message: str
    form: JsonObject
    url: str | None
    digest: str
    expires_at: datetime


@attrs.frozen(kw_only=True)
class QuestionClosed:
    """A question waits no longer. `outcome` is accept, decline, cancel, or expired; what was filled in is not told."""

    question_id: str
    call_id: str
    outcome: str


@attrs.frozen
class ToolStarted:
    """chatcore begins to run a tool. What the model said to ask for it is in the `ToolCall…` events before."""

    call: ToolCall


@attrs.frozen
class ToolFinished:
    """A tool has answered; the answer is stored as `message_id`."""

    call: ToolCall
    result: ToolResult
    message_id: int
    created_at: datetime


@attrs.frozen
class Notice:
    """Something that the user should know and the model did not say.

    `kind` is one of: tools_unsupported, hop_limit, tool_error_limit, cost_limit, answer_limit, repeated_call,
    approval_required, question_declined, tool_followup_required, tool_progress, image_not_kept, or a plugin's own.
    `data` are its numbers and names.
    """

    kind: str
    message: str
    data: JsonObject = attrs.field(factory=dict)


@attrs.frozen
class Failed:
    """The turn cannot go on. `code` is the error's name, `status` the HTTP status it would have had."""

    message: str
    code: str = "internal"
    status: int = 500
    details: Any = None


@attrs.frozen
class RunEnded:
    """The last event of every run."""

    state: RunState
    reason: str


ModelEvent: TypeAlias = (
    TextDelta | ReasoningDelta | ToolCallStarted | ToolCallDelta | Annotated | Attachment | Usage | Finish
)
"""What a provider may yield."""

Event: TypeAlias = (
    ModelEvent
    | RunStarted
    | MessageStored
    | ApprovalRequested
    | QuestionAsked
    | QuestionClosed
    | ToolStarted
    | ToolFinished
    | Notice
    | Failed
    | RunEnded
)
"""Everything that a run's log may hold: a closed union, so that `match` can be checked for completeness."""

Tell: TypeAlias = Callable[[Sequence[Event]], None]
"""Takes what happens into a run's log."""
