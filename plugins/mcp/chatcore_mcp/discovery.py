"""Servers that are added while chatcore runs: by a URL, or by looking at the ports of a host."""

import asyncio
import re
from collections.abc import AsyncIterator, Container, Iterable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, ClassVar
from urllib.parse import urlsplit

import attrs

from chatcore.errors import ChatcoreError, Problem, RequestError, ValidationFailed
from chatcore_mcp.connection import Signals
from chatcore_mcp.definitions import LONGEST_ID, Endpoint, checked_url, written
from chatcore_mcp.file import add
from chatcore_mcp.offers import ConnectionLost, SignInWanted
from chatcore_mcp.ports import Ports
from chatcore_mcp.servers import Server, Servers

PROBE = 0.5
"""Seconds for a port to answer."""
MEET = 5.0
"""Seconds for what answers there to prove to be a server."""
MOST_PORTS = 1000
_AT_ONCE = 64


class ServerUnreachable(ChatcoreError):
    """A server that was to be added cannot be connected. The text says why."""

    status: ClassVar[int] = 502
    code: ClassVar[str] = "mcp_unreachable"


@attrs.define
class Discovery:
    """Adds servers to those of the file."""

    servers: Servers
    ports: Ports
    _adding: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    async def connect(self, url: str) -> Server:
        """The server at a URL, which is added to the file if it is not there yet.

        Raises:
            ValidationFailed: it is no URL.
            Forbidden: it is at an address that may not be reached.
            ServerUnreachable: it cannot be connected.
        """
        try:
            checked_url(url)
        except ValueError as error:
            raise ValidationFailed([Problem("$.url", str(error))]) from error
        async with self._adding:
            server = self._known(url)
            if server is None:
                try:
                    server = await self._add(url, self.servers.options.timeout)
                except SignInWanted:
                    server = await self._enter(None, url)
            else:
                server.retry()
        await self.servers.settled([server], self.servers.options.timeout)
        if server.problem and not (server.sign_in and server.sign_in.state == "needed"):
            raise ServerUnreachable(f"{server.id} cannot be connected: {server.problem}")
        return server

    async def scan(self, host: str, ports: Iterable[int]) -> Sequence[Server]:
        """Adds the servers that are at ports of a host, under `/mcp`, and not known yet.

        Raises:
            Forbidden: the host may not be reached.
        """
        wanted = [port for port in dict.fromkeys(ports) if self._known(_url(host, port)) is None]
        if not wanted:
            return []
        try:
            address = await self.servers.options.reach.resolve(host, wanted[0])
        except OSError:
            return []
        gate = asyncio.Semaphore(_AT_ONCE)
        answers = await asyncio.gather(*(_answers(address, port, gate) for port in wanted))
        found = []
        for port in [port for port, answered in zip(wanted, answers, strict=True) if answered]:
            async with self._adding:
                try:
                    found.append(await self._add(_url(host, port), MEET))
                except (ServerUnreachable, SignInWanted, RequestError):
                    continue  # something else that listens there
        return found

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """At its beginning, when the servers of the file are connected, the hosts are looked at that the file names for
        that. It does not wait for it."""
        looking = asyncio.create_task(self._scan_first())
        try:
            yield
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _scan_first(self) -> None:
        if hosts := self.servers.discovery_hosts:
            await self.servers.settled(self.servers, self.servers.options.timeout)
            await self._scan_all(hosts)

    async def scan_known(self) -> None:
        """Looks at the hosts that the file names for that, and at those in our own networks that a server is on."""
        known = {urlsplit(server.url).hostname for server in self.servers if server.url}
        near = [host for host in sorted(filter(None, known)) if await self._is_near(host)]
        await self._scan_all([*self.servers.discovery_hosts, *near])

    async def _is_near(self, host: str) -> bool:
        """Whether a host is within the networks that are configured: nobody else's ports are tried unasked."""
        reach = self.servers.options.reach
        try:
            address = ip_address(await reach.resolve(host, 80))
        except (OSError, RequestError):
            return False
        return any(address in network for network in reach.networks)

    async def _scan_all(self, hosts: Sequence[str]) -> None:
        ports = await asyncio.to_thread(self.ports.range) if hosts else ()
        for host in dict.fromkeys(hosts):
            try:
                await self.scan(host, ports)
            except ChatcoreError as error:
                self.servers.options.log.warning("not looking for servers on %s: %s", host, error.message)

    def _known(self, url: str) -> Server | None:
        return next((server for server in self.servers if server.url == url), None)

    async def _add(self, url: str, seconds: float) -> Server:
        """Meets a server, and adds it under the name that it gives itself."""
        name = await asyncio.create_task(self._meet(url, seconds))  # what breaks there breaks a task of its own
        return await self._enter(name, url)

    async def _enter(self, name: str | None, url: str) -> Server:
        """Enters a server into the file, unless another worker was quicker."""
        entered = ""

        def enter(document: Any) -> None:
            nonlocal entered
            entered = _entered(document, url)
            if not entered:
                entered = _free_id(name, url, {key for key, _ in written(document)})
                add(document, entered, {"url": url, "added_over_http": True})

        await self.servers.change(enter)
        return self.servers.named(entered)

    async def _meet(self, url: str, seconds: float) -> str | None:
        opener = self.servers.opener(url, Endpoint(url=url, checked=True))
        try:
            async with asyncio.timeout(seconds):
                async with await opener(Signals(_nothing, _nothing)) as session:
                    await session.learn()
                    return session.server_name
        except TimeoutError:
            raise ServerUnreachable(f"{url} did not answer within {seconds:g} s") from None
        except SignInWanted:
            raise
        except ConnectionLost as error:
            if isinstance(error.__cause__, RequestError):
                raise error.__cause__ from error
            raise ServerUnreachable(f"{url} cannot be connected: {error.message}") from error


def _entered(document: Any, url: str) -> str:
    """The id of the entry with a URL; empty if there is none."""
    entries = [(key, entry) for key, entry in written(document) if isinstance(entry, dict)]
    return next((key for key, entry in entries if url in (entry.get("url"), entry.get("http_url"))), "")


def _free_id(name: str | None, url: str, taken: Container[str]) -> str:
    parts = urlsplit(url)
    place = f"{parts.hostname}-{parts.port or (443 if parts.scheme == 'https' else 80)}".replace(":", "-")
    own = re.sub(r"[^\w.@]+", "-", (name or "").lower()).strip("-.")[: LONGEST_ID - 10]
    wanted = [own, place] if own else [place]
    numbered = (f"{wanted[0]}-{number}" for number in range(2, 1000))
    return next(key for key in [*wanted, *numbered] if key not in taken)


async def _answers(address: str, port: int, gate: asyncio.Semaphore) -> bool:
    async with gate:
        try:
            async with asyncio.timeout(PROBE):
                _, writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/mcp"


def _nothing() -> None:
    """Nobody listens."""
