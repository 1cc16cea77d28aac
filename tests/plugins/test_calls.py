"""The account of calls into plugins."""

import asyncio
import sys

import pytest

from chatcore.errors import PluginError, RequestError
from chatcore.plugins.calls import MOST, Calls


def test_calls_are_counted_by_plugin_and_what_was_called():
    """With failures and seconds."""
    calls = Calls()
    for _ in range(2):
        with calls.charge("a", "tool x"):
            pass
    with pytest.raises(OSError, match="no"), calls.charge("a", "tool x"):
        raise OSError("no")
    with calls.charge("b", "tool x"):
        assert [c.running for c in calls.charges()] == [0, 1]
    assert [(c.plugin, c.calls, c.failures, c.running) for c in calls.charges()] == [("a", 3, 1, 0), ("b", 1, 0, 0)]


def test_there_is_a_bound_to_what_is_counted_by_itself():
    """What comes after that is counted together, for each plugin."""
    calls = Calls()
    for number in range(MOST + 5):
        with calls.charge("a", f"tool {number}"):
            pass
    for what in ("tool 0", "tool x", "tool y"):
        with calls.charge("a" if what == "tool 0" else "b", what):
            pass
    counted = {(c.plugin, c.what): c.calls for c in calls.charges()}
    assert len(counted) == MOST + 2
    assert (counted["a", "tool 0"], counted["a", "other"], counted["b", "other"]) == (2, 5, 2)


async def test_what_cannot_be_awaited_is_an_error_of_its_plugin():
    """Somebody has forgotten an 'async': the error says whose method it is, and what to write."""
    calls = Calls()
    with pytest.raises(PluginError, match="plugin a: authenticator door gave 5: write 'async def'"):
        await calls.run("a", "authenticator door", 5)
    assert [(charge.plugin, charge.failures) for charge in calls.charges()] == [("a", 1)]


async def test_a_coroutine_is_awaited_on_an_account():
    """Its answer and its error are as if it stood there."""

    async def work(error=None):
        await asyncio.sleep(0)
        if error:
            raise error
        return 42

    calls = Calls()
    assert await calls.run("a", "hook", work()) == 42
    with pytest.raises(LookupError, match="nothing"):
        await calls.run("a", "hook", work(LookupError("nothing")))
    assert (calls.charges()[0].calls, calls.charges()[0].failures) == (2, 1)


async def test_draining_waits_for_the_calls_of_one_plugin():
    """Those of others do not matter."""
    calls = Calls()
    end = asyncio.Event()
    first = asyncio.create_task(calls.run("a", "tool x", end.wait()))
    second = asyncio.create_task(calls.run("a", "tool y", end.wait()))
    other = asyncio.create_task(calls.run("b", "tool z", asyncio.Event().wait()))
    await asyncio.sleep(0)
    drained = asyncio.create_task(calls.drained("a", timeout=10))
    await asyncio.sleep(0)
    assert not drained.done()
    end.set()
    assert await drained
    await asyncio.gather(first, second)
    other.cancel()


async def test_draining_has_a_bound():
    """It gives False, and the call goes on."""
    calls = Calls()
    with calls.charge("a", "provider x"):
        assert await calls.drained("a", timeout=0.01) is False
    assert await calls.drained("a", timeout=0.01) is True
    assert await calls.drained("unheard", timeout=0.01) is True


def test_the_accounts_of_a_plugin_can_be_dropped():
    """Also while a call is under way, which ends without one."""
    calls = Calls()
    with calls.charge("a", "x"), calls.charge("b", "x"):
        calls.forget("a")
    assert [c.plugin for c in calls.charges()] == ["b"]


async def test_who_calls_exit_has_failed():
    """It would end the server, and everybody's answers with it."""
    calls = Calls()

    async def leave():
        sys.exit("usage: leave NAME")

    with pytest.raises(PluginError, match=r"plugin a: tool leave called exit\(\)") as failed:
        await calls.run("a", "tool leave", leave())
    assert isinstance(failed.value.__cause__, SystemExit)
    assert [(charge.calls, charge.failures, charge.running) for charge in calls.charges()] == [(1, 1, 0)]


class Panic(BaseException):
    """As libraries in Rust raise it: no Exception."""


async def test_a_library_that_panics_has_failed():
    """Who waits for the call learns of it as of any other failure."""
    calls = Calls()
    told = "plugin a: tool count raised Panic: index out of bounds"
    with pytest.raises(PluginError, match=told) as failed, calls.charge("a", "tool count"):
        raise Panic("index out of bounds")
    assert isinstance(failed.value.__cause__, Panic)
    assert calls.charges()[0].failures == 1


@pytest.mark.parametrize("error", [RequestError("not so long"), asyncio.CancelledError(), GeneratorExit()])
async def test_what_is_no_failure_of_the_plugins(error):
    """A request that is refused, a call that is cancelled, and a stream that is closed."""
    calls = Calls()
    with pytest.raises(type(error)), calls.charge("a", "tool x"):
        raise error
    assert [(charge.calls, charge.failures) for charge in calls.charges()] == [(1, 0)]
