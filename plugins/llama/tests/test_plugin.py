"""The plugin in a running server."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from chatcore_llama import Llama, weights
from chatcore_llama.settings import Settings

from chatcore.database import Database
from chatcore.errors import PluginOff
from chatcore.hooks import Context
from chatcore.testing.chat import running_chat


@pytest.mark.usefixtures("smollm2")
async def test_a_server_with_it_answers(tmp_path: Path) -> None:
    """Health follows the model; the catalogue has it, free of charge; a message is answered by it."""
    async with running_chat(tmp_path, Llama) as chat:
        states = set()
        while "ready" not in states:
            health = (await chat.client.get("/health")).json()
            states.add(health["providers"]["llama"]["state"])
            assert health["status"] == "ok"
            await asyncio.sleep(0.01)
        assert states <= {"starting", "ready"}

        (model,) = [m for m in (await chat.client.get("/api/models")).json()["data"] if m["id"].startswith("llama/")]
        assert model["id"] == "llama/smollm2-135m-instruct"
        assert (model["context_length"], model["supports_tools"]) == (4096, False)

        reply = await chat.say("Say hello.", model=model["id"], max_tokens=5)
        assert reply.text
        assert "Error" not in reply.text
        assert str(weights.find(None, tmp_path)) not in str(reply.frames)


async def test_without_a_model_it_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server starts without it, and the list of plugins has the remedy."""
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    async with running_chat(tmp_path, Llama, config={"strict": False}) as chat:
        rows: list[Any] = (await chat.client.get("/api/plugins")).json()["plugins"]
        (row,) = [row for row in rows if row["name"] == "llama"]
        assert row["state"] == "off"
        assert "chatcore llama fetch" in row["reason"]


def test_its_command_is_there_without_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what gives the plugin one."""
    monkeypatch.setattr(weights, "PACKAGE", "no_such_package")
    plugin = Llama(Context("llama", Settings(), tmp_path, Database(str(tmp_path / "db")), logging.getLogger("llama")))
    (command,) = plugin.register_commands()
    assert command.name == "llama"
    with pytest.raises(PluginOff):
        list(plugin.register_providers())
