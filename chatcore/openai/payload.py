"""What an OpenAI-shaped chat server is sent: messages and tools as JSON."""

import re
from collections.abc import Collection
from typing import Any

import msgspec

from chatcore import wire
from chatcore.openai.thoughts import CONTENT, EXTRA, PART, extra_of, mark_of
from chatcore.tools import JsonObject, Tool, ToolCall
from chatcore.types import Message

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


def message_json(message: Message, provider: str = "", refused: Collection[str] = ()) -> dict[str, Any]:
    """A message as the server is sent it. What only chatcore knows of it is left out, as are the fields that the server
    has `refused`.

    `reasoning_details` go back as they came. A model that gave only text as its reasoning gets that, beside tool calls.
    Text that was marked goes back to the provider that marked it, in the same place.
    """
    sent: dict[str, Any] = {**message.extra, "role": message.role, "content": message.content}
    if message.tool_calls:
        sent["tool_calls"] = [_call_json(call, provider) for call in message.tool_calls]
        if message.reasoning and not (message.reasoning_details or message.reasoning_mark):
            sent["reasoning"] = message.reasoning
    if message.reasoning_mark == mark_of(provider, CONTENT):
        sent[CONTENT] = message.reasoning or ""
    elif message.reasoning_mark == mark_of(provider, PART) and message.reasoning:
        thought = {"type": PART, PART: [{"type": "text", "text": message.reasoning}]}
        sent["content"] = [thought, *([{"type": "text", "text": message.text}] if message.text else ())]
    for key in ("name", "tool_call_id", "reasoning_details", "annotations", "images"):
        if value := getattr(message, key):
            sent[key] = value
    return {key: value for key, value in sent.items() if key not in refused} if refused else sent


def _call_json(call: ToolCall, provider: str) -> JsonObject:
    # Models make up names and break off arguments. Servers refuse a call with a name that no tool can have, or with
    # arguments that are not an object, and with it every later request of the conversation.
    name = _NOT_IN_A_NAME.sub("_", call.name)[:64] or "unnamed"
    arguments = call.arguments
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except ValueError:
        arguments = wire.dumps({"unreadable": arguments} if arguments.strip() else {}).decode()
    sent = {"id": call.id, "type": "function", "function": {"name": name, "arguments": arguments}}
    extra = extra_of(provider, call.mark)
    return sent if extra is None else {**sent, EXTRA: extra}


def tool_json(tool: Tool) -> JsonObject:
    """A tool as the server is told of it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
