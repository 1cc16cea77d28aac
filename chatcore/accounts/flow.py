"""Signing in, staying signed in, and leaving: what plugins, routes and commands do with accounts."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import attrs

from chatcore.accounts import oauth as requests
from chatcore.accounts.sign_ins import Answer, SignIn, SignIns, check_answer
from chatcore.accounts.vault import Entry, Vault
from chatcore.database import AccountRow, Database
from chatcore.errors import AccountError, ChatcoreError, Conflict, NotFound, SignInFailed, SignInNeeded, VaultError
from chatcore.protocols import Account, Form, FormField, OAuth
from chatcore.secrets import Secret
from chatcore.types import Principal

logger = logging.getLogger(__name__)

CALL_BACK = "/api/accounts/callback"
"""The path of the call-back page."""
LEEWAY = timedelta(seconds=60)
"""For how long a token must still be good to be given out."""
FAREWELL = 10.0
"""Seconds that the refreshes under way are given when the server stops."""


@attrs.frozen(kw_only=True)
class Status:
    """How somebody stands with another service. `kind` is null where the plugin that knew it is gone; `subject` is as
    whom they are signed in there."""

    name: str
    title: str
    kind: Literal["oauth", "form"] | None
    state: Literal["connected", "not_connected", "sign_in_again"]
    fields: tuple[FormField, ...] = ()
    subject: str = ""
    scopes: tuple[str, ...] = ()
    expires_at: datetime | None = None


class Accounts:
    """The accounts of everybody with the services that plugins have registered. A plugin's is `context.host.accounts`.

    `vault` and `sign_ins` are for a plugin that talks to the service in its own way. Usable while the database is open.
    """

    def __init__(
        self,
        database: Database,
        key_file: Path,
        *,
        public_url: str | None = None,
        registered: Callable[[], Mapping[str, Account]] = dict,
    ) -> None:
        self.vault = Vault(database, key_file)
        self.sign_ins = SignIns(database, self.vault.keys)
        self._public_url = public_url
        self._registered = registered
        self._renewing: dict[tuple[str, str], asyncio.Task[Secret]] = {}

    @property
    def redirect_uri(self) -> str:
        """The call-back page as a browser reaches it: what is to be registered at a service, to the letter.

        Raises:
            Conflict: it is not known as what browsers know this server.
        """
        if self._public_url is None:
            raise Conflict(
                "it is not known under which address browsers reach this server",
                hint="set public_url, such as https://chat.example.com",
            )
        return self._public_url.rstrip("/") + CALL_BACK

    # --- for plugins --------------------------------------------------------------------------------------------------

    async def entry(self, principal: Principal, name: str) -> Entry:
        """What somebody has with a service.

        Raises:
            SignInNeeded: nothing, or nothing that the service still takes.
            VaultError: it cannot be decrypted.
        """
        entry = await self.vault.get(principal, name)
        if entry is None or entry.refused:
            raise self._needed(name, again=entry is not None)
        return entry

    def _needed(self, name: str, *, again: bool) -> SignInNeeded:
        account = self._registered().get(name)
        return SignInNeeded(
            f"sign in to {account.title if account else name}{' again' if again else ''}",
            hint=f"in the client's settings, or with POST /api/accounts/{name}/sign-in",
        )

    async def token(self, principal: Principal, name: str, *, refused: Secret | None = None) -> Secret:
        """An access token of somebody's, good for a minute at least; refreshed if need be, once for all who ask.

        `refused` is a token that the service has just refused: it gives another.

        Raises:
            SignInNeeded: the owner has to sign in, first or again.
            AccountUnavailable: the service does not answer; worth another try.
            AccountError: it says no for another reason.
            NotFound: no plugin has registered such an account.
        """
        oauth = self._oauth(name)
        entry = await self.entry(principal, name)
        if _is_good(entry, refused):
            return Secret(entry.document["access_token"])
        renewing = self._renewing.get((principal.id, name))
        if renewing is None:
            renewing = asyncio.create_task(self._renew(principal, name, oauth, refused))
            self._renewing[principal.id, name] = renewing
            renewing.add_done_callback(lambda task: self._renewed((principal.id, name), task))
        # Whoever stops waiting must not cut it: what the service sends is the only token that it will take next.
        return await asyncio.shield(renewing)

    def _renewed(self, key: tuple[str, str], task: asyncio.Task[Secret]) -> None:
        del self._renewing[key]
        if not task.cancelled():
            task.exception()  # whoever asked may have gone

    async def _renew(self, principal: Principal, name: str, oauth: OAuth, refused: Secret | None) -> Secret:
        async with self.vault.claim(principal, name):
            entry = await self.entry(principal, name)
            if _is_good(entry, refused):  # another worker was quicker
                return Secret(entry.document["access_token"])
            try:
                tokens = await requests.renew(oauth, entry.document, entry.scopes)
            except SignInNeeded as error:
                logger.warning("%s has to sign in to %s again: %s", principal.id, name, error.message)
                await self.vault.refuse(principal, name)
                raise self._needed(name, again=True) from error
            await self._keep(principal, name, tokens, entry.subject)
        return Secret(tokens.document["access_token"])

    async def _keep(self, principal: Principal, name: str, tokens: requests.Tokens, subject: str) -> None:
        await self.vault.put(
            principal, name, tokens.document, subject=subject, scopes=tokens.scopes, expires_at=tokens.expires_at
        )

    # --- for users ----------------------------------------------------------------------------------------------------

    async def statuses(self, principal: Principal) -> Sequence[Status]:
        """How somebody stands with every service that they can sign in to, or have signed in to."""
        rows = {row.name: row for row in await self.vault.table.list(principal)}
        registered = self._registered()
        names = [*registered, *(name for name in rows if name not in registered)]
        return [_status(name, registered.get(name), rows.get(name)) for name in names]

    async def begin(self, principal: Principal, name: str) -> str:
        """Begins a sign-in, and gives the URL to which the user's browser is to go.

        Raises:
            NotFound: no plugin has registered such an account, or not one of OAuth.
            Conflict: it is not known as what browsers know this server.
        """
        oauth = self._oauth(name)
        redirect_uri = oauth.redirect_uri or self.redirect_uri
        await asyncio.to_thread(requests.library)
        verifier = requests.new_verifier()
        kept = {"verifier": verifier, "redirect_uri": redirect_uri}
        state = await self.sign_ins.keep(principal, name, kept)
        return requests.authorize_url(oauth, state=state, verifier=verifier, redirect_uri=redirect_uri)

    async def called_back(self, answer: Answer, caller: Principal | None = None) -> str:
        """Ends a sign-in with what the browser has brought, and gives what the user is to be told.

        `caller` is who the browser's request is from, where that is known.

        Raises:
            SignInFailed: it is refused.
            AccountError: the service does not answer, or says no.
            ChatcoreError: of any kind; it is in the log.
        """
        try:
            sign_in = await self.sign_ins.take(answer, caller)
            if sign_in.waits:
                check_answer(answer)
                return f"The sign-in to {sign_in.name} goes on."
            return await self._redeem(sign_in, answer)
        except ChatcoreError as error:
            logger.warning("a sign-in has failed: %s", error.message)
            raise

    async def _redeem(self, sign_in: SignIn, answer: Answer) -> str:
        account, oauth = self._account(sign_in.name), self._oauth(sign_in.name)
        if oauth.issuer is not None and answer.issuer != oauth.issuer:
            issuer = requests.in_one_line(answer.issuer or "nobody")
            raise SignInFailed(f"the answer is from {issuer}, not from {oauth.issuer}")
        check_answer(answer)
        try:
            tokens = await requests.redeem(oauth, code=answer.code.reveal(), **sign_in.kept)
        except SignInNeeded as error:
            raise SignInFailed(f"the code is not taken: {error.message}", hint="begin the sign-in again") from None
        subject = await _subject(oauth, Secret(tokens.document["access_token"]))
        async with self.vault.claim(sign_in.owner, sign_in.name):
            await self._keep(sign_in.owner, sign_in.name, tokens, subject)
        return f"{account.title} is connected" + (f" as {subject}." if subject else ".")

    def has_form(self, name: str) -> bool:
        """Whether one signs in by filling in a form. Raises NotFound as `begin` does."""
        return isinstance(self._account(name).sign_in, Form)

    async def submit(self, principal: Principal, name: str, typed: Mapping[str, str]) -> None:
        """Signs in with what was typed into a form.

        Raises:
            SignInFailed: the service says no, or a field is missing.
            AccountUnavailable: the service does not answer.
            NotFound: no plugin has registered such an account.
        """
        form = self._account(name).sign_in
        if not isinstance(form, Form):
            raise NotFound(f"the account {name!r} has no form", hint="sign in with a browser")
        if missing := [field.name for field in form.fields if field.required and not typed.get(field.name)]:
            raise SignInFailed(f"fill in {', '.join(missing)}")
        known = {field.name for field in form.fields}
        signed_in = await form.sign_in({field: Secret(text) for field, text in typed.items() if field in known})
        async with self.vault.claim(principal, name):
            await self.vault.put(
                principal, name, signed_in.document, subject=signed_in.subject, expires_at=signed_in.expires_at
            )

    async def forget(self, principal: Principal, name: str) -> bool:
        """Has the service revoke what it has given, if it can, and forgets it in any case. Gives whether it did.

        Raises:
            NotFound: there is nothing to forget.
        """
        async with self.vault.claim(principal, name):
            revoked = await self._revoke(principal, name)
            if not await self.vault.delete(principal, name):
                raise NotFound(f"{principal.id} is not signed in to {name!r}")
        return revoked

    async def _revoke(self, principal: Principal, name: str) -> bool:
        account = self._registered().get(name)
        if account is None or not isinstance(account.sign_in, OAuth):
            return False
        try:
            entry = await self.vault.get(principal, name)
            return entry is not None and await requests.revoke(account.sign_in, entry.document)
        except (AccountError, VaultError) as error:
            logger.warning("%s was not revoked: %s", name, error.message)
            return False

    async def close(self) -> None:
        """Waits for the refreshes under way, but not for ever."""
        if self._renewing:
            await asyncio.wait(self._renewing.values(), timeout=FAREWELL)

    # --- what is registered -------------------------------------------------------------------------------------------

    def _account(self, name: str) -> Account:
        account = self._registered().get(name)
        if account is None:
            raise NotFound(f"there is no account {name!r}", hint="'chatcore plugins' says which plugins have some")
        return account

    def _oauth(self, name: str) -> OAuth:
        oauth = self._account(name).sign_in
        if not isinstance(oauth, OAuth):
            raise NotFound(f"the account {name!r} has a form, and no tokens")
        return oauth


def _is_good(entry: Entry, refused: Secret | None) -> bool:
    token = entry.document.get("access_token")
    in_time = entry.expires_at is None or entry.expires_at > datetime.now(UTC) + LEEWAY
    return token is not None and in_time and Secret(token) != refused


async def _subject(oauth: OAuth, token: Secret) -> str:
    if oauth.subject is None:
        return ""
    try:
        return await oauth.subject(token)
    except Exception:  # a plugin's code: who has signed in is signed in, under whatever name
        logger.warning("it is not known who has signed in at %s", oauth.token_url, exc_info=True)
        return ""


def _status(name: str, account: Account | None, row: AccountRow | None) -> Status:
    form = account.sign_in if account and isinstance(account.sign_in, Form) else None
    return Status(
        name=name,
        title=account.title if account else name,
        kind=None if account is None else "form" if form else "oauth",
        state="not_connected" if row is None else "sign_in_again" if row.refused else "connected",
        fields=form.fields if form else (),
        subject=row.subject if row else "",
        scopes=tuple(row.scopes) if row else (),
        expires_at=row.expires_at if row else None,
    )
