"""A plugin for the conformance suite: tools by the names that the suite knows, as plugins have them."""

from collections.abc import Iterable

from chatcore.errors import ToolFailed
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.tools import Tool, ToolResult

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


class Samples(Plugin[NoSettings]):
    """Tools that the conformance suite calls."""

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        yield Tool.of(test_simple_text, read_only=True)
        yield Tool.of(test_image_content, read_only=True)
        yield Tool.of(test_error_handling)


async def test_simple_text() -> str:
    """Gives text."""
    return "This is a simple text response for testing."


async def test_image_content() -> ToolResult:
    """Gives an image."""
    return ToolResult("", parts=({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},))


async def test_error_handling() -> str:
    """Fails."""
    raise ToolFailed("This tool intentionally returns an error for testing")
