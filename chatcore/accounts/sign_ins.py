"""Sign-ins under way, in the database: they outlive the server, and end on whatever worker the browser comes back to.

Each is known by its state, which the other service gives back to the call-back page. A state was made here (it is
encrypted and has its time in it), is used once, and belongs to one principal and one account.
"""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import attrs

from chatcore.accounts.keys import Keys
from chatcore.accounts.oauth import in_one_line
from chatcore.database import Database, SignInRow
from chatcore.database import SignIns as SignInTable
from chatcore.errors import SignInFailed
from chatcore.secrets import Secret
from chatcore.tools import JsonObject
from chatcore.types import Principal
from chatcore.waiting import within

LIFETIME = 600
"""Seconds that a sign-in may take."""
LOOK = 5.0
"""Seconds between two looks for an answer of which nobody has told."""


@attrs.frozen(kw_only=True)
class Answer:
    """What came back from the other service: a code, or an error. `issuer` is who says so, if it says who it is."""

    state: str = attrs.field(repr=False)
    code: Secret
    issuer: str | None = None
    error: str = ""


@attrs.frozen(kw_only=True)
class SignIn:
    """A sign-in that was answered. `kept` is what it was begun with. One that `waits` goes on where it was begun."""

    owner: Principal
    name: str
    kept: JsonObject = attrs.field(repr=False)
    waits: bool


class SignIns:
    """The sign-ins under way of all principals."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._table = SignInTable(database)
        self._keys = keys

    async def begin(self, principal: Principal, name: str) -> str:
        """A new state for an authorization request. `answer` waits for what becomes of it.

        Raises:
            VaultError: the key file is missing or wrong.
        """
        return await self.keep(principal, name, {}, waits=True)

    async def keep(self, principal: Principal, name: str, kept: JsonObject, *, waits: bool = False) -> str:
        """As `begin`, for a sign-in that goes on at the call-back page with what is kept here, encrypted."""
        state = await self._keys.seal({"owner": principal.id})
        sign_in = _digest(state)
        await self._table.begin(
            SignInRow(
                id=sign_in,
                owner=principal.id,
                sealed=await self._keys.seal({"id": sign_in, "name": name, "kept": kept}),
                waits=waits,
                expires_at=datetime.now(UTC) + timedelta(seconds=LIFETIME),
            )
        )
        return state

    async def take(self, answer: Answer, caller: Principal | None) -> SignIn:
        """The sign-in that an answer is for, which nobody gets again. `caller` is who brings it, where that is known.

        Raises:
            SignInFailed: the state was not made here, was used already, is too old, or is somebody else's.
        """
        made = await self._keys.unseal(answer.state, seconds=LIFETIME)
        if made is None:
            raise SignInFailed("this sign-in was not begun here, or too long ago", hint="begin it again")
        if caller is not None and caller.id != made["owner"]:
            raise SignInFailed("this sign-in was begun by somebody else")
        told = {"code": answer.code.reveal(), "issuer": answer.issuer, "error": answer.error}
        sign_in = _digest(answer.state)
        row = await self._table.take(sign_in, await self._keys.seal(told))
        begun = await self._keys.unseal(row.sealed) if row else None
        if row is None or begun is None or begun["id"] != sign_in or row.owner != made["owner"]:
            raise SignInFailed("this sign-in has been used already", hint="begin it again")
        return SignIn(owner=Principal(row.owner), name=begun["name"], kept=begun["kept"], waits=row.waits)

    async def answer(self, principal: Principal, state: str) -> Answer:
        """Waits for the answer to a sign-in that `begin` has begun, on whatever worker it comes, and gives it once.

        Raises:
            SignInFailed: the user or the service said no, or nothing has come in time.
        """
        made = await self._keys.unseal(state)
        if made is None or made["owner"] != principal.id:
            raise SignInFailed("this sign-in was begun by somebody else")
        try:
            async with asyncio.timeout(LIFETIME):
                told = await self._keys.unseal(await self._told(_digest(state)))
        except TimeoutError:
            told = None
        if told is None:
            raise SignInFailed("nobody has come back from the sign-in in time", hint="begin it again")
        answer = Answer(state=state, code=Secret(told["code"]), issuer=told["issuer"], error=told["error"])
        check_answer(answer)
        return answer

    async def _told(self, sign_in: str) -> str:
        async with self._table.watch(sign_in) as watcher:
            while (told := await self._table.answer(sign_in)) is None:
                await within(LOOK, watcher.changed())
        return told


def check_answer(answer: Answer) -> None:
    """Raises `SignInFailed` if an answer is a no, or nothing."""
    if answer.error:
        raise SignInFailed(f"the service said no: {in_one_line(answer.error)}")
    if not answer.code.reveal():
        raise SignInFailed("the service sent no code")


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode(errors="surrogatepass")).hexdigest()
