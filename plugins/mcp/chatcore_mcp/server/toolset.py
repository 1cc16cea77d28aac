"""What chatcore offers as an MCP server: tools that ask its models, and, if its operator wants that, all its tools."""

import asyncio
import uuid
from collections.abc import Mapping

import attrs

from chatcore import wire
from chatcore.errors import ToolFailed
from chatcore.hooks import Host
from chatcore.tools import Invocation, JsonObject, Tool, ToolCall, ToolResult
from chatcore.types import Principal
from chatcore_mcp.server.models import Models


@attrs.frozen
class ServedTool:
    """A tool as it is offered. `gives_object`: its text is a JSON object, which is of use as such."""

    tool: Tool
    timeout: float | None = None
    gives_object: bool = False

    async def call(self, arguments: JsonObject, principal: Principal) -> ToolResult:
        """Calls the tool for somebody. Whatever goes wrong is a result that can be read."""
        call = ToolCall(f"call_{uuid.uuid4().hex}", self.tool.name, wire.dumps(arguments).decode())
        invocation = Invocation(call, arguments, principal.id, conversation_id="", run_id="")
        try:
            async with asyncio.timeout(self.timeout):
                return await self.tool.run(invocation)
        except TimeoutError:
            return ToolResult(f"{self.tool.name} did not answer within {self.timeout:g} seconds.", True)
        except ToolFailed as error:
            return ToolResult(error.message, True)
        except Exception as error:  # noqa: BLE001  a tool is foreign code: its failure is an answer, not the server's
            return ToolResult(f"{self.tool.name} failed: {type(error).__name__}: {error}", True)


class Toolset:
    """The tools that are offered now."""

    def __init__(self, host: Host, *, share: bool) -> None:
        """`share`: offer the tools of all plugins, too, as far as nobody has to consent to their calls."""
        models = Models(host)
        self._host = host
        self._share = share
        self._own = {
            "chat.completions": ServedTool(Tool.of(models.completions, open_world=True), gives_object=True),
            "llm_chat": ServedTool(Tool.of(models.llm_chat, open_world=True)),
        }

    async def tools(self) -> Mapping[str, ServedTool]:
        """By name. Of two with the same name the server's own counts."""
        shared = await self._host.tools() if self._share else {}
        limit = self._host.limits.tool_timeout
        return {name: ServedTool(tool, tool.timeout or limit) for name, tool in shared.items()} | self._own
