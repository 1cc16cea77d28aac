"""The account of every call into a plugin: how often, how long, how many failed, and which are under way."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, TypeVar

import attrs

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


class _Call:
    """One call, as a context manager. An exception counts as a failure, a cancellation does not."""

    __slots__ = ("_account", "_owner", "_started")

    def __init__(self, owner: "Calls", account: _Account) -> None:
        self._owner = owner
        self._account = account

    def __enter__(self) -> None:
        self._account.running += 1
        self._started = time.monotonic_ns()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        account = self._account
        account.nanoseconds += time.monotonic_ns() - self._started
        account.calls += 1
        account.failures += isinstance(error, Exception)
        account.running -= 1
        self._owner.ended(account.plugin)


class Calls:
    """The calls into the plugins of one app. To be used on one event loop."""

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._waiting: dict[str, asyncio.Event] = {}

    def charge(self, plugin: str, what: str) -> _Call:
        """A context manager around one call."""
        return _Call(self, self._account(plugin, what))

    async def run(self, plugin: str, what: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits a coroutine on a plugin's account."""
        with self.charge(plugin, what):
            return await coroutine

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
