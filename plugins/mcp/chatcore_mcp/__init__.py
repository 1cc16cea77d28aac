"""The tools of MCP servers in every chat, and chatcore as an MCP server itself."""

from chatcore_mcp.plugin import Mcp

__all__ = ["Mcp"]
