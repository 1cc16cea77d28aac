"""The bodies and queries of the chat API (contract §1.2)."""

from collections.abc import Mapping
from typing import Any, Literal

import attrs
from attrs.validators import and_, ge, le, max_len, min_len, optional

from chatcore import wire
from chatcore.database.approvals import Decision
from chatcore.tools import JsonObject, QuestionAction
from chatcore.types import Content, Message, Role


def _without_nul(_: object, field: "attrs.Attribute[Any]", value: Any) -> None:
    if "\0" in value:
        raise ValueError(f"'{field.name}' must not have the character NUL")


# What is stored beside messages and is not counted in a conversation's size.
_SHORT = optional(and_(max_len(1000), _without_nul))


@attrs.frozen(kw_only=True)
class RequestMessage:
    """A message of a request. Fields that chatcore has no use for go upstream."""

    role: Role
    content: Content = None
    name: str | None = None
    tool_call_id: str | None = None
    client_message_id: str | None = attrs.field(default=None, validator=_SHORT)
    parent_client_message_id: str | None = attrs.field(default=None, validator=_SHORT)
    extra: JsonObject = wire.rest()

    @property
    def message(self) -> Message:
        return Message(
            role=self.role, content=self.content, name=self.name, tool_call_id=self.tool_call_id, extra=self.extra
        )


@attrs.frozen(kw_only=True)
class RequestMetadata:
    """What a request says about itself; never sent upstream.

    `parent_message_id` is chatcore's own: the stored message after which the new ones stand. An earlier one makes a
    branch (an edit); with no new messages at all, its answer is made anew.
    """

    client_id: str | None = None
    profile_id: str | None = None
    client_assistant_message_id: str | None = attrs.field(default=None, validator=_SHORT)
    client_parent_message_id: str | None = attrs.field(default=None, validator=_SHORT)
    parent_message_id: int | None = None
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class ChatRequest:
    """A turn: the new messages, and how to answer them. What is not listed goes to the model's server as it is."""

    messages: tuple[RequestMessage, ...]
    model: str | None = attrs.field(default=None, validator=_SHORT)
    session_id: str | None = attrs.field(default=None, validator=optional(and_(min_len(1), max_len(200), _without_nul)))
    metadata: RequestMetadata | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    top_a: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    top_logprobs: int | None = None
    stop: str | tuple[str, ...] | None = None
    logit_bias: Mapping[str, float] | None = None
    tools: tuple[JsonObject, ...] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    plugins: tuple[JsonObject, ...] | None = None
    web_search_options: JsonObject | None = None
    response_format: JsonObject | None = None
    structured_outputs: bool | None = None
    prediction: JsonObject | None = None
    stream_options: JsonObject | None = None
    usage: JsonObject | None = None
    reasoning: JsonObject | None = None
    provider: JsonObject | None = None
    models: tuple[str, ...] | None = None
    route: str | None = None
    transforms: tuple[str, ...] | None = None
    safe_prompt: bool | None = None
    raw_mode: bool | None = None
    user: str | None = None
    extra: JsonObject = wire.rest()

    @property
    def about(self) -> RequestMetadata:
        """What it says about itself, which may be nothing."""
        return self.metadata or RequestMetadata()

    def parameters(self) -> dict[str, Any]:
        """What goes upstream beside the model, the messages and the server's own tools."""
        given = {name: value for name in _PARAMETERS if (value := getattr(self, name)) is not None}
        # A function in a request would be called by nobody here; a tool that the upstream runs itself is its own.
        upstream_tools = [tool for tool in self.tools or () if tool.get("type") != "function"]
        return {**given, **self.extra, **({"tools": upstream_tools} if upstream_tools else {})}


_PARAMETERS = [
    field.name
    for field in attrs.fields(ChatRequest)
    if field.name not in ("messages", "model", "session_id", "metadata", "tools", "extra")
]


@attrs.frozen(kw_only=True)
class ConversationsQuery:
    """Which of the saved conversations."""

    limit: int = attrs.field(default=50, validator=[ge(1), le(200)])
    offset: int = attrs.field(default=0, validator=ge(0))
    search: str | None = attrs.field(default=None, validator=optional([min_len(1), max_len(200)]))


@attrs.frozen(kw_only=True)
class EventsQuery:
    """From where on to read a run, and how it is to look."""

    after: int = attrs.field(default=0, validator=ge(0))
    format: Literal["chat", "events"] | None = None


@attrs.frozen(kw_only=True)
class SaveRequest:
    """What to save a conversation with. What is absent stays as it is."""

    title: str | None = attrs.field(default=None, validator=_SHORT)
    llm_settings: JsonObject | None = None
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class AnswerRequest:
    """The answer to a question. `digest` is that of the question as it was shown, `content` what was filled in."""

    digest: str
    action: QuestionAction
    content: JsonObject = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class DecisionRequest:
    """What becomes of a tool call that waits. `digest` is that of the call as it was shown."""

    digest: str
    decision: Decision
