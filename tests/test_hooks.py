"""The hooks of a turn: in order, isolated, timed; and what can be said about all hooks."""

import asyncio
import re
import shutil
from pathlib import Path

import attrs
import pytest

from chatcore.config import Config, Loaded
from chatcore.database import Database
from chatcore.errors import Forbidden, RequestError
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.plugins import Plugins, find
from chatcore.types import LOCAL, Limits, Message, Principal, Turn, TurnResult

BAD = Path(__file__).with_name("plugins_bad")
TURN = Turn(id="r", principal=LOCAL, conversation_id="c", model="m", provider="p", history=())
RESULT = TurnResult(state="completed", reason="stop")


@pytest.fixture
def load(tmp_path):
    """Loads plugin classes under given names, in alphabetical or a given order."""

    def loader(order=(), **classes):
        loaded = Loaded(config=Config(data=tmp_path, order=order))
        return Plugins.load(loaded, Database(str(tmp_path / "db")), given=classes.items(), discover=False)

    return loader


@pytest.fixture
def load_bad(tmp_path):
    """Loads one of the files in plugins_bad."""

    def loader(name):
        shutil.copy(BAD / f"{name}.py", tmp_path)
        config = Config(data=tmp_path, plugins_dir=tmp_path, disable=tuple(one.name for one in find()))
        return Plugins.load(Loaded(config=config), Database(str(tmp_path / "db")))

    return loader


def appending(word):
    """A plugin that adds a word to the turn's model."""

    class Appending(Plugin[NoSettings]):
        @hookimpl
        async def prepare_turn(self, turn):
            await asyncio.sleep(0)
            return attrs.evolve(turn, model=f"{turn.model}-{word}")

    return Appending


def preparing(function):
    """A plugin whose prepare_turn is this function of the turn."""

    class Preparing(Plugin[NoSettings]):
        @hookimpl
        async def prepare_turn(self, turn):
            return function(turn)

    return Preparing


def raising(error):
    """A plugin that raises this in prepare_turn."""

    def fail(turn):
        raise error

    return preparing(fail)


# --- prepare_turn -----------------------------------------------------------------------------------------------------


async def test_each_plugin_sees_what_the_one_before_it_made(load):
    """By name, where nothing else is configured."""
    plugins = load(b=appending("b"), a=appending("a"), c=appending("c"))
    assert (await plugins.prepare(TURN)).model == "m-a-b-c"


async def test_the_order_of_the_chain_is_that_of_the_configuration(load):
    """Those that are not named follow by name."""
    plugins = load(order=("c", "a"), a=appending("a"), b=appending("b"), c=appending("c"))
    assert (await plugins.prepare(TURN)).model == "m-c-a-b"


async def test_a_plugin_may_leave_the_turn_as_it_is(load):
    """None changes nothing."""
    assert await load(a=preparing(lambda turn: None)).prepare(TURN) is TURN


async def test_without_plugins_a_turn_is_as_it_was(load):
    """And the end of it is told to nobody."""
    plugins = load()
    assert await plugins.prepare(TURN) is TURN
    await plugins.finish(TURN, RESULT)


@pytest.mark.parametrize("refusal", [RequestError("too long"), Forbidden("not you")])
async def test_a_plugin_may_refuse_a_turn(load, refusal, caplog):
    """The client gets its error; plugins after it are not asked, and nothing is logged."""
    asked = []
    plugins = load(a=raising(refusal), b=preparing(asked.append))
    with pytest.raises(type(refusal)) as caught:
        await plugins.prepare(TURN)
    assert caught.value is refusal
    assert not asked
    assert not caplog.records


async def test_a_failing_plugin_does_not_fail_the_turn(load, caplog):
    """The others are asked, and the log names plugin, hook, file, error and remedy."""
    plugins = load(a=appending("a"), b=raising(KeyError("oops")), c=appending("c"))
    assert (await plugins.prepare(TURN)).model == "m-a-c"
    (record,) = caplog.records
    for part in ("plugin b", "prepare_turn", f"{__file__}:", "KeyError: 'oops'", 'disable = ["b"]'):
        assert part in record.getMessage()
    assert record.exc_info


