"""The task that holds a connection, with a server that does what a test wants."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
from chatcore_mcp.connection import Connection, Signals
from chatcore_mcp.offers import CLOSED, ConnectionLost, Offer, Session, SessionExpired, ToolInfo

from chatcore.errors import ToolFailed
from chatcore.tools import ToolResult


@attrs.define
class FakeSession:
    """A session that offers what it is told to."""

    offers: list[Offer | Exception]
    remote: bool = False
    server_name: str | None = "fake"
    protocol_version: str = "1"
    watched: int = 0

    async def learn(self) -> Offer:
        offer = self.offers[0] if len(self.offers) == 1 else self.offers.pop(0)
        if isinstance(offer, Exception):
            raise offer
        return offer

    async def watch(self) -> None:
        self.watched += 1


@attrs.define
class Fake:
    """Opens connections: those of `sessions`, one after the other, then none any more. Notes when."""

    sessions: list[FakeSession | Exception]
    signals: list[Signals] = attrs.field(factory=list)
    opened_at: list[float] = attrs.field(factory=list)
    left: int = 0
    changes: int = 0

    async def open(self, signals: Signals) -> AbstractAsyncContextManager[Session]:
        self.signals.append(signals)
        self.opened_at.append(time.monotonic())
        next_one = self.sessions.pop(0) if self.sessions else ConnectionLost("nobody there")

        @asynccontextmanager
        async def opened() -> AsyncIterator[Session]:
            if isinstance(next_one, Exception):
                raise next_one
            try:
                yield next_one  # type: ignore[misc]
            finally:
                self.left += 1

        return opened()

    def changed(self) -> None:
        self.changes += 1


def offer(*names: str) -> Offer:
    return Offer(tools=tuple(ToolInfo(name=name) for name in names))


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Connection]]:
    """Makes connections that run until the test ends."""
    made = []

    def make(fake: Fake, *, timeout: float = 5) -> Connection:
        connection = Connection("fake", fake.open, fake.changed, timeout=timeout, log=logging.getLogger("fake"))
        connection.start()
        made.append(connection)
        return connection

    yield make
    async with asyncio.timeout(10):
        for connection in made:
            await connection.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def answer(session: Session) -> ToolResult:
    return ToolResult("answered")


async def test_pauses_grow(connect, monkeypatch: pytest.MonkeyPatch):
    """Each is twice the one before, up to the longest."""
    monkeypatch.setattr("chatcore_mcp.connection.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("chatcore_mcp.connection.LONGEST_PAUSE", 0.08)
    fake = Fake([])
    connect(fake)
    await until(lambda: len(fake.opened_at) >= 6)
    pauses = [after - before for before, after in zip(fake.opened_at, fake.opened_at[1:], strict=False)]
    for pause, wanted in zip(pauses, [0.02, 0.04, 0.08, 0.08, 0.08], strict=False):
        assert 0.75 * wanted <= pause


async def test_a_good_connection_is_made_anew_at_once(connect, monkeypatch: pytest.MonkeyPatch):
    """One that breaks soon after it was made is not: then it waits."""
    monkeypatch.setattr("chatcore_mcp.connection.FIRST_PAUSE", 30.0)
    monkeypatch.setattr("chatcore_mcp.connection.LONG_LIFE", 0.0)
    fake = Fake([FakeSession([offer("a")]), FakeSession([offer("a")])])
    connection = connect(fake)
    await until(lambda: connection.state == "connected")
    fake.signals[0].ended()
    await until(lambda: len(fake.signals) == 2 and connection.state == "connected")
    monkeypatch.setattr("chatcore_mcp.connection.LONG_LIFE", 1000.0)
    fake.signals[1].ended()
    await until(lambda: connection.state == "disconnected")
    assert connection.problem == CLOSED
    assert len(fake.signals) == 2
    connection.retry()
    await until(lambda: len(fake.signals) == 3)


async def test_a_call_waits_for_a_connection_that_was_lost(connect, monkeypatch: pytest.MonkeyPatch):
    """And not for ever."""
    fake = Fake([FakeSession([offer("a")]), ConnectionLost("not yet"), FakeSession([offer("a")])])
    connection = connect(fake)
    await until(lambda: connection.state == "connected")
    fake.signals[0].ended()
    assert (await connection.call(answer)).text == "answered"
    monkeypatch.setattr("chatcore_mcp.connection.PATIENCE", 0.05)
    fake.signals[2].ended()
    with pytest.raises(ConnectionLost, match="the server fake cannot be reached now"):
        await connection.call(answer)


async def test_an_expired_session_is_replaced(connect):
    """And the call is made again, once: the server has not done it."""
    fake = Fake([FakeSession([offer("a")]), FakeSession([offer("a")])])
    connection = connect(fake)
    asked = []

    async def work(session: Session) -> ToolResult:
        asked.append(session)
        if len(asked) == 1:
            raise SessionExpired("it has forgotten")
        return ToolResult("answered")

    assert (await connection.call(work)).text == "answered"
    assert len(fake.signals) == 2
    assert asked[0] is not asked[1]


async def test_calls_end_with_the_connection(connect):
    """Their outcome is unknown; the connection is left by the task that entered it."""
    fake = Fake([FakeSession([offer("a")])])
    connection = connect(fake)
    begun = asyncio.Event()

    async def work(session: Session) -> ToolResult:
        begun.set()
        await asyncio.sleep(1000)
        return ToolResult("never")

    call = asyncio.create_task(connection.call(work))
    await begun.wait()
    fake.signals[0].ended()
    with pytest.raises(ConnectionLost, match="unknown"):
        await call
    assert fake.left == 1


async def test_a_call_that_fails_ends_nothing(connect):
    """Whatever it raises is its caller's."""
    connection = connect(Fake([FakeSession([offer("a")])]))

    async def work(session: Session) -> ToolResult:
        raise ToolFailed("no")

    with pytest.raises(ToolFailed, match="no"):
        await connection.call(work)
    assert connection.state == "connected"


