"""The plugin in a running server, and its command."""

import asyncio
from pathlib import Path
from typing import Any

import attrs
import pytest
from chatcore_openrouter import OpenRouter, Settings
from chatcore_openrouter.command import make_group
from chatcore_openrouter.provider import make_provider
from click.testing import CliRunner, Result

from chatcore.secrets import Secret
from chatcore.testing.chat import running_chat
from chatcore.testing.upstream import FakeUpstream, Reply

HELLO = (
    b'data: {"id":"gen-1","model":"openai/gpt-4o","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
    b'data: {"id":"gen-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


async def test_a_server_with_it_answers(tmp_path: Path) -> None:
    """An id that no other provider claims is OpenRouter's; chunks are passed on as they are; the record is there."""
    async with FakeUpstream() as upstream:
        upstream.answer(Reply.sse(HELLO))
        upstream.route("/generation", Reply.json({"data": {"id": "gen-1", "total_cost": 0.1}}))
        settings = {"api_key": "sk-or-v1-x", "base_url": upstream.url}
        async with running_chat(tmp_path, OpenRouter, settings=settings) as chat:
            reply = await chat.say("Hi", model="openai/gpt-4o")
            assert reply.text == "Hello"
            assert reply.named("message")[0].data["id"] == "gen-1"
            assert upstream.requests[0].json["model"] == "openai/gpt-4o"

            models = (await chat.client.get("/api/models")).json()["data"]
            assert "fake/model" in [model["id"] for model in models]
            assert (await chat.client.get("/api/chat/generation/gen-1")).json()["data"]["total_cost"] == 0.1


async def test_without_a_key_it_is_off(tmp_path: Path) -> None:
    """The server starts without it; the list of plugins has the remedy."""
    async with running_chat(tmp_path, OpenRouter, config={"strict": False}) as chat:
        rows: list[Any] = (await chat.client.get("/api/plugins")).json()["plugins"]
    [row] = [row for row in rows if row["name"] == "openrouter"]
    assert row["state"] == "off"
    assert "set OPENROUTER_API_KEY" in row["reason"]


def test_the_readme_has_every_setting() -> None:
    """With its names in the environment, its default and what it is."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    headings = [line for line in readme.splitlines() if line.startswith("## ")]
    assert headings == ["## What it adds", "## Install", "## Settings", "## Try it", "## Remove it"]
    for field in attrs.fields(Settings):
        [row] = [line for line in readme.splitlines() if line.startswith(f"| `{field.name}` |")]
        assert all(f"`{name}`" in row for name in field.metadata["env"])
        assert field.metadata["help"] in row


# --- the command ---


async def run(*arguments: str, status: int = 200, key: str | None = "sk-or-v1-x") -> Result:
    """What the command says against a fake of OpenRouter."""
    endpoints = [
        {"provider_name": "Azure", "context_length": 128000, "pricing": {"prompt": "0.00000015", "completion": 1}},
        {"pricing": {"prompt": "free"}},
        {"provider_name": None, "pricing": {"prompt": "-1", "completion": "-1"}},
    ]
    async with FakeUpstream() as upstream:
        upstream.route("/models/a/b/endpoints", Reply.json({"data": {"endpoints": endpoints}}))
        upstream.route(
            "/key", Reply.json({"data": {"label": "sk-or-v1-x...y", "limit": 5, "usage": 1.25}}, status=status)
        )
        settings = Settings(api_key=key and Secret(key), base_url=upstream.url)
        group = make_group(lambda: make_provider(settings))
        return await asyncio.to_thread(CliRunner().invoke, group, arguments)


async def test_the_key() -> None:
    """Its limit and what it has used."""
    result = await run("key")
    assert (result.exit_code, result.output) == (0, "sk-or-v1-x...y: $1.2500 used, $5.00\n")


async def test_the_endpoints_of_a_model() -> None:
    """Who runs it, how much it takes, and what a million tokens cost."""
    result = await run("endpoints", "a/b")
    assert result.exit_code == 0
    first, second, router = result.output.splitlines()
    assert first.split() == ["Azure", "128000", "0.15", "in", "1000000.00", "out"]
    assert second.split() == ["?", "?", "in", "?", "out"]
    assert router.split() == ["?", "varies", "in", "varies", "out"]


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (["key"], {"status": 401}, "Error: openrouter: "),
        (["key"], {"key": None}, "Error: set OPENROUTER_API_KEY\nKeys are made at "),
        (["endpoints", "no/such"], {}, "Error: openrouter: the fake has no reply for /models/no/such/endpoints"),
    ],
)
async def test_errors_of_the_command(arguments: list[str], options: dict[str, Any], said: str) -> None:
    """One sentence and what to do, no traceback."""
    result = await run(*arguments, **options)
    assert result.exit_code == 1
    assert result.output.startswith(said)
