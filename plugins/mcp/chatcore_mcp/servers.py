"""All servers: those of the file, each with its connection, and the tools that they offer together."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import Context
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import attrs

from chatcore.accounts import Accounts
from chatcore.addresses import Reach
from chatcore.errors import ConfigError, DatabaseError, NotFound, ToolFailed
from chatcore.tools import JsonObject, Tool, ToolResult
from chatcore.types import Principal
from chatcore_mcp.connection import Connection, Opener, Signals, State
from chatcore_mcp.definitions import Definition, Endpoint, Unusable, define, entry_of
from chatcore_mcp.file import ServersFile
from chatcore_mcp.names import exposed
from chatcore_mcp.offers import ConnectionLost, Session, SignInWanted, ToolInfo
from chatcore_mcp.sign_in import SignIn, Stamp, stamps
from chatcore_mcp.tools import Work, make, own, source

_SDK = "chatcore_mcp.session"
_SOURCES = source("")

WATCH = 2.0
"""Seconds between two looks at the file."""
AGAIN = 5.0
"""Seconds between two times of having servers connected because a turn has no tools."""


@attrs.frozen(kw_only=True)
class Options:
    """What holds for all servers."""

    reach: Reach
    timeout: float
    prefix: bool
    environ: Mapping[str, str] = attrs.field(repr=False)
    log: logging.Logger
    accounts: Accounts | None = None


class Server:
    """A server of the file. Without a connection where it is off or its entry is wrong.

    `sign_in` is how chatcore is signed in there, for one that may ask for it.
    """

    def __init__(
        self,
        definition: Definition | Unusable,
        options: Options,
        changed: Callable[[], None],
        stored: Callable[[], Awaitable[None]],
    ) -> None:
        self.definition = definition
        self.sign_in: SignIn | None = None
        self._options = options
        self._changed = changed
        self._stored = stored
        self._connection: Connection | None = None
        self._known: tuple[ToolInfo, ...] = ()
        self._made: dict[str, tuple[ToolInfo, Tool]] = {}

    @property
    def id(self) -> str:
        return self.definition.id

    @property
    def url(self) -> str:
        """Where it is; empty for a process."""
        return self.definition.endpoint.url if isinstance(self.definition, Definition) else ""

    @property
    def enabled(self) -> bool:
        """Whether it is to be used."""
        return isinstance(self.definition, Definition) and self.definition.enabled

    @property
    def state(self) -> State:
        return self._connection.state if self._connection else "disconnected"

    @property
    def problem(self) -> str:
        """Why it cannot be used at the moment, if so."""
        if isinstance(self.definition, Unusable):
            return self.definition.reason
        return self._connection.problem if self._connection else ""

    @property
    def offered(self) -> tuple[ToolInfo, ...]:
        """Its tools as they are now, those that are switched off as well."""
        return own(self._connection.offer) if self._connection else ()

    @property
    def known(self) -> tuple[ToolInfo, ...]:
        """Its tools as they were known last: their names stay taken while it is away."""
        if self.offered:
            self._known = self.offered
        return self._known if self.enabled else ()

    def is_off(self, tool: str) -> bool:
        """Whether a tool is switched off for everybody."""
        return isinstance(self.definition, Definition) and tool in self.definition.disabled_tools

    def tools(self, names: Mapping[tuple[str, str], str]) -> Iterator[Tool]:
        """What models are offered, under the names given. A tool stays the same value while nothing of it changes."""
        made: dict[str, tuple[ToolInfo, Tool]] = {}
        for info in self.offered:
            if self.is_off(info.name):
                continue
            name, contexts = names[self.id, info.name], self._contexts(info.name)
            known, tool = self._made.get(info.name, (None, None))
            if tool is None or known != info or (tool.name, tool.contexts) != (name, contexts):
                tool = make(info, server=self.id, name=name, call=self.call, contexts=contexts)
            made[info.name] = (info, tool)
            yield tool
        self._made = made

    def _contexts(self, tool: str) -> tuple[str, ...]:
        if isinstance(self.definition, Unusable):
            return ()
        return self.definition.own_contexts.get(tool, self.definition.contexts)

    def allows(self, principal: str) -> bool:
        """Whether its tools are for somebody: not if somebody else has signed in there, and does not share that."""
        return self.sign_in is None or self.sign_in.allows(principal)

    async def call(self, work: Work, principal: str) -> ToolResult:
        """Has something done by the server, for somebody.

        Raises:
            ToolFailed: it cannot be done.
        """
        if not self.allows(principal):
            raise ToolFailed(f"somebody else is signed in to the server {self.id}: it does nothing for others")
        if self._connection is None:
            raise ConnectionLost(f"the server {self.id} is switched off")
        return await self._connection.call(work)

    # --- its life -----------------------------------------------------------------------------------------------------

    async def become(self, definition: Definition | Unusable, stamps: Mapping[str, Stamp]) -> None:
        """Changes to another definition. The connection stays where that says the same of it."""
        before, self.definition = self.definition, definition
        if not self.enabled or _endpoint(before) != _endpoint(definition):
            await self.stop()
        await self._prepare(stamps)
        self.start()

    async def _prepare(self, stamps: Mapping[str, Stamp]) -> None:
        """Has a sign-in where the definition may need one; a new one for another endpoint."""
        endpoint, accounts = _endpoint(self.definition), self._options.accounts
        if self.sign_in is not None and self.sign_in.endpoint != endpoint:
            await self.sign_in.close()
            self.sign_in = None
        if accounts is None or endpoint is None or not endpoint.may_sign_in:
            return
        if self.sign_in is None:
            self.sign_in = SignIn(
                self.id,
                endpoint,
                accounts,
                reach=self._options.reach,
                log=self._options.log,
                stored=self._stored,
                refused=self.retry,
            )
            await self.sign_in.adopt(stamps.get(self.sign_in.name))
        self.sign_in.shared = isinstance(self.definition, Definition) and self.definition.shared

    async def follow(self, stamps: Mapping[str, Stamp]) -> bool:
        """Takes over who is signed in. For somebody else than before it is connected anew. Gives whether it was."""
        sign_in = self.sign_in
        if sign_in is None or sign_in.stamp == (stamp := stamps.get(sign_in.name)):
            return False
        if (sign_in.stamp and sign_in.stamp.owner) == (stamp and stamp.owner):
            if await sign_in.adopt(stamp):
                self.retry()
            return False
        await self.stop()
        self._changed()
        await sign_in.adopt(stamp)
        self.start()
        return True

    def start(self) -> None:
        """Begins to connect, in the background, if it is to be used and is not yet."""
        if self._connection is not None or not isinstance(self.definition, Definition) or not self.enabled:
            return
        opener = opener_of(self.id, self.definition.endpoint, self._options, self.sign_in)
        self._connection = Connection(
            self.id, opener, self._changed, timeout=self._options.timeout, log=self._options.log
        )
        self._connection.start()

    async def stop(self) -> None:
        """Ends the connection, and the process of a server that is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.stop()

    def retry(self) -> None:
        """Has it connected now, or asked for its tools again."""
        if self._connection is not None:
            self._connection.retry()

    async def settled(self) -> None:
        """Waits until it is known whether it can be used."""
        if self._connection is not None:
            await self._connection.settled()