@pytest.mark.parametrize("wrong", [{"model": "x"}, "turn", Turn, 0, False])
async def test_an_answer_of_the_wrong_type_is_not_taken(load, wrong, caplog):
    """It is told as a failure of that plugin."""
    plugins = load(a=preparing(lambda turn: wrong), b=appending("b"))
    assert (await plugins.prepare(TURN)).model == "m-b"
    assert f"it gave {type(wrong).__name__}, wanted Turn or None" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"tools": None},
        {"tools": {"dice": "roll"}},
        {"history": None},
        {"history": "hello"},
        {"history": ["hello"]},
        {"parameters": []},
        {"limits": None},
        {"model": 5},
        {"notices": ["look"]},
        {"stopped_for": 5},
        {"hidden": None},
        {"id": "another"},
        {"principal": Principal("somebody")},
        {"conversation_id": "another"},
    ],
    ids=str,
)
async def test_a_turn_with_wrong_fields_is_not_taken(load, wrong, caplog):
    """It would fail where nobody knows whose fault it is. Nor may a plugin make it somebody else's."""
    plugins = load(a=preparing(lambda turn: attrs.evolve(turn, **wrong)), b=appending("b"))
    assert (await plugins.prepare(TURN)).model == "m-b"
    (field,) = wrong
    assert re.search(rf"it (gave a turn with|changed the turn's) {field}", caplog.text)


@pytest.mark.parametrize(
    "changed",
    [
        {"history": [Message(role="user", content="hello")]},
        {"hidden": {"dice"}},
        {"parameters": {"temperature": 0}},
        {"stopped_for": "no_consent"},
        {"metadata": {"seen": object()}},
        {"limits": Limits(hops=1)},
    ],
    ids=["history", "hidden", "parameters", "stopped_for", "metadata", "limits"],
)
async def test_what_is_as_good_as_declared_is_taken(load, changed, caplog):
    """A list for a tuple, a set for a frozen one."""
    turn = await load(a=preparing(lambda turn: attrs.evolve(turn, **changed))).prepare(TURN)
    assert all(getattr(turn, name) == value for name, value in changed.items())
    assert not caplog.records


@pytest.mark.parametrize("named", ["scripted", None])
async def test_a_plugin_may_choose_the_model_as_a_request_does(make_chat, named):
    """A provider's name stands for its default model, and none for that of the best provider."""
    chat = await make_chat(preparing(lambda turn: attrs.evolve(turn, model=named)))
    await chat.say("hello", model="echo")
    assert [request.model for request in chat.provider.requests] == ["scripted/model"]


async def test_a_cancelled_turn_is_cancelled_in_the_plugin(load):
    """A cancellation is not a failure: it goes through."""
    reached, ended = asyncio.Event(), asyncio.Event()

    class Waiting(Plugin[NoSettings]):
        @hookimpl
        async def prepare_turn(self, turn):
            reached.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    plugins = load(a=Waiting)
    task = asyncio.create_task(plugins.prepare(TURN))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    (charge,) = plugins.registry.calls.charges()
    assert (charge.calls, charge.failures, charge.running) == (1, 0, 0)


# --- finish_turn ------------------------------------------------------------------------------------------------------


async def test_all_are_told_of_the_end_together(load):
    """None waits for another one."""
    both = asyncio.Barrier(2)
    told = []

    class Meeting(Plugin[NoSettings]):
        @hookimpl
        async def finish_turn(self, turn, result):
            await both.wait()
            told.append((self.context.name, turn, result))

    await load(a=Meeting, b=Meeting).finish(TURN, RESULT)
    assert sorted(name for name, _, _ in told) == ["a", "b"]
    assert told[0][1:] == (TURN, RESULT)


