"""The contracts that every plugin and every tool source keeps."""

import json
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from chatcore_mcp import Mcp

from chatcore.testing.chat import running_chat
from chatcore.testing.contracts import PluginContract, ToolSourceContract
from chatcore.tools import JsonObject

RAW = Path(__file__).parent / "client" / "programs" / "raw.py"


class TestPlugin(PluginContract):
    plugin = Mcp


class TestTools(ToolSourceContract):
    @pytest_asyncio.fixture
    async def source(self, tmp_path: Path) -> AsyncIterator[object]:
        file = tmp_path / "mcp_servers.json"
        servers = {"raw": {"command": sys.executable, "args": [str(RAW), str(tmp_path / "log")]}}
        file.write_text(json.dumps({"mcpServers": servers}))
        async with running_chat(tmp_path / "data", Mcp, settings={"servers": file}) as chat:
            state = chat.app.extensions["chatcore"]
            found = state.registry.find("tool source", "mcp")
            assert found is not None
            await next(iter(found.value)).settled()
            assert found.value.tools()
            yield found.value

    @pytest.fixture
    def calls(self) -> Mapping[str, JsonObject]:
        return {"echo": {"text": "hello"}, "bad_json": {}, "slow": {"size": 50}}
