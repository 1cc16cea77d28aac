"""The account of every call into a plugin: how often, how long, how many failed, and which are under way."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import attrs

from chatcore.errors import PluginError
from chatcore.tally import OTHER

T = TypeVar("T")

MOST = 500
"""How many things are counted each by itself; a new one is then counted as `other` of its plugin. Sources of tools may
come up with ever new names."""


@attrs.define
class Charge:
    """What was called of a plugin (`prepare_turn`, `tool roll_dice`, `provider echo` …), and what it took so far."""

    plugin: str
    what: str
    calls: int = 0
    failures: int = 0
    running: int = 0
    seconds: float = 0.0


class _Call:
    """One call, as a context manager. An exception counts as a failure, a cancellation does not. Code that calls exit()
    has failed, too: it must not end the server."""

    __slots__ = ("_charge", "_owner", "_started")

    def __init__(self, owner: "Calls", charge: Charge) -> None:
        self._owner = owner
        self._charge = charge

    def __enter__(self) -> None:
        self._charge.running += 1
        self._started = time.monotonic()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        charge = self._charge
        charge.seconds += time.monotonic() - self._started
        charge.calls += 1
        charge.failures += isinstance(error, Exception | SystemExit)
        charge.running -= 1
        self._owner.ended(charge.plugin)
        if isinstance(error, SystemExit):
            raise PluginError(f"plugin {charge.plugin}: {charge.what} called exit()") from error


class Calls:
    """The calls into the plugins of one app. To be used on one event loop."""

    def __init__(self) -> None:
        self._charges: dict[tuple[str, str], Charge] = {}
        self._waiting: dict[str, asyncio.Event] = {}

    def charge(self, plugin: str, what: str) -> _Call:
        """A context manager around one call."""
        charge = self._charges.get((plugin, what))
        if charge is None:
            what = what if len(self._charges) < MOST else OTHER
            charge = self._charges.setdefault((plugin, what), Charge(plugin, what))
        return _Call(self, charge)

    async def run(self, plugin: str, what: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits a coroutine on a plugin's account."""
        with self.charge(plugin, what):
            return await coroutine

    def charges(self) -> Sequence[Charge]:
        """What every plugin was called for, as it stands."""
        return list(self._charges.values())

    async def drained(self, plugin: str, timeout: float) -> bool:
        """Waits until no call of the plugin's is under way: True, or False after `timeout` seconds."""
        ended = self._waiting.setdefault(plugin, asyncio.Event())
        try:
            async with asyncio.timeout(timeout):
                while any(charge.running for charge in self._charges.values() if charge.plugin == plugin):
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
        """Drops what is known of a plugin that has been taken out."""
        self._charges = {key: charge for key, charge in self._charges.items() if charge.plugin != plugin}
