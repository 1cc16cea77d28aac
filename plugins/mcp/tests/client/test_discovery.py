"""Servers that are added while chatcore runs. What the routes show of it is in test_routes."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from chatcore_mcp.discovery import Discovery
from chatcore_mcp.ports import Ports

from .test_outbound import running


@pytest.fixture
def url() -> Iterator[str]:
    with running() as url:
        yield url


async def test_what_another_worker_has_entered_stays(bench, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    """Another server of the same name keeps its entry, the same server is not entered twice: the file decides, not what
    is known of it."""
    monkeypatch.setattr("chatcore_mcp.servers.WATCH", 3600.0)
    made = await bench({})
    discovery = Discovery(made.servers, Ports(tmp_path / "none", logging.getLogger("ports")))
    other = {"raw-http": {"command": ["theirs"]}}
    made.write(other)
    server = await discovery.connect(f"{url}/mcp")
    assert server.id == f"127.0.0.1-{url.rpartition(':')[2]}"
    entries = json.loads(made.path.read_text())["mcpServers"]
    assert entries == {**other, server.id: {"url": f"{url}/mcp", "added_over_http": True}}
    made.write({**entries, "same": {"url": f"{url}/modern"}})
    assert (await discovery.connect(f"{url}/modern")).id == "same"
