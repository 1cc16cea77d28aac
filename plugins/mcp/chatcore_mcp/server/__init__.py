"""chatcore as an MCP server: at `/mcp`, and on standard input and output."""
