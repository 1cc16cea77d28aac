"""The examples work as their readers use them: one file each, named on the command line."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_there_is_an_example_of_each_kind():
    """A tool, a provider, an authenticator, an account and routes, and each has tests of its own."""
    kinds = {path.stem for path in EXAMPLES}
    assert kinds == {"tool_plugin", "provider_plugin", "authenticator_plugin", "account_plugin", "routes_plugin"}
    for path in EXAMPLES:
        assert (ROOT / "examples" / "tests" / f"test_{path.name}").is_file()


async def test_all_examples_run_in_one_server(start_server: Callable[..., Awaitable[Any]], tmp_path: Path):
    """With `--plugins-dir examples` they are on together; two say what they lack."""
    server = await start_server("--plugins-dir", str(ROOT / "examples"), "--disable", "llama")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        rows = {row["name"]: row for row in (await client.get("/api/plugins")).json()["plugins"]}
        states = {path.stem: rows[path.stem]["state"] for path in EXAMPLES}
        off = {"authenticator_plugin": "off", "account_plugin": "off"}
        assert states == {"tool_plugin": "on", "provider_plugin": "on", "routes_plugin": "on"} | off
        assert rows["authenticator_plugin"]["reason"].startswith("set 'proxies'")
        assert rows["account_plugin"]["reason"].startswith("set GITHUB_CLIENT_ID")
        body = {"model": "markov", "messages": [{"role": "user", "content": "The server"}], "max_tokens": 3}
        stream = (await client.post("/api/chat/stream", json=body)).text
        assert len(re.findall(r'"content":"\S+ "', stream)) in (1, 2, 3)
        assert "left" in (await client.post("/countdown", json={"start": 1, "pause": 0})).text


async def test_the_settings_of_an_example_are_read_from_the_file(
    start_server: Callable[..., Awaitable[Any]], tmp_path: Path
):
    """Under `[plugins.FILE]`, as its docstring says."""
    (tmp_path / "chatcore.toml").write_text('[plugins.authenticator_plugin]\nproxies = ["127.0.0.1"]\n')
    server = await start_server("--plugins-dir", str(ROOT / "examples"), "--disable", "llama")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await client.get("/api/plugins")).status_code == 401
        response = await client.get("/api/plugins", headers={"X-Forwarded-User": "ada"})
        assert json.loads(response.content)["plugins"]
