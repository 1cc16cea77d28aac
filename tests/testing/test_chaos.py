"""The models of chaos: what their names mean, and what they put on the wire. `tests/faults` has what becomes of it."""

import asyncio
import time

import pytest

from chatcore.errors import ProviderRefused
from chatcore.testing.chaos import Chaos, ChaosProvider, models
from chatcore.testing.contracts import PluginContract, ProviderContract
from chatcore.testing.contracts.provider import read
from chatcore.types import Message, ModelRequest, TextDelta


class TestProvider(ProviderContract):
    """The provider `chaos`."""

    @pytest.fixture
    async def provider(self):
        async with ChaosProvider().session() as provider:
            yield provider

    @pytest.fixture
    def question(self):
        return asking("steady-3-0")


class TestPlugin(PluginContract):
    """The plugin that gives it."""

    plugin = Chaos


def asking(model):
    return ModelRequest(model=f"chaos/{model}", messages=(Message(role="user", content="Hello?"),))


# --- names ------------------------------------------------------------------------------------------------------------


def test_numbers_stand_behind_the_name():
    """All of them, some, or none; those that are not given are the ones that the catalogue shows."""
    assert models.reply_of("cut-137").drop_after == 137
    assert models.reply_of("cut").drop_after == 200
    assert models.reply_of("steady-7").pause == 0.05
    assert models.reply_of("steady-7-20").pause == 0.02
    assert models.reply_of("no-end").body == models.reply_of("no-done").body.partition(models._STOP)[0]


@pytest.mark.parametrize("name", ["", "nothing", "cut-", "cut--1", "cut-1-2", "split-1", "Cut", "cut-1.5", "listed"])
def test_other_names_mean_nothing(name):
    """Also those of functions that are no models."""
    assert models.reply_of(name) is None


async def test_every_listed_model_answers():
    """And is described in one sentence, with its numbers in place."""
    for model, description in models.listed():
        assert models.reply_of(model) is not None
        assert description.endswith(".")
        assert not set(description) & set("{}\n")
    assert ("cut-200", "The connection is closed after 200 bytes.") in models.listed()
    assert ("no-done", "A finish reason, and no `[DONE]`.") in models.listed()


async def test_the_catalogue_lists_them_all(make_chat):
    """With their descriptions, where pages and people look for models."""
    chat = await make_chat(Chaos)
    listed = {model["id"]: model for model in (await chat.client.get("/api/models")).json()["data"]}
    assert {f"chaos/{model}" for model, _ in models.listed()} <= listed.keys()
    assert listed["chaos/status-503"]["description"] == "An error with the status 503."


async def test_an_unknown_model_is_refused_with_the_names_of_the_others():
    """Whoever mistypes one sees what there is."""
    async with ChaosProvider().session() as provider:
        with pytest.raises(ProviderRefused, match="there is no model 'cud-1'; there are: steady-20-50, endless-10"):
            await read(provider, asking("cud-1"))


# --- on the wire ------------------------------------------------------------------------------------------------------


def test_each_byte_of_a_letter_that_is_not_ascii_is_a_piece():
    """Nothing else is split, and nothing is missing."""
    pieces = [*models.reply_of("split").pieces()]
    assert b"".join(pieces) == models.ANSWER
    assert [piece for piece in pieces if not piece.isascii()] == [b"%c" % byte for byte in "日本☕".encode()]


async def test_steady_pieces_say_when_they_were_sent():
    """So that whoever reads them knows how late they are; they come in their time."""
    async with ChaosProvider().session() as provider:
        started = time.time()
        sent = []
        async for events in provider.stream(asking("steady-5-20")):
            now = time.time()
            stamps = [event.raw for event in events if isinstance(event, TextDelta) and b"sent_at" in event.raw]
            sent += [float(raw.partition(b'"sent_at":')[2].rstrip(b"}")) for raw in stamps]
            assert all(started <= stamp <= now for stamp in sent)
    assert len(sent) == 5
    assert sent[-1] - sent[0] >= 4 * 0.018


async def test_the_server_of_the_models_lives_as_long_as_the_session():
    """It has a port of its own, and frees it; it does not keep what it was asked for ever."""
    async with ChaosProvider().session() as provider, ChaosProvider().session() as other:
        assert provider.upstream.url != other.upstream.url
        for _ in range(models_asked := 120):
            await read(provider, asking("empty"))
        assert len(provider.upstream.requests) < models_asked
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(provider.upstream.url.split(":")[2].split("/")[0]))
