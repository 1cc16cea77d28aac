"""The application (chatcore/app.py): what happens around a view, and how its errors are answered."""

import asyncio
import logging
import threading
from collections.abc import Iterable

import attrs
import pytest
from quart import Blueprint, websocket
from quart.testing.connections import WebsocketResponseError

from chatcore.access import authenticated, public
from chatcore.hooks import Context, NoSettings, Plugin, hookimpl
from chatcore.protocols import Authenticator, Credentials
from chatcore.testing.scripted import ScriptedProvider, text
from chatcore.types import Turn, TurnResult


class Rooms(Plugin[NoSettings]):
    """Has routes of all kinds."""

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        outer, inner = Blueprint("outer", __name__), Blueprint("inner", __name__)

        @inner.get("/inner")
        @public
        async def get_inner():
            return "here"

        @outer.websocket("/talk")
        @authenticated
        async def talk():
            if websocket.args.get("break"):
                raise OSError("the microphone is gone")
            await websocket.send("hello")

        outer.register_blueprint(inner)
        yield outer


async def test_a_blueprint_may_have_others_in_it(make_chat):
    """Their routes are the plugin's, as its own are."""
    chat = await make_chat(Rooms)
    answer = await chat.client.get("/inner")
    assert (answer.status_code, answer.text) == (200, "here")
    charges = {(c.plugin, c.what): c.calls for c in chat.app.extensions["chatcore"].registry.calls.charges()}
    assert charges["rooms", "route outer.inner.get_inner"] == 1


async def test_a_websocket_is_on_its_plugins_account(make_chat):
    """As any other route."""
    chat = await make_chat(Rooms)
    async with chat.app.test_client().websocket("/talk", headers={"Host": "localhost"}) as connection:
        assert await connection.receive() == "hello"
    charges = {(c.plugin, c.what): c.calls for c in chat.app.extensions["chatcore"].registry.calls.charges()}
    assert charges["rooms", "route outer.talk"] == 1


async def test_the_routes_of_a_plugin_that_was_taken_out_are_gone(make_chat):
    """Those of WebSockets, too."""
    chat = await make_chat(Rooms)
    await chat.app.extensions["chatcore"].plugins.unload("rooms")
    assert (await chat.client.get("/inner")).status_code == 404
    with pytest.raises(WebsocketResponseError) as refused:
        async with chat.app.test_client().websocket("/talk", headers={"Host": "localhost"}) as connection:
            await connection.receive()
    assert refused.value.response.status_code == 404


async def test_a_websocket_that_fails_is_logged(make_chat, caplog):
    """With the reason, and for what it was asked."""
    chat = await make_chat(Rooms)
    with pytest.raises(WebsocketResponseError) as failed:
        async with chat.app.test_client().websocket("/talk?break=1", headers={"Host": "localhost"}) as connection:
            await connection.receive()
    assert failed.value.response.status_code == 500
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "GET /talk failed"
    assert "the microphone is gone" in caplog.text


async def test_errors_are_answered_while_all_threads_are_busy(make_chat):
    """The threads are for what waits; an error waits for nothing."""
    chat = await make_chat()
    free = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(free.wait, 30)) for _ in range(100)]
    try:
        answer = await chat.client.get("/api/chat/runs/none/events", timeout=5)
        assert answer.status_code == 404
        assert (await chat.client.get("/nowhere", timeout=5)).status_code == 404
    finally:
        free.set()
        await asyncio.gather(*busy)


class Broken(Plugin[NoSettings]):
    """Has an authenticator that fails."""

    name = "broken"

    @hookimpl
    def register_auth(self) -> Iterable[Authenticator]:
        yield self

    async def authenticate(self, credentials: Credentials) -> None:
        raise ZeroDivisionError("its own fault")


async def test_an_authenticator_that_fails_takes_no_public_page_with_it(make_chat, caplog):
    """Whoever asks is a stranger there; what needs somebody fails, and the log says why."""
    chat = await make_chat(Broken)
    answer = await chat.client.get("/health")
    assert answer.status_code == 200
    assert "providers" not in answer.json()
    assert "who asks for /health is not known: an authenticator has failed" in caplog.text
    assert "its own fault" in caplog.text
    assert (await chat.client.get("/api/models")).status_code == 500


class Zeta(Plugin[NoSettings]):
    """Another gateway, which comes after the scripted one."""

    def __init__(self, context: Context[NoSettings]) -> None:
        super().__init__(context)
        self.provider = ScriptedProvider([text("from the other one")])
        self.provider.name = "other"

    @hookimpl
    def register_providers(self) -> list[ScriptedProvider]:
        return [self.provider]


async def test_the_default_provider_serves_what_several_could(make_chat):
    """A turn, and not only the question which it is."""
    chat = await make_chat(Zeta, config={"default_provider": "other"})
    reply = await chat.say("hi", model="vendor/large")
    assert reply.text == "from the other one"
    assert not chat.provider.requests


class Switch(Plugin[NoSettings]):
    """Asks another model than the one that was named."""

    def __init__(self, context: Context[NoSettings]) -> None:
        super().__init__(context)
        self.ended: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()

    @hookimpl
    async def prepare_turn(self, turn: Turn) -> Turn:
        return attrs.evolve(turn, model="echo")

    @hookimpl
    async def finish_turn(self, turn: Turn, result: TurnResult) -> None:
        self.ended.set_result(turn)


async def test_a_turn_knows_who_answers_it(make_chat):
    """Also when a plugin has chosen another model."""
    chat = await make_chat(Switch)
    await chat.say("hi", model="scripted/model")
    [switch] = [row.plugin for row in chat.app.extensions["chatcore"].plugins.rows if row.name == "switch"]
    turn = await asyncio.wait_for(switch.ended, 10)
    assert (turn.model, turn.provider) == ("echo", "echo")
