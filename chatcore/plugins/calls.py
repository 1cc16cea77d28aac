"""The account of every call into a plugin: how often, how long, how many failed, and which are under way."""

import asyncio
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, TypeVar

import attrs

from chatcore.errors import PluginError, RequestError
from chatcore.tally import OTHER
from chatcore.waiting import within

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


class Calls:
    """The calls into the plugins of one app. To be used on one event loop."""

    def __init__(self) -> None:
        self._charges: dict[tuple[str, str], Charge] = {}
        self._ended = asyncio.Event()  # one of the calls

    @contextmanager
    def charge(self, plugin: str, what: str) -> Iterator[None]:
        """Around one call. An exception counts as a failure, a cancellation and a refused request do not. Code that
        calls exit() has failed, too, and so has a library that panics: neither must end the server, or a task that
        others wait for."""
        charge = self._charge(plugin, what)
        charge.running += 1
        started = time.monotonic()
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            charge.failures += not isinstance(error, RequestError)
            if isinstance(error, Exception):
                raise
            how = "called exit()" if isinstance(error, SystemExit) else f"raised {type(error).__name__}: {error}"
            raise PluginError(f"plugin {plugin}: {charge.what} {how}") from error
        finally:
            charge.seconds += time.monotonic() - started
            charge.calls += 1
            charge.running -= 1
            self._ended.set()

    def _charge(self, plugin: str, what: str) -> Charge:
        charge = self._charges.get((plugin, what))
        if charge is None:
            what = what if len(self._charges) < MOST else OTHER
            charge = self._charges.setdefault((plugin, what), Charge(plugin, what))
        return charge

    async def run(self, plugin: str, what: str, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits a coroutine on a plugin's account.

        Raises:
            PluginError: it is none, or has tried to end the server.
        """
        with self.charge(plugin, what):
            if not isawaitable(coroutine):
                raise PluginError(f"plugin {plugin}: {what} gave {coroutine!r:.100}: write 'async def'")
            return await coroutine

    def charges(self) -> Sequence[Charge]:
        """What every plugin was called for, as it stands."""
        return list(self._charges.values())

    async def drained(self, plugin: str, timeout: float) -> bool:
        """Waits until no call of the plugin's is under way: True, or False after `timeout` seconds."""
        return await within(timeout, self._drained(plugin))

    async def _drained(self, plugin: str) -> None:
        while any(charge.running for charge in self._charges.values() if charge.plugin == plugin):
            self._ended.clear()
            await self._ended.wait()

    def forget(self, plugin: str) -> None:
        """Drops what is known of a plugin that has been taken out."""
        self._charges = {key: charge for key, charge in self._charges.items() if charge.plugin != plugin}
