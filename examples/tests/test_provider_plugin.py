"""The model of `provider_plugin.py`."""

from logging import getLogger
from pathlib import Path

import pytest

from chatcore.database import Database
from chatcore.hooks import Context
from chatcore.testing.contracts import ProviderContract
from chatcore.testing.scripted import ScriptedProvider


@pytest.fixture
def markov(load_example):
    return load_example("provider_plugin")


class TestMarkovProvider(ProviderContract):
    """What every provider keeps."""

    @pytest.fixture
    def provider(self, load_example):
        plugin = load_example("provider_plugin")
        [provider] = plugin(
            Context("markov", plugin.settings_class(), Path(), Database("unused.db"), getLogger())
        ).register_providers()
        return provider


async def test_the_model_goes_on_with_what_was_said(make_chat, markov, tmp_path):
    """Each word follows the two before it as in the text, until the text ends."""
    file = tmp_path / "text.txt"
    file.write_text("one two three four")
    chat = await make_chat(markov, text=str(file))
    reply = await chat.say("say one two", model="markov")
    assert reply.text == "three four "
    assert reply.named("metadata")[0].data["finish_reason"] == "stop"
    assert reply.named("metadata")[0].data["usage"]["completion_tokens"] == 2


async def test_the_same_seed_gives_the_same_answer(make_chat, markov):
    """`seed` and `max_tokens` count as they do with other models."""
    chat = await make_chat(markov)
    replies = [await chat.say("The", model="markov", seed=7, max_tokens=12) for _ in range(2)]
    assert replies[0].text == replies[1].text
    assert len(replies[0].text.split()) <= 12
    cut = await chat.say("The server", model="markov", max_tokens=1)
    assert cut.named("metadata")[0].data["finish_reason"] == "length"


async def test_the_model_is_in_the_catalogue_and_gets_no_tools(make_chat, markov):
    """It says that it cannot call tools, so it is offered none."""
    chat = await make_chat(markov)
    response = await chat.client.get("/api/models", params={"search": "markov"})
    assert [entry["id"] for entry in response.json()["data"]] == ["markov"]


@pytest.mark.parametrize("content", [None, b"two words", b"\xff\xfe\x00"])
async def test_a_text_that_cannot_be_learnt_turns_the_plugin_off(make_chat, markov, tmp_path, content):
    """A missing, short or unreadable file is a state with a remedy; the server runs without the plugin."""
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    chat = await make_chat(markov, provider=ScriptedProvider(), config={"strict": False}, text=str(file))
    plugins = (await chat.client.get("/api/plugins")).json()["plugins"]
    [row] = [row for row in plugins if row["name"] == "markov"]
    assert row["state"] == "off"
    assert "set 'text'" in row["reason"]
