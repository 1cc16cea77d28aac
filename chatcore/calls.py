"""The account of every call into a plugin: how often, how long, how many failed, and which are under way."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Generator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import attrs

logger = logging.getLogger(__name__)

BLOCKING = 100_000_000
"""Nanoseconds without a suspension after which a call is named in the log: meanwhile nobody else was served."""

T = TypeVar("T")


@attrs.frozen
class Charge:
    """What was called of a plugin (`prepare_turn`, `tool roll_dice`, `provider echo` …), and what it took."""

    plugin: str
    what: str
    calls: int
    failures: int
    running: int
    seconds: float


@attrs.define
class _Account:
    plugin: str
    what: str
    calls: int = 0
    failures: int = 0
    running: int = 0
    nanoseconds: int = 0

    def warn_if_blocking(self, nanoseconds: int) -> None:
        if nanoseconds > BLOCKING:
            logger.warning(
                "plugin %s: %s blocked the event loop for %d ms; use asyncio.to_thread for what waits",
                self.plugin,
                self.what,
                nanoseconds // 1_000_000,
            )


class _Call:
    """One call, as a context manager. An exception counts as a failure, a cancellation does not."""

    __slots__ = ("_account", "_owner", "_started", "_suspends")

    def __init__(self, owner: "Calls", account: _Account, suspends: bool) -> None:
        self._owner = owner
        self._account = account
        self._suspends = suspends

    def __enter__(self) -> None:
        self._account.running += 1
        self._started = time.monotonic_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        account = self._account
        taken = time.monotonic_ns() - self._started
        account.nanoseconds += taken
        account.calls += 1
        account.failures += isinstance(error, Exception)
        account.running -= 1
        if not self._suspends:
            account.warn_if_blocking(taken)
        self._owner.ended(account.plugin)


class Calls:
    """The calls into the plugins of one app. To be used on one event loop."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._waiting: dict[str, asyncio.Event] = {}

    def charge(self, plugin: str, what: str, *, suspends: bool = True) -> _Call:
        """A context manager around one call. One that does not suspend is named in the log if it takes too long."""
        return _Call(self, self._account(plugin, what), suspends)

    async def run(self, plugin: str, what: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits a coroutine on a plugin's account. If it blocks the event loop, the log names it."""
        account = self._account(plugin, what)
        with _Call(self, account, suspends=True):
            answer: T = await _Watched(coroutine, account)
            return answer

    def charges(self) -> Sequence[Charge]:
        """Every account as it stands."""
        return [
            Charge(a.plugin, a.what, a.calls, a.failures, a.running, a.nanoseconds / 1e9)
            for a in self._accounts.values()
        ]

    async def drained(self, plugin: str, timeout: float) -> bool:
        """Waits until no call of the plugin's is under way: True, or False after `timeout` seconds."""
        ended = self._waiting.setdefault(plugin, asyncio.Event())
        try:
            async with asyncio.timeout(timeout):
                while any(a.running for a in self._accounts.values() if a.plugin == plugin):
                    ended.clear()
                    await ended.wait()
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(plugin, None)
        return True

    def ended(self, plugin: str) -> None:
        """Wakes who waits for the plugin's calls to end."""
        if plugin in self._waiting:
            self._waiting[plugin].set()

    def forget(self, plugin: str) -> None:
        """Drops the accounts of a plugin that has been taken out."""
        self._accounts = {key: account for key, account in self._accounts.items() if account.plugin != plugin}

    def _account(self, plugin: str, what: str) -> _Account:
        account = self._accounts.get((plugin, what))
        if account is None:
            account = self._accounts[plugin, what] = _Account(plugin, what)
        return account


class _Watched:
    """A coroutine whose every step, from one suspension to the next, is timed."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], account: _Account) -> None:
        self._coroutine = coroutine
        self._account = account

    def __await__(self) -> Generator[Any, Any, Any]:
        answer: Any = None
        thrown: BaseException | None = None
        while True:
            started = time.monotonic_ns()
            try:
                asked = self._coroutine.send(answer) if thrown is None else self._coroutine.throw(thrown)
            except StopIteration as end:
                return end.value
            finally:
                self._account.warn_if_blocking(time.monotonic_ns() - started)
            thrown = None
            try:
                answer = yield asked
            except BaseException as error:  # noqa: BLE001  whatever is thrown in, cancellation too, is the coroutine's
                thrown = error
