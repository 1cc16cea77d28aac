"""The plugin: what it contributes."""

from chatcore import NoSettings, Plugin


class Mcp(Plugin[NoSettings]):
    """The tools of MCP servers."""