async def test_changes_are_learned_and_gathered(connect, monkeypatch: pytest.MonkeyPatch):
    """However often the server says so, it is asked at most every now and then."""
    monkeypatch.setattr("chatcore_mcp.connection.SETTLE", 0.2)
    fake = Fake([FakeSession([offer("a"), offer("a", "b"), offer("a", "b", "c"), offer("x")])])
    connection = connect(fake)
    await until(lambda: connection.state == "connected")
    fake.signals[0].changed()
    await until(lambda: len(connection.offer.tools) == 2)
    for _ in range(100):
        fake.signals[0].changed()
        await asyncio.sleep(0)
    assert len(connection.offer.tools) == 2
    await until(lambda: len(connection.offer.tools) == 3)


async def test_a_remote_server_that_is_silent_is_asked(connect, monkeypatch: pytest.MonkeyPatch):
    """Whether it is still there; if not, it is connected anew. One that is a process would tell."""
    monkeypatch.setattr("chatcore_mcp.connection.CHECK", 0.02)
    fake = Fake([FakeSession([offer("a"), ConnectionLost("gone")], remote=True), FakeSession([offer("b")])])
    connection = connect(fake)
    await until(lambda: connection.offer == offer("b"))
    assert fake.left == 1


async def test_one_that_does_not_tell_its_tools_is_given_up(connect, monkeypatch: pytest.MonkeyPatch):
    """After a while, once it is connected; the tools that are known stay."""
    monkeypatch.setattr("chatcore_mcp.connection.ANSWER", 0.05)

    class Silent(FakeSession):
        async def learn(self) -> Offer:
            if self.watched:
                await asyncio.sleep(1000)
            return offer("a")

    fake = Fake([Silent([])])
    connection = connect(fake)
    await until(lambda: connection.state == "connected" and fake.sessions == [])
    await asyncio.sleep(0)
    fake.signals[0].changed()
    await until(lambda: connection.state == "disconnected")
    assert connection.problem == "it did not tell its tools within 0.05 s"
    assert connection.offer == offer("a")


async def test_tools_are_kept_for_a_while(connect, monkeypatch: pytest.MonkeyPatch):
    """After a connection was lost; then they go."""
    monkeypatch.setattr("chatcore_mcp.connection.FIRST_PAUSE", 0.01)
    monkeypatch.setattr("chatcore_mcp.connection.KEPT", 0.6)
    fake = Fake([FakeSession([offer("a")])])
    connection = connect(fake)
    await until(lambda: connection.state == "connected")
    fake.signals[0].ended()
    await until(lambda: len(fake.signals) >= 3)
    assert connection.offer == offer("a")
    await until(lambda: connection.offer == Offer())


async def test_a_cancellation_that_something_swallows_ends_it_all_the_same():
    """A connection that breaks at the same moment does; the SDK's scopes take back that there was one."""

    @asynccontextmanager
    async def swallowing() -> AsyncIterator[Session]:
        try:
            yield FakeSession([offer("a")])
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            raise ConnectionLost("broken") from None

    async def opener(signals: Signals) -> AbstractAsyncContextManager[Session]:
        return swallowing()

    connection = Connection("fake", opener, lambda: None, timeout=5, log=logging.getLogger("fake"))
    connection.start()
    await until(lambda: connection.state == "connected")
    async with asyncio.timeout(2):
        await connection.stop()
