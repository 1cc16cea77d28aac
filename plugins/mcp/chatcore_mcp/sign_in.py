"""How chatcore is signed in to a server that wants to know who is asking: by whom, with what, and what is missing.

What a server's authorization server gives is in the core's vault, encrypted, as the account `mcp/SERVER` of whoever has
signed in. So a restart keeps it, and all workers have the same. The requests themselves are in `oauth`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, Literal, TypeAlias

import attrs

from chatcore.accounts import Accounts, Answer, Entry
from chatcore.addresses import Reach
from chatcore.errors import (
    AccountError,
    AccountUnavailable,
    ChatcoreError,
    Conflict,
    DatabaseError,
    SignInNeeded,
    VaultError,
)
from chatcore.tools import JsonObject
from chatcore.types import Principal
from chatcore_mcp.definitions import Endpoint

_OAUTH = "chatcore_mcp.oauth"

ACCOUNTS = "mcp/"
"""What stands before a server's id in the name of the account."""
LEEWAY = timedelta(seconds=30)
"""For how long a token must still be good to be used."""
REFRESHES = 10.0
"""Seconds that the refreshes under way are given when the server stops."""

State: TypeAlias = Literal["signed_in", "needed"]


@attrs.frozen(kw_only=True)
class Challenge:
    """An answer by which a server asks who is asking: 401, or 403 where the token may not do that."""

    status: int = 401
    header: str = attrs.field(default="", repr=False)
    protocol_version: str = ""


@attrs.frozen(kw_only=True)
class Grant:
    """What an authorization server has given. The document is for `oauth` alone, but for `url`, `access_token` and
    whether there is a `refresh_token`."""

    document: JsonObject = attrs.field(repr=False)
    scopes: Sequence[str] = ()
    expires_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Visit:
    """A person's way to the authorization server and back: `begin` gives a state, `publish` takes the URL to open, and
    `wait` gives what came back with that state."""

    begin: Callable[[], Awaitable[str]]
    publish: Callable[[str], None]
    wait: Callable[[str], Awaitable[Answer]]
    redirect_uri: str


@attrs.frozen(kw_only=True)
class Stamp:
    """What there is of a sign-in in the vault: whose it is, and which it is."""

    owner: str
    updated_at: datetime
    refused: bool


@attrs.frozen
class _Pending:
    shown: "asyncio.Future[str]"
    task: "asyncio.Task[None]"

    @property
    def url(self) -> str | None:
        done = self.shown.done() and not self.shown.cancelled() and self.shown.exception() is None
        return self.shown.result() if done else None


