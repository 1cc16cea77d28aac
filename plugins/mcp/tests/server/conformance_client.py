"""chatcore's client, for the conformance suite: connects to the server at the URL that is the last argument.

It lists the tools and calls each as a model would that knows only their schemas; or as the suite says in
MCP_CONFORMANCE_CONTEXT.
"""

import asyncio
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatcore_mcp.servers import Options, Servers

from chatcore.addresses import Reach
from chatcore.errors import ToolFailed
from chatcore.tools import Invocation, ToolCall

SAMPLES = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "mcp_servers.json")
        file.write_text(json.dumps({"servers": [{"id": "suite", "url": url, "type": "http"}]}))
        asyncio.run(use(file))


async def use(file: Path) -> None:
    log = logging.getLogger("chatcore.plugin.mcp")
    servers = Servers(file, Options(reach=Reach(()), timeout=20, prefix=False, environ=os.environ, log=log))
    async with servers.session():
        [server] = servers
        await server.settled()
        print(server.state, server.problem, [tool.name for tool in servers.tools()], file=sys.stderr)
        await call_all(servers)


async def call_all(servers: Servers) -> None:
    tools = {tool.name: tool for tool in servers.tools()}
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    wanted = [(call["name"], call.get("arguments") or {}) for call in context.get("toolCalls", ())]
    for name, arguments in wanted or [(name, sample(tool.parameters)) for name, tool in tools.items()]:
        try:
            result = await tools[name].run(Invocation(ToolCall("1", name), arguments, "local", "", ""))
            print(name, result, file=sys.stderr)
        except ToolFailed as error:
            print(name, error.message, file=sys.stderr)


def sample(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: SAMPLES.get(properties[name].get("type"), "text") for name in schema.get("required", properties)}


main(sys.argv[-1])
