"""What a server answers, as a tool's result: text for the model, images for the client."""

import base64
import binascii
import re
from collections.abc import Iterable

import mcp_types as types

from chatcore import wire
from chatcore.tools import JsonObject, ToolResult

Content = types.TextContent | types.ImageContent | types.AudioContent | types.ResourceLink | types.EmbeddedResource
Contents = types.TextResourceContents | types.BlobResourceContents

_IMAGE = re.compile(r"image/[a-z0-9][a-z0-9.+-]{0,60}", re.IGNORECASE)


def tool_result(answer: types.CallToolResult) -> ToolResult:
    """The parts of the answer, joined by newlines; its structured content where there is no part."""
    if not answer.content and answer.structured_content is not None:
        return ToolResult(wire.dumps(answer.structured_content).decode(), answer.is_error)
    return joined(map(part, answer.content), answer.is_error)


def joined(results: Iterable[ToolResult], is_error: bool = False) -> ToolResult:
    """Several results as one."""
    every = list(results)
    parts = tuple(part for result in every for part in result.parts)
    return ToolResult("\n".join(result.text for result in every), is_error, parts)


def part(content: Content) -> ToolResult:
    """One part of an answer. What is no text is named in the text, so that the model knows of it."""
    match content:
        case types.TextContent():
            return ToolResult(content.text)
        case types.ImageContent():
            return _file(content.mime_type, content.data)
        case types.AudioContent():
            return _file(content.mime_type, content.data)
        case types.EmbeddedResource():
            return resource(content.resource)
    return ToolResult(wire.dumps(content.model_dump(mode="json", by_alias=True, exclude_none=True)).decode())


def resource(contents: Contents) -> ToolResult:
    """What a resource holds, with its address."""
    if isinstance(contents, types.TextResourceContents):
        return ToolResult(f"[{contents.uri}]\n{contents.text}")
    return _file(contents.mime_type or "application/octet-stream", contents.blob, f"{contents.uri}, ")


def _file(media_type: str, data: str, address: str = "") -> ToolResult:
    """A file in base64. Clients are given images; of anything else the model and they learn that it was there."""
    try:
        size = len(base64.b64decode(data, validate=True))
    except binascii.Error:
        return ToolResult(f"[{address}{media_type}: its data are not base64]")
    note = f"[{address}{media_type}, {size} bytes]"
    if not _IMAGE.fullmatch(media_type):
        return ToolResult(note)
    image: JsonObject = {"type": "image_url", "image_url": {"url": f"data:{media_type.lower()};base64,{data}"}}
    return ToolResult(note, parts=(image,))


def needs_input(answer: types.InputRequiredResult) -> ToolResult:
    """What the model reads of a tool that wants to ask somebody before it goes on."""
    wanted = ", ".join(sorted({request.method for request in (answer.input_requests or {}).values()}))
    return ToolResult(f"This tool asks for more ({wanted}), which chatcore does not pass on. It has not run.", True)


def lines(entries: Iterable[tuple[str, str | None, str | None]]) -> ToolResult:
    """A list of things, each with its name, a title and a description."""
    return ToolResult("\n".join(_line(*entry) for entry in entries) or "There are none.")


def _line(name: str, title: str | None, description: str | None) -> str:
    about = " – ".join(" ".join(text.split()) for text in (title, description) if text)
    return f"{name}: {about}" if about else name


def conversation(messages: Iterable[types.PromptMessage]) -> ToolResult:
    """The messages of a prompt, each with who says it."""
    said = []
    for message in messages:
        content = part(message.content)
        said.append(ToolResult(f"{message.role}: {content.text}", parts=content.parts))
    return joined(said)