class SignIn:
    """The sign-in to one server. `owner` is whose it is: the server's tools are for nobody else, unless it is `shared`.

    `stored` is called when what is in the vault has become another, `refused` when a token is good no more; `problem`
    is why the last attempt has failed; `stamp` is what was taken over last.
    """

    def __init__(
        self,
        server: str,
        endpoint: Endpoint,
        accounts: Accounts,
        *,
        reach: Reach,
        log: logging.Logger,
        stored: Callable[[], Awaitable[None]],
        refused: Callable[[], None],
    ) -> None:
        self.name = f"{ACCOUNTS}{server}"
        self.endpoint = endpoint
        self.shared = False
        self.owner: Principal | None = None
        self.problem = ""
        self.stamp: Stamp | None = None
        self._server = server
        self._accounts = accounts
        self._reach = reach
        self._log = log
        self._stored = stored
        self._entry: Entry | None = None
        self._refused = refused
        self._challenge: Challenge | None = None
        self._dead = ""
        self._away = ""
        self._pending: dict[str, _Pending] = {}
        self._renewing: asyncio.Task[str | None] | None = None
        self._remembering: set[asyncio.Task[None]] = set()

    # --- for whoever shows it -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State | None:
        """Whether somebody is signed in, or has to; None if the server does not ask."""
        if self._challenge is not None or self.is_awaited or (self._entry is not None and self._entry.refused):
            return "needed"
        return None if self._entry is None else "signed_in"

    @property
    def is_awaited(self) -> bool:
        """Whether the server is not to be asked before somebody has signed in."""
        return self.endpoint.oauth.always and self._entry is None

    @property
    def remedy(self) -> str:
        """What is to be done about `needed`, for a person."""
        if self._away:
            return f"its authorization server does not say whether you are still signed in: {self._away}"
        where = f"POST /api/mcp/servers/{self._server}/sign-in gives the URL to open"
        again = " again" if self._entry is not None else ""
        if self._challenge is not None and self._challenge.status == 403:
            return f"it wants more rights than it was given: sign in{again}, {where}"
        return f"it wants somebody to sign in{again}: {where}"

    def allows(self, principal: str) -> bool:
        """Whether somebody may have and call what the server offers."""
        return self.owner is None or self.shared or self.owner.id == principal

    @property
    def explains(self) -> bool:
        """Whether `remedy` says why the server refuses to answer."""
        return bool(self._away) or self.state == "needed"

    def is_of(self, principal: Principal) -> bool:
        """Whether it is somebody's own."""
        return self.owner is not None and self.owner.id == principal.id

    def url(self, principal: Principal) -> str | None:
        """Where somebody is to sign in who has begun to."""
        pending = self._pending.get(principal.id)
        return pending.url if pending else None

    # --- for the connection -------------------------------------------------------------------------------------------

    async def token(self, *, refused: str | None = None) -> str | None:
        """The token to send; refreshed if need be, once for all who ask. None: there is none that the server takes.

        `refused` is a token that the server has just refused: it gives another.
        """
        entry = self._entry
        if entry is None or entry.refused:
            return None
        token: str = entry.document["access_token"]
        if _is_good(entry, refused):
            return token
        if "refresh_token" not in entry.document or (refused is not None and refused == self._dead):
            return None if refused is not None else token  # an old one may still be good: the server says
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(refused), name=f"refresh of {self.name}")
            self._renewing.add_done_callback(self._renewed)
        try:
            # Whoever stops waiting must not cut it: what comes back is the only token that can be refreshed next.
            renewed = await asyncio.shield(self._renewing)
        except (AccountError, DatabaseError, VaultError) as error:
            self._away = error.message
            return token if refused is None else None
        self._away = ""
        return renewed

    def challenged(self, challenge: Challenge, token: str | None) -> None:
        """The server has refused a token, for which there was no other, or asks for one."""
        if self._away:
            return
        before, self._challenge = self._challenge, challenge
        if challenge.status == 401:
            self._dead = token or ""
        if before is None or before.status != challenge.status:
            self._log.warning("%s: %s", self._server, self.remedy)
            if token is not None:
                self._told(challenge, token)

    def _told(self, challenge: Challenge, token: str) -> None:
        if challenge.status == 401:
            self._refused()
        elif self.owner is not None:
            task = asyncio.create_task(self._remember(self.owner, challenge, token))
            self._remembering.add(task)
            task.add_done_callback(self._remembering.discard)

    async def _remember(self, owner: Principal, challenge: Challenge, token: str) -> None:
        """Stores which rights are lacking: on whatever worker the sign-in is begun, it asks for them."""
        vault = self._accounts.vault
        with contextlib.suppress(DatabaseError, VaultError):  # then only this worker knows
            async with vault.claim(owner, self.name):
                entry = await vault.get(owner, self.name)
                if entry is not None and not entry.refused and entry.document["access_token"] == token:
                    document = {**entry.document, "challenge": attrs.asdict(challenge)}
                    await self._put(owner, Grant(document=document, scopes=entry.scopes, expires_at=entry.expires_at))

    def accepted(self) -> None:
        """The server has taken the token, or asks for none."""
        if self._challenge is not None and self._challenge.status == 401:
            self._challenge = None

    def _renewed(self, task: "asyncio.Task[str | None]") -> None:
        self._renewing = None
        if not task.cancelled():
            task.exception()  # whoever asked may have gone

    async def _renew(self, refused: str | None) -> str | None:
        owner, vault = self.owner, self._accounts.vault
        if owner is None:
            return None
        async with vault.claim(owner, self.name):
            entry = await self._read(owner)
            if entry is not None and not entry.refused and not _is_good(entry, refused):  # no other worker was quicker
                entry = await self._refresh(owner, entry)
        if self.owner != owner:  # somebody else has signed in meanwhile
            return None
        self._entry = entry
        return entry.document["access_token"] if entry and not entry.refused else None

    async def _read(self, owner: Principal) -> Entry | None:
        """What is in the vault. What was given for another URL is not sent to this one."""
        entry = await self._accounts.vault.get(owner, self.name)
        return entry if entry and entry.document.get("url") == self.endpoint.url else None

    async def _refresh(self, owner: Principal, entry: Entry) -> Entry | None:
        vault = self._accounts.vault
        try:
            grant = await (await _oauth()).renew(self.endpoint, self._reach, entry.document)
        except SignInNeeded as error:
            self._log.warning("%s: the refresh was refused: %s", self._server, error.message)
            await vault.refuse(owner, self.name)
        else:
            await self._put(owner, grant)
        return await self._read(owner)

    # --- signing in and out -------------------------------------------------------------------------------------------

    async def begin(self, principal: Principal, seconds: float) -> str:
        """Begins to sign somebody in, and gives the URL to open; of a sign-in that has begun, the same. When they come
        back from there, the server is connected.

        Raises:
            Conflict: somebody else is signed in there.
            Conflict: it is not known as what browsers know this server.
            SignInFailed: the server, or its authorization server, does not do as the protocol says.
            AccountUnavailable: it does not answer in time.
            Forbidden: it is at an address that may not be reached.
        """
        if self._is_held and not self.is_of(principal):
            raise self._conflict()
        pending = self._pending.get(principal.id)
        if pending is None:
            pending = self._start(principal)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(pending.shown)
        except TimeoutError:
            pending.task.cancel()
            raise AccountUnavailable(f"{self._server} does not say in time where to sign in") from None

    @property
    def _is_held(self) -> bool:
        """Whether somebody is signed in, as far as is known; maybe with fewer rights than are wanted."""
        is_refused = self._challenge is not None and self._challenge.status == 401
        return self._entry is not None and not self._entry.refused and not is_refused

    def _conflict(self) -> Conflict:
        return Conflict(
            f"somebody else is signed in to {self._server}",
            hint="they may sign out; or give yourself an entry of your own in the file of the servers",
        )

    def _start(self, principal: Principal) -> _Pending:
        shown = asyncio.get_running_loop().create_future()
        redirect_uri = self._accounts.redirect_uri
        task = asyncio.create_task(self._sign_in(principal, shown, redirect_uri), name=f"sign-in to {self.name}")
        pending = self._pending[principal.id] = _Pending(shown, task)
        task.add_done_callback(lambda _: self._pending.pop(principal.id, None))
        return pending

    async def _sign_in(self, principal: Principal, shown: "asyncio.Future[str]", redirect_uri: str) -> None:
        vault, sign_ins = self._accounts.vault, self._accounts.sign_ins
        visit = Visit(
            begin=lambda: sign_ins.begin(principal, self.name),
            publish=shown.set_result,
            wait=lambda state: sign_ins.answer(principal, state),
            redirect_uri=redirect_uri,
        )
        try:
            known = await vault.get(principal, self.name)
            document = known.document if known else {}
            grant = await (await _oauth()).authorize(self.endpoint, self._reach, self._challenge, document, visit)
            await self._stored()
            if self._is_held and not self.is_of(principal):  # somebody was quicker
                raise self._conflict()
            async with vault.claim(principal, self.name):
                await self._put(principal, grant)
            await self._displace(principal)
            self.problem = ""
            self._log.info("%s: %s is signed in", self._server, principal.id)
            await self._stored()
        except ChatcoreError as error:
            self._failed(shown, error)
        finally:
            if not shown.done():
                self._failed(shown, AccountUnavailable("it was broken off"))

    def _failed(self, shown: "asyncio.Future[str]", error: ChatcoreError) -> None:
        self.problem = f"the sign-in has failed: {error.message}"
        if not shown.done():
            shown.set_exception(error)
            shown.exception()  # whoever asked may have gone
        self._log.warning("%s: %s", self._server, self.problem)

    async def _displace(self, owner: Principal) -> None:
        """Removes what others have left behind who were signed in before."""
        for row in await self._accounts.vault.table.list():
            if row.name == self.name and row.owner != owner.id:
                await self._accounts.vault.delete(Principal(row.owner), self.name)

    async def end(self) -> bool:
        """Signs out: what was given is revoked, if that can be, and forgotten. False: nobody was signed in."""
        owner, vault = self.owner, self._accounts.vault
        if owner is None:
            return False
        async with vault.claim(owner, self.name):
            with contextlib.suppress(VaultError):  # what cannot be decrypted can be forgotten
                entry = await vault.get(owner, self.name)
                if entry is not None:
                    await self._revoke(entry)
            found = await vault.delete(owner, self.name)
        self._log.info("%s: %s is signed out", self._server, owner.id)
        await self._stored()
        return found

    async def _revoke(self, entry: Entry) -> None:
        try:
            await (await _oauth()).revoke(self.endpoint, self._reach, entry.document)
        except AccountError as error:
            self._log.warning("%s: the token was not revoked: %s", self._server, error.message)

    async def _put(self, owner: Principal, grant: Grant) -> None:
        await self._accounts.vault.put(
            owner, self.name, grant.document, scopes=grant.scopes, expires_at=grant.expires_at
        )

    # --- what others did ----------------------------------------------------------------------------------------------

    async def adopt(self, stamp: Stamp | None) -> bool:
        """Takes over what is in the vault. Gives whether there is a token now that there was not."""
        owner = Principal(stamp.owner) if stamp else None
        try:
            entry = await self._read(owner) if owner else None
        except VaultError as error:
            self.problem, entry = error.message, None
        before, self._entry = self._entry, entry
        self.owner, self.stamp = owner if entry else None, stamp
        if (before and before.document) == (entry and entry.document):
            return False
        lacking = entry.document.get("challenge") if entry else None
        self._challenge, self._away = Challenge(**lacking) if lacking else None, ""
        return entry is not None and not entry.refused

    async def close(self) -> None:
        """Ends the sign-ins under way; waits for a refresh, but not for ever."""
        waiting: list[asyncio.Task[Any]] = [pending.task for pending in self._pending.values()]
        for task in waiting:
            task.cancel()
        waiting += self._remembering
        if self._renewing is not None:
            waiting.append(self._renewing)
        if waiting:
            await asyncio.wait(waiting, timeout=REFRESHES)


async def stamps(accounts: Accounts) -> Mapping[str, Stamp]:
    """Who is signed in to which server, by the name of the account. Of several one that is good, else the latest."""
    found: dict[str, Stamp] = {}
    rows = [row for row in await accounts.vault.table.list() if row.name.startswith(ACCOUNTS)]
    for row in sorted(rows, key=lambda row: (not row.refused, row.updated_at)):
        found[row.name] = Stamp(owner=row.owner, updated_at=row.updated_at, refused=row.refused)
    return found


def _is_good(entry: Entry, refused: str | None) -> bool:
    fresh = entry.expires_at is None or entry.expires_at - datetime.now(UTC) > LEEWAY
    return fresh and entry.document["access_token"] != refused


async def _oauth() -> Any:
    return await asyncio.to_thread(import_module, _OAUTH)
