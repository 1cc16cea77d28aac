"""The tools `chat.completions` and `llm_chat`: one call of a model, its answer in one piece."""

from contextlib import aclosing
from typing import Any, Literal, cast

import attrs
from attrs import validators

from chatcore import wire
from chatcore.answer import Answer
from chatcore.errors import ChatcoreError, ProviderError, StreamBroken, ToolFailed, ValidationFailed
from chatcore.hooks import Host
from chatcore.tools import JsonObject
from chatcore.types import Content, Message, ModelRequest, Role


@attrs.frozen(kw_only=True)
class GivenMessage:
    """A message of a payload. What is not listed goes upstream as it is."""

    role: Role
    content: Content = None
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class Payload:
    """A request in OpenRouter's form. What is not listed goes upstream as it is."""

    messages: tuple[GivenMessage, ...] = attrs.field(validator=validators.min_len(1))
    model: str | None = None
    extra: JsonObject = wire.rest()

    def request(self, model: str) -> ModelRequest:
        messages = (Message(role=given.role, content=given.content, extra=given.extra) for given in self.messages)
        return ModelRequest(model=model, messages=tuple(messages), parameters=self.extra)


class Models:
    """The models of a server, as tools."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def completions(self, payload: JsonObject) -> JsonObject:
        """Ask a model, as OpenRouter's /chat/completions does, and get its whole answer, with its tool calls.

        Args:
            payload: The request: messages, and as needed model, tools, temperature and whatever else the model takes.
        """
        try:
            return _completion(await self._ask(wire.structure(dict(payload), Payload)))
        except ValidationFailed as error:
            raise _refusal(error.status, str(error)) from error
        except ProviderError as error:
            raise _refusal(error.told_status, error.message) from error
        except ChatcoreError as error:
            raise _refusal(error.status, error.told) from error

    async def llm_chat(
        self,
        message: str,
        model: str | None = None,
        system_prompt: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        reasoning_effort: Literal["low", "medium", "high"] | None = None,
        disable_reasoning: bool = False,
    ) -> str:
        """Ask a language model a question and get its answer as text.

        Args:
            message: The question.
            model: The id of a model; without it the server's default.
            system_prompt: What the model is told first.
            temperature: How varied the answer may be, from 0 to 2.
            max_tokens: The longest answer.
            reasoning_effort: How much the model may think.
            disable_reasoning: Whether the model is not to think at all.
        """
        prompt = [GivenMessage(role="system", content=system_prompt)] if system_prompt else []
        reasoning: JsonObject | None = {"effort": reasoning_effort} if reasoning_effort else None
        if disable_reasoning:
            reasoning = {"enabled": False, "exclude": True}
        parameters = {"temperature": temperature, "max_tokens": max_tokens, "reasoning": reasoning}
        payload = Payload(
            messages=(*prompt, GivenMessage(role="user", content=message)),
            model=model,
            extra={name: value for name, value in parameters.items() if value is not None},
        )
        try:
            return (await self._ask(payload)).message().text
        except ChatcoreError as error:
            raise ToolFailed(" ".join(filter(None, (f"{error.told.rstrip('.')}.", error.told_hint)))) from error

    async def _ask(self, payload: Payload) -> Answer:
        provider, model = self._host.provider_for(payload.model)
        answer = Answer()
        # Closed when the call is cancelled, and with it the connection upstream.
        async with aclosing(cast("Any", provider.stream(payload.request(model)))) as stream:
            async for events in stream:
                answer.add(events)
        if answer.finish is None:
            raise StreamBroken("the answer broke off")
        return answer


def _completion(answer: Answer) -> JsonObject:
    message = answer.message()
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in message.tool_calls
    ]
    completion = {
        "id": answer.finish and answer.finish.generation_id,
        "role": "assistant",
        "content": message.content,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "tool_calls": calls or None,
    }
    return {name: value for name, value in completion.items() if value is not None}


def _refusal(status: int, detail: str) -> ToolFailed:
    return ToolFailed(wire.dumps({"status_code": status, "detail": detail}).decode())
