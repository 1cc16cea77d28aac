"""MCP servers that come with the plugin: `python -m chatcore_mcp.bundled.NAME`, on stdio or with `--http PORT`."""
