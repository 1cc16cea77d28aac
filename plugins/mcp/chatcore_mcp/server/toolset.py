"""What chatcore offers as an MCP server: tools that ask its models, and, if its operator wants that, all its tools."""

import asyncio
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

import attrs

from chatcore import wire
from chatcore.errors import ToolFailed
from chatcore.hooks import Host
from chatcore.tools import Invocation, JsonObject, Question, QuestionAnswer, Tool, ToolCall, ToolResult
from chatcore.types import Principal
from chatcore_mcp.server.models import Models


class Client(Protocol):
    """Who has called a tool, and can be told and asked something while it runs."""

    def progress(self, message: str, done: float | None = None, of: float | None = None) -> None:
        """As `Invocation.progress`."""

    async def ask(self, question: Question) -> QuestionAnswer:
        """As `Invocation.ask`."""


@attrs.frozen
class ServedTool:
    """A tool as it is offered. `gives_object`: its text is a JSON object, which is of use as such."""

    tool: Tool
    timeout: float | None = None
    gives_object: bool = False

    async def call(self, arguments: JsonObject, principal: Principal, client: Client | None = None) -> ToolResult:
        """Calls the tool for somebody. Whatever goes wrong is a result that can be read."""
        call = ToolCall(f"call_{uuid.uuid4().hex}", self.tool.name, wire.dumps(arguments).decode())
        invocation = Invocation(call, arguments, principal.id, conversation_id="", run_id="")
        try:
            async with asyncio.timeout(self.timeout) as limit:
                if client is not None:
                    ask = partial(self._ask, client, limit)
                    invocation = attrs.evolve(invocation, progress=client.progress, ask=ask)
                return await self.tool.run(invocation)
        except TimeoutError:
            return ToolResult(f"{self.tool.name} did not answer within {self.timeout:g} seconds.", True)
        except ToolFailed as error:
            return ToolResult(error.message, True)
        except Exception as error:  # noqa: BLE001  a tool is foreign code: its failure is an answer, not the server's
            return ToolResult(f"{self.tool.name} failed: {type(error).__name__}: {error}", True)

    async def _ask(self, client: Client, limit: asyncio.Timeout, question: Question) -> QuestionAnswer:
        """Asks. The tool's time begins anew with the answer."""
        limit.reschedule(None)
        answer = await client.ask(question)
        if self.timeout is not None:
            limit.reschedule(asyncio.get_running_loop().time() + self.timeout)
        return answer


class Toolset:
    """The tools that are offered now."""

    def __init__(self, host: Host, *, share: bool, allows: Callable[[Tool, Principal], bool]) -> None:
        """`share`: offer the tools of all plugins, too, as far as nobody has to consent to their calls, and they are
        for who asks: `allows` says so."""
        models = Models(host)
        self._host = host
        self._share = share
        self._allows = allows
        self._own = {
            "chat.completions": ServedTool(Tool.of(models.completions, open_world=True), gives_object=True),
            "llm_chat": ServedTool(Tool.of(models.llm_chat, open_world=True)),
        }

    @property
    def patience(self) -> float:
        """For how many seconds a question of a tool waits for its answer."""
        return self._host.limits.approval_timeout

    async def tools(self, principal: Principal) -> Mapping[str, ServedTool]:
        """Those for somebody, by name. Of two with the same name the server's own counts."""
        shared = await self._host.tools() if self._share else {}
        limit = self._host.limits.tool_timeout
        given = {name: tool for name, tool in shared.items() if self._allows(tool, principal)}
        return {name: ServedTool(tool, tool.timeout or limit) for name, tool in given.items()} | self._own