async def test_a_plugin_that_fails_in_both_hooks_harms_nobody(load_bad, caplog):
    """Each failure is logged with its hook."""
    plugins = load_bad("fails_in_turns")
    assert await plugins.prepare(TURN) is TURN
    await plugins.finish(TURN, RESULT)
    prepared, finished = (record.getMessage() for record in caplog.records)
    assert "prepare_turn" in prepared
    assert "KeyError: 'prepared'" in prepared
    assert "finish_turn" in finished
    assert "KeyError: 'finished'" in finished
    assert {(c.what, c.calls, c.failures) for c in plugins.registry.calls.charges()} == {
        ("prepare_turn", 1, 1),
        ("finish_turn", 1, 1),
    }


# --- time -------------------------------------------------------------------------------------------------------------


async def test_a_hook_is_charged_for_its_time(load):
    """From its call to its end. (What blocks the event loop is the watchdog's to name.)"""

    class Waiting(Plugin[NoSettings]):
        @hookimpl
        async def prepare_turn(self, turn):
            await asyncio.sleep(0.02)

    plugins = load(a=Waiting)
    await plugins.prepare(TURN)
    assert plugins.registry.calls.charges()[0].seconds >= 0.02


class Hanging(Plugin[NoSettings]):
    """Hangs, before a turn and after it."""

    @hookimpl
    async def prepare_turn(self, turn):
        await asyncio.Event().wait()

    @hookimpl
    async def finish_turn(self, turn, result):
        await asyncio.Event().wait()


async def test_a_hook_that_hangs_has_failed(load, caplog):
    """After `hook_timeout` the others are asked; it is logged and counted as any other failure."""
    plugins = load(a=Hanging, b=appending("b"))
    turn = attrs.evolve(TURN, limits=Limits(hook_timeout=0.01))
    async with asyncio.timeout(10):
        assert (await plugins.prepare(turn)).model == "m-b"
        await plugins.finish(turn, RESULT)
    prepared, finished = (record.getMessage() for record in caplog.records)
    for hook, said in (("prepare_turn", prepared), ("finish_turn", finished)):
        assert hook in said
        assert "it did not end within 0.01 seconds" in said
        assert 'disable = ["a"]' in said
    charges = {(c.what, c.calls, c.failures, c.running) for c in plugins.registry.calls.charges() if c.plugin == "a"}
    assert charges == {("prepare_turn", 1, 1, 0), ("finish_turn", 1, 1, 0)}


async def test_a_time_limit_of_the_hooks_own_is_its_own(load, caplog):
    """What it raises is told as it is."""
    assert await load(a=raising(TimeoutError("the service is slow"))).prepare(TURN) is TURN
    assert "TimeoutError: the service is slow" in caplog.text


async def test_a_hook_that_cancels_itself_has_failed(load, caplog):
    """As when it awaits a task that somebody has cancelled: the turn is not stopped for that."""
    assert await load(a=raising(asyncio.CancelledError())).prepare(TURN) is TURN
    assert "it was cancelled by something of its own" in caplog.text


async def test_a_plugin_that_hangs_does_not_hold_an_answer(make_chat):
    """It comes without what the plugin would have done."""
    chat = await make_chat(Hanging, config={"hook_timeout": 0.05})
    async with asyncio.timeout(10):
        assert (await chat.say("hello")).text


# --- what can be said about hooks -------------------------------------------------------------------------------------


def test_every_hook_is_listed_with_its_implementers(load):
    """In the order of asking, with signature, colour and the first line of what it is for."""
    plugins = load(order=("b",), a=appending("a"), b=appending("b"))
    hooks = {hook.name: hook for hook in plugins.hooks()}
    assert list(hooks) == [
        "register_providers",
        "register_tools",
        "register_storage",
        "register_auth",
        "register_accounts",
        "register_routes",
        "register_lifespans",
        "register_commands",
        "prepare_turn",
        "finish_turn",
    ]
    prepare = hooks["prepare_turn"]
    assert prepare.implementers == ("b", "a")
    assert prepare.is_async
    assert "turn:" in prepare.signature
    assert prepare.summary.startswith("Changes a turn before the model is called")
    assert hooks["register_tools"].implementers == ()
    assert not hooks["register_tools"].is_async


def test_every_hook_says_what_it_is_for(load):
    """The class is the reference."""
    assert all(hook.summary for hook in load().hooks())