class Servers:
    """The servers of one file. A tool source: what is asked for a turn is known already.

    `names` are the names under which models know tools, by server and tool. `problem` is why the file cannot be read.
    """

    name = "mcp"

    def __init__(self, path: Path, options: Options) -> None:
        self.problem = ""
        self.options = options
        self._file = ServersFile(path)
        self._log = options.log
        self._servers: dict[str, Server] = {}
        self.names: Mapping[tuple[str, str], str] = {}
        self._tools: tuple[Tool, ...] = ()
        self._identities: Mapping[str, tuple[str, str]] = {}
        self._lock = asyncio.Lock()
        self._following: set[asyncio.Task[None]] = set()
        self._followed = True  # to the end, what was read last
        self._document: Any = {}
        self._reconnected_at = 0.0

    def tools(self) -> Sequence[Tool]:
        return self._tools

    def __iter__(self) -> Iterator[Server]:
        return iter(self._servers.values())

    def get(self, key: str) -> Server | None:
        """A server by its id."""
        return self._servers.get(key)

    def named(self, key: str) -> Server:
        """A server by its id. Raises NotFound."""
        if key not in self._servers:
            raise NotFound(f"there is no server {key!r}; there are: {', '.join(self._servers) or 'none'}")
        return self._servers[key]

    def entry(self, key: str) -> JsonObject:
        """What the file says of a server, as it stands there."""
        return entry_of(self._document, key) or {}

    def identify(self, tool: Tool) -> tuple[str, str] | None:
        """The server and the tool, by its own name, behind a tool of a turn; None for one of somebody else's."""
        if tool.source is None or not tool.source.startswith(_SOURCES):
            return None
        name = tool.name.removeprefix(f"{self.name}__") if tool.name not in self._identities else tool.name
        return self._identities.get(name)

    def allows(self, tool: Tool, principal: Principal) -> bool:
        """Whether a tool is for somebody: one of these servers may be somebody else's."""
        identity = self.identify(tool)
        server = self.get(identity[0]) if identity else None
        return identity is None or (server is not None and server.allows(principal.id))

    # --- its life -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        """The time in which the servers are connected. It does not wait for them."""
        await self.reload()
        if any(server.enabled for server in self):
            await asyncio.to_thread(import_module, _SDK)  # now, while nobody is served who would be delayed
        watching = asyncio.create_task(self._watch(), name="mcp servers file")
        try:
            yield self
        finally:
            watching.cancel()
            await asyncio.gather(watching, *self._following, return_exceptions=True)
            closing = [server.sign_in.close() for server in self if server.sign_in]
            await asyncio.gather(*closing, *(server.stop() for server in self), return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH)
            with contextlib.suppress(DatabaseError):  # it says so itself, and is asked again
                await self.keep_up()
                await self.follow()

    async def keep_up(self) -> bool:
        """Follows the file if somebody else has changed it, and gives whether it did."""
        if self._lock.locked():  # it is being followed
            return False
        behind = not self._followed or await asyncio.to_thread(self._file.changed)
        if behind:
            await self.reload()
        return behind

    async def follow(self) -> None:
        """Takes over who has signed in to servers, and out, on whatever worker."""
        if any(server.sign_in for server in self):
            found = await self._stamps()
            async with self._lock:
                await asyncio.gather(*(server.follow(found) for server in self))
            self._rebuild()

    async def _stamps(self) -> Mapping[str, Stamp]:
        return {} if self.options.accounts is None else await stamps(self.options.accounts)

    async def reload(self) -> None:
        """Reads the file. Where it cannot be read everything stays as it is, and `problem` says why."""
        await self._surely(self._reload())

    async def _reload(self) -> None:
        async with self._lock:
            try:
                document = await asyncio.to_thread(self._file.read)
            except ConfigError as error:
                self.problem, self._followed = error.message, True
                self._log.error("%s; what was read before still counts", error.message)
                return
            await self._apply(document)

    async def change(self, change: Callable[[Any], None]) -> None:
        """Changes the file, and follows it. What `change` raises leaves everything as it is.

        Raises:
            ConfigError: it cannot be read or written. Nothing has changed.
        """
        await self._surely(self._change(change))

    async def _change(self, change: Callable[[Any], None]) -> None:
        async with self._lock:
            await self._apply(await asyncio.to_thread(self._file.change, change))

    async def _surely(self, work: Coroutine[None, None, None]) -> None:
        """Does some work to its end, even if whoever waits for it goes away: of a file that is half followed nobody
        would follow the other half."""
        # Without our context: connections that it begins are not this request's.
        task = asyncio.create_task(work, context=Context())
        self._following.add(task)
        task.add_done_callback(self._done)
        await asyncio.shield(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited may have gone

    def reconnect(self) -> None:
        """Has those connected now that are not, for a turn that has none of their tools. It does not wait for them: the
        next turn has what comes of it."""
        now = time.monotonic()
        if now - self._reconnected_at >= AGAIN:
            self._reconnected_at = now
            for server in self:
                if server.state == "disconnected":
                    server.retry()

    async def settled(self, servers: Iterable[Server], seconds: float) -> None:
        """Waits until it is known of servers whether they can be used, but not for ever."""
        waiting = [asyncio.create_task(server.settled()) for server in servers]
        if waiting:
            _, unknown = await asyncio.wait(waiting, timeout=seconds)
            for task in unknown:
                task.cancel()

    @property
    def changed_at(self) -> datetime | None:
        """When the file was changed last."""
        return self._file.changed_at

    @property
    def directory(self) -> Path:
        """What relative paths in the file are relative to."""
        return self._file.path.parent

    @property
    def discovery_hosts(self) -> Sequence[str]:
        """The hosts that the file wants to be looked at for further servers."""
        hosts = self._document.get("discovery_hosts") if isinstance(self._document, dict) else None
        return [host for host in hosts if isinstance(host, str)] if isinstance(hosts, list) else []

    def opener(self, name: str, endpoint: Endpoint) -> Opener:
        """How a connection is opened, for one that is not among these servers."""
        return opener_of(name, endpoint, self.options)

    async def _apply(self, document: Any) -> None:
        self._followed, path = False, self._file.path
        found = await self._stamps()
        defined, warnings = define(document, environ=self.options.environ, directory=path.parent)
        for warning in warnings:
            self._log.warning("%s: %s", path, warning)
        self.problem, self._document = "", document
        for key, one in defined.items():
            if isinstance(one, Unusable) and self._definition(key) != one:
                self._log.warning("%s: %s is off: %s", path, key, one.reason)
        before = self._servers
        gone = [server for key, server in before.items() if key not in defined]
        self._servers = {
            key: before.get(key) or Server(one, self.options, self._rebuild, self.follow)
            for key, one in defined.items()
        }
        becoming = [self._servers[key].become(one, found) for key, one in defined.items()]
        closing = [server.sign_in.close() for server in gone if server.sign_in]
        await asyncio.gather(*(server.stop() for server in gone), *closing, *becoming)
        self._followed = True
        self._rebuild()

    def _definition(self, key: str) -> Definition | Unusable | None:
        server = self._servers.get(key)
        return server.definition if server else None

    def _rebuild(self) -> None:
        """Makes the tools anew that turns are given, as far as something of them has changed."""
        usable = [server for server in self if server.enabled]
        known = [(server.id, info.name) for server in usable for info in server.known]
        names = exposed(known, dict(self._prefixes(usable)))
        self._tools = tuple(tool for server in usable for tool in server.tools(names))
        self._identities = {name: identity for identity, name in names.items()}
        self.names = names

    def _prefixes(self, servers: Sequence[Server]) -> Iterator[tuple[str, str]]:
        for server in servers:
            said = server.definition.prefix if isinstance(server.definition, Definition) else None
            if said or self.options.prefix:
                yield server.id, said or server.id


def _endpoint(definition: Definition | Unusable) -> Endpoint | None:
    return definition.endpoint if isinstance(definition, Definition) else None


def opener_of(name: str, endpoint: Endpoint, options: Options, sign_in: SignIn | None = None) -> Opener:
    """How the connection to a server is opened. For the first one the SDK is imported, which takes most of a second."""

    async def open_session(signals: Signals) -> AbstractAsyncContextManager[Session]:
        if sign_in is not None and sign_in.is_awaited:
            raise SignInWanted(sign_in.remedy)
        sdk = await asyncio.to_thread(import_module, _SDK)
        opened: AbstractAsyncContextManager[Session] = sdk.opened(
            sdk.Opening(
                name=name,
                endpoint=endpoint,
                reach=options.reach,
                log=options.log,
                changed=signals.changed,
                ended=signals.ended,
                sign_in=sign_in,
            )
        )
        return opened

    return open_session
