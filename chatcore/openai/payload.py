"""What an OpenAI-shaped chat server is sent: messages and tools as JSON."""

import re
from typing import Any

import msgspec

from chatcore import wire
from chatcore.tools import JsonObject, Tool, ToolCall
from chatcore.types import Message

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


def message_json(message: Message) -> dict[str, Any]:
    """A message as the server is sent it. What only chatcore knows of it is left out.

    `reasoning_details` go back as they came. A model that gave only text as its reasoning gets that, beside tool calls.
    """
    sent: dict[str, Any] = {**message.extra, "role": message.role, "content": message.content}
    if message.tool_calls:
        sent["tool_calls"] = [_call_json(call) for call in message.tool_calls]
        if message.reasoning and not message.reasoning_details:
            sent["reasoning"] = message.reasoning
    for key in ("name", "tool_call_id", "reasoning_details", "annotations", "images"):
        if value := getattr(message, key):
            sent[key] = value
    return sent


def _call_json(call: ToolCall) -> JsonObject:
    # Models make up names and break off arguments. Servers refuse a call with a name that no tool can have, or with
    # arguments that are not an object, and with it every later request of the conversation.
    name = _NOT_IN_A_NAME.sub("_", call.name)[:64] or "unnamed"
    arguments = call.arguments
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except ValueError:
        arguments = wire.dumps({"unreadable": arguments} if arguments.strip() else {}).decode()
    return {"id": call.id, "type": "function", "function": {"name": name, "arguments": arguments}}


def tool_json(tool: Tool) -> JsonObject:
    """A tool as the server is told of it."""
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
