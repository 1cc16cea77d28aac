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
from chatcore.app import create_app, error_response, opened
from chatcore.config import Config, Loaded
from chatcore.database import Database, tables
from chatcore.errors import ConfigError, PluginError, Problem, ValidationFailed
from chatcore.hooks import Context, NoSettings, Plugin, hookimpl
from chatcore.plugins import find
from chatcore.protocols import Authenticator, Credentials
from chatcore.runs.upkeep import Upkeep
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

        @inner.get("/nothing")
        @public
        async def get_nothing():
            return None

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


async def test_a_view_whose_answer_is_none_is_told_with_its_plugin(make_chat, caplog):
    """As one that fails: the client learns no more than that the reason is in the log."""
    chat = await make_chat(Rooms)
    answer = await chat.client.get("/nothing")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "The request failed" in answer.json()["detail"]
    assert "plugin rooms: GET /nothing failed: TypeError: The response value" in caplog.text


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
    """With the reason, whose it was, and for what it was asked."""
    chat = await make_chat(Rooms)
    with pytest.raises(WebsocketResponseError) as failed:
        async with chat.app.test_client().websocket("/talk?break=1", headers={"Host": "localhost"}) as connection:
            await connection.receive()
    assert failed.value.response.status_code == 500
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == "plugin rooms: GET /talk failed"
    assert "the microphone is gone" in caplog.text


class Stalled(Plugin[NoSettings]):
    """Has a store of files that does not answer."""

    asked = asyncio.Event()

    @hookimpl
    def register_storage(self):
        yield self

    name = "stalled"

    async def delete(self, key, *_):
        self.asked.set()
        await asyncio.Event().wait()

    put = get = url = delete


ORPHAN = "INSERT INTO attachment VALUES ('a', NULL, 'a.png', 'image/png', 'a.png', 1, 0)"


async def test_a_store_that_does_not_answer_keeps_no_server_from_starting(tmp_path, monkeypatch):
    """Files of deleted conversations are removed when it serves, and are in nobody's way when it ends."""
    monkeypatch.setattr("chatcore.runs.upkeep.LEASE", 0.3)
    database = Database(str(tmp_path / "chatcore.db"))
    await database.open()
    await database.write(lambda: tables.execute(ORPHAN))
    await database.close()
    config = Config(data=tmp_path, blob_store="stalled")
    app = create_app(Loaded(config=config), plugins=[("stalled", Stalled)], discover=False)
    async with asyncio.timeout(10), opened(app):
        await Stalled.asked.wait()


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


@pytest.mark.parametrize(
    ("path", "loc"),
    [
        ("$", ["body"]),
        ("$.messages[0].role", ["body", "messages", 0, "role"]),
        ("$['max-tokens']", ["body", "max-tokens"]),
        ("$.a['b.c[d]'][1]", ["body", "a", "b.c[d]", 1]),
        ('$["it\'s"]', ["body", "it's"]),
        ("$.query.limit", ["query", "limit"]),
    ],
)
async def test_what_is_wrong_is_told_with_its_place_in_pieces(path, loc):
    """A key is one piece, whatever is in it."""
    answer = await error_response(ValidationFailed([Problem(path, "is not known")])).get_json()
    assert [problem["loc"] for problem in answer["detail"]] == [loc]


NOTES = """
import peewee
from chatcore.hooks import NoSettings, Plugin, hookimpl

class Note(peewee.Model): ...

class Shelf:
    name = "shelf"
    async def put(self, blob, data): ...
    async def get(self, key): ...
    async def url(self, key, expires): ...
    async def delete(self, key): ...

class Notes(Plugin[NoSettings]):
    "Keeps notes."

    tables = (Note,)

    @hookimpl
    def register_storage(self):
        yield Shelf()
"""


@pytest.fixture
def notes(tmp_path):
    """An app with a plugin whose migration fails."""
    directory = tmp_path / "plugins"
    (directory / "migrations").mkdir(parents=True)
    (directory / "notes.py").write_text(NOTES)
    (directory / "migrations" / "0001_notes.py").write_text("def up(migrator, db):\n    raise OSError('no')\n")
    installed = tuple(one.name for one in find())

    def make(**config):
        values = {"data": tmp_path, "plugins_dir": directory, "disable": installed, **config}
        return create_app(Loaded(config=Config(**values)))

    return make


async def test_a_plugin_whose_migration_fails_is_a_row(notes):
    """The server runs without it."""
    app = notes()
    async with opened(app):
        state = app.extensions["chatcore"]
        [row] = [row for row in state.plugins.rows if row.name == "notes"]
        assert (row.state, row.reason) == ("failed", "the migrations of notes failed and were undone: no")
        assert list(state.registry.blob_stores) == ["disk"]


@pytest.mark.parametrize(
    ("config", "error", "said"),
    [
        ({"strict": True}, PluginError, "plugin notes .* is failed: the migrations of notes failed"),
        ({"blob_store": "shelf"}, ConfigError, "there is no blob store 'shelf'; there are: disk"),
    ],
)
async def test_a_migration_that_fails_stops_the_start_where_its_plugin_is_needed(notes, config, error, said):
    """With strict, and where the plugin has what the configuration names."""
    with pytest.raises(error, match=said):
        async with opened(notes(**config)):
            pass


async def test_work_beside_the_requests_that_fails_is_told_of_at_once(tmp_path, monkeypatch, caplog):
    """Not when the server ends, which ends as it should."""

    async def keep(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Upkeep, "keep", keep)
    async with asyncio.timeout(10), opened(create_app(Loaded(config=Config(data=tmp_path)), discover=False)):
        while "ZeroDivisionError: a bug" not in caplog.text:
            await asyncio.sleep(0)
