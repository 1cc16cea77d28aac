"""`chatcore serve --reload` (chatcore/serving/reload.py)."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

PLUGIN = '''
from chatcore import NoSettings, Plugin


class Mine(Plugin[NoSettings]):
    """{summary}"""
'''


async def test_a_changed_plugin_restarts_the_server(
    start_server: Callable[..., Awaitable[Any]], tmp_path: Path
) -> None:
    """The same process, with the new code, after a file has changed."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    file = directory / "mine.py"
    file.write_text(PLUGIN.format(summary="Before."))
    server = await start_server("--reload", "--plugins-dir", str(directory), "--disable", "llama")
    file.write_text(PLUGIN.format(summary="After."))
    while server.log.count(b"listening on") < 2:
        await asyncio.sleep(0.05)
    url = server.log.decode().rpartition("listening on ")[2].split()[0]
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        rows = (await client.get("/api/plugins")).json()["plugins"]
    assert [row["summary"] for row in rows if row["name"] == "mine"] == ["After."]
    assert b"mine.py has changed: restarting" in server.log
