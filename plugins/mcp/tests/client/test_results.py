"""What a server answers, as a tool's result."""

import mcp_types as types
import pytest
from chatcore_mcp.results import tool_result

from chatcore.tools import ToolResult


def answer(*content, structured=None, error=False):
    return types.CallToolResult.model_validate(
        {"content": list(content), "structuredContent": structured, "isError": error}
    )


def text(value):
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (answer(text("one"), text("two")), ToolResult("one\ntwo")),
        (answer(text("no"), error=True), ToolResult("no", True)),
        (answer(), ToolResult("")),
        (answer(structured={"a": [1]}), ToolResult('{"a":[1]}')),
        (answer(text("said"), structured={"a": 1}), ToolResult("said")),
        (answer({"type": "audio", "mimeType": "audio/wav", "data": "AAAA"}), ToolResult("[audio/wav, 3 bytes]")),
        (
            answer({"type": "resource_link", "name": "n", "uri": "file:///n"}),
            ToolResult('{"name":"n","uri":"file:///n","type":"resource_link"}'),
        ),
        (
            answer({"type": "resource", "resource": {"uri": "file:///n", "text": "inside"}}),
            ToolResult("[file:///n]\ninside"),
        ),
        (
            answer({"type": "resource", "resource": {"uri": "file:///n", "blob": "AAAA"}}),
            ToolResult("[file:///n, application/octet-stream, 3 bytes]"),
        ),
    ],
)
def test_texts_are_joined_and_the_rest_is_named(given, wanted):
    """Structured content counts where there is nothing else."""
    assert tool_result(given) == wanted


@pytest.mark.parametrize(
    "content",
    [
        {"type": "image", "mimeType": "Image/PNG", "data": "AAAA"},
        {"type": "resource", "resource": {"uri": "x:y", "mimeType": "image/png", "blob": "AAAA"}},
    ],
)
def test_images_are_parts(content):
    """In the form in which clients show them; the model reads that there is one."""
    result = tool_result(answer(content))
    assert result.parts == ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},)
    assert result.text.lower().endswith("image/png, 3 bytes]")


@pytest.mark.parametrize(
    ("kind", "data"), [("image/png", "not base64!"), ("image/png,x", "AAAA"), ("text/html", "AAAA")]
)
def test_what_is_no_image_is_not_shown(kind, data):
    """Nothing of it becomes a part of a page."""
    assert tool_result(answer({"type": "image", "mimeType": kind, "data": data})).parts == ()
