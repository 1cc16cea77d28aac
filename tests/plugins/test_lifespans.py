"""Opening and closing what plugins need open."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from chatcore.errors import PluginError
from chatcore.plugins import lifespans
from chatcore.plugins.lifespans import Lifespans
from chatcore.plugins.registry import Contribution, Provenance
from chatcore.protocols import Health, Lifespan


def contribution(name, run, plugin="alpha", *, builtin=False):
    return Contribution(
        "lifespan", f"{plugin}.{name}", Lifespan(name, run), Provenance(plugin, "chatcore-x", "1.0", builtin)
    )


def noting(events, name):
    """A lifespan that notes when it is opened and closed, and in which task."""

    @asynccontextmanager
    async def run():
        task = asyncio.current_task()
        events.append(f"open {name}")
        yield
        assert asyncio.current_task() is task
        events.append(f"close {name}")

    return run


@asynccontextmanager
async def failing_to_open():
    raise OSError("no socket")
    yield


@asynccontextmanager
async def failing_to_close():
    yield
    raise OSError("not closed")


async def until(runner, name, state):
    async with asyncio.timeout(5):
        while runner.states[name].state != state:
            await asyncio.sleep(0)


async def test_lifespans_of_a_plugin_open_in_order_and_close_the_other_way_round():
    """Each in a task of its own, which is not that of the server."""
    events = []
    runner = Lifespans()
    await runner.start([contribution(name, noting(events, name)) for name in ("a", "b")])
    assert events == ["open a", "open b"]
    assert runner.states == {"alpha.a": Health("ready"), "alpha.b": Health("ready")}
    await runner.stop()
    assert events[2:] == ["close b", "close a"]
    assert not runner.states


async def test_plugins_open_side_by_side():
    """One does not wait for another one."""
    both = asyncio.Barrier(2)

    @asynccontextmanager
    async def meeting():
        await both.wait()
        yield

    runner = Lifespans()
    await runner.start([contribution("x", meeting, "alpha"), contribution("x", meeting, "beta")])
    assert all(health.state == "ready" for health in runner.states.values())
    await runner.stop()


async def test_one_that_fails_to_open_is_logged_and_the_server_goes_on(caplog):
    """With its plugin; the others are open."""
    events = []
    runner = Lifespans()
    await runner.start([contribution("bad", failing_to_open), contribution("good", noting(events, "good"), "beta")])
    assert runner.states["alpha.bad"] == Health("failed", "OSError: no socket")
    assert events == ["open good"]
    assert "plugin alpha (chatcore-x 1.0): the lifespan alpha.bad has failed: OSError: no socket" in caplog.text
    await runner.stop()
    assert events == ["open good", "close good"]


@pytest.mark.parametrize(("strict", "builtin"), [(True, False), (False, True)])
async def test_a_built_in_one_that_fails_stops_the_start(strict, builtin):
    """With strict, any one does. What is open can still be closed."""
    events = []
    runner = Lifespans(strict=strict)
    with pytest.raises(PluginError, match=r"plugin alpha .*: alpha.bad did not open: OSError: no socket"):
        await runner.start(
            [contribution("good", noting(events, "good")), contribution("bad", failing_to_open, builtin=builtin)]
        )
    await runner.stop()
    assert events == ["open good", "close good"]


async def test_what_cannot_even_be_called_has_failed():
    """As everything that is a plugin's code."""
    runner = Lifespans()
    await runner.start([contribution("bad", lambda: None)])
    assert runner.states["alpha.bad"].state == "failed"
    await runner.stop()


async def test_closing_goes_on_after_a_failure(caplog):
    """It is logged with its plugin."""
    events = []
    runner = Lifespans()
    await runner.start([contribution("good", noting(events, "good")), contribution("bad", failing_to_close)])
    await runner.stop()
    assert events == ["open good", "close good"]
    assert "the lifespan alpha.bad has failed: OSError: not closed" in caplog.text


async def test_one_that_opens_slowly_is_not_waited_for(monkeypatch, caplog):
    """The server starts; the lifespan is ready when it is."""
    monkeypatch.setattr(lifespans, "START", 0.01)
    go = asyncio.Event()

    @asynccontextmanager
    async def slow():
        await go.wait()
        yield

    runner = Lifespans()
    await runner.start([contribution("slow", slow)])
    assert runner.states["alpha.slow"] == Health("starting")
    assert "still opening" in caplog.text
    go.set()
    await until(runner, "alpha.slow", "ready")
    await runner.stop()


async def test_one_that_is_still_opening_is_cancelled_when_the_server_stops(monkeypatch, caplog):
    """At once, and without being called a failure."""
    monkeypatch.setattr(lifespans, "START", 0.01)
    ended = asyncio.Event()

    @asynccontextmanager
    async def never():
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield

    runner = Lifespans()
    await runner.start([contribution("never", never)])
    await runner.stop()
    assert ended.is_set()
    assert "has failed" not in caplog.text


async def test_one_that_does_not_close_is_cancelled(monkeypatch, caplog):
    """After a while; what is after it is closed all the same."""
    monkeypatch.setattr(lifespans, "STOP", 0.01)
    events = []

    @asynccontextmanager
    async def hanging():
        yield
        await asyncio.Event().wait()

    runner = Lifespans()
    await runner.start([contribution("good", noting(events, "good")), contribution("hanging", hanging)])
    await runner.stop()
    assert events == ["open good", "close good"]
    assert "alpha.hanging did not close" in caplog.text


async def test_one_that_breaks_while_it_is_open_has_failed(caplog):
    """A background task of its own that ends it takes nothing else with it."""
    events, broken = [], asyncio.Event()

    @asynccontextmanager
    async def breaking():
        async with asyncio.TaskGroup() as group:
            group.create_task(work())
            yield

    async def work():
        await broken.wait()
        raise OSError("line cut")

    runner = Lifespans()
    await runner.start([contribution("bad", breaking), contribution("good", noting(events, "good"), "beta")])
    broken.set()
    await until(runner, "alpha.bad", "failed")
    assert "line cut" in caplog.text
    assert runner.states["beta.good"].state == "ready"
    await runner.stop()
    assert events == ["open good", "close good"]


async def test_a_stray_cancellation_ends_only_its_lifespan():
    """One that leaks out of a plugin's scope does not reach the server."""

    @asynccontextmanager
    async def leaking():
        yield asyncio.current_task().cancel()

    runner = Lifespans()
    await runner.start([contribution("bad", leaking)])
    await until(runner, "alpha.bad", "failed")
    assert not asyncio.current_task().cancelling()
    await runner.stop()


async def test_the_lifespans_of_one_plugin_can_be_closed_alone():
    """Those of others stay open."""
    events = []
    runner = Lifespans()
    await runner.start([contribution(name, noting(events, name), name) for name in ("alpha", "beta")])
    await runner.stop("alpha")
    assert events[2:] == ["close alpha"]
    assert list(runner.states) == ["beta.beta"]
    await runner.stop("alpha")
    await runner.stop()
    assert events[3:] == ["close beta"]
