"""What people have with other services, and their sign-ins under way, in the database: as it was encrypted."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from functools import partial

import attrs
import peewee

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.watch import Watcher
from chatcore.types import Principal


@attrs.frozen(kw_only=True)
class AccountRow:
    """An account as it is stored. `refused`: its owner has to sign in again."""

    owner: str
    name: str
    subject: str
    scopes: Sequence[str]
    sealed: str = attrs.field(repr=False)
    expires_at: datetime | None
    refused: bool = False
    updated_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))


@attrs.frozen
class Accounts:
    """The accounts of all principals."""

    database: Database

    async def get(self, principal: Principal, name: str) -> AccountRow | None:
        """An account, or None if there is none."""
        found = await self.database.read(lambda: _accounts(*_is(principal, name)))
        return found[0] if found else None

    async def list(self, principal: Principal | None = None) -> Sequence[AccountRow]:
        """The accounts of somebody, or for the operator those of all, in the order of their names."""
        if principal is None:
            return await self.database.read(_accounts)
        return await self.database.read(lambda: _accounts(tables.Account.owner == principal.id))

    async def any(self) -> AccountRow | None:
        """Some account, if there is one."""
        found = await self.database.read(partial(_accounts, most=1))
        return found[0] if found else None

    async def put(self, row: AccountRow) -> None:
        """Stores an account, in place of an earlier one."""
        await self.database.write(partial(_put, row))

    async def refuse(self, principal: Principal, name: str) -> None:
        """Notes that the service takes an account no more."""
        await self.database.write(lambda: tables.Account.update(refused=True).where(*_is(principal, name)).execute())

    async def delete(self, principal: Principal, name: str) -> bool:
        """Deletes an account. False: there was none."""
        return bool(await self.database.write(lambda: tables.Account.delete().where(*_is(principal, name)).execute()))


@attrs.frozen(kw_only=True)
class SignInRow:
    """A sign-in under way. One that `waits` is answered, any other is used up."""

    id: str
    owner: str
    sealed: str = attrs.field(repr=False)
    waits: bool
    expires_at: datetime


@attrs.frozen
class SignIns:
    """The sign-ins under way."""

    database: Database

    async def begin(self, row: SignInRow) -> None:
        """Stores a sign-in, and removes those that have come to their end."""
        await self.database.write(partial(_begin, row))

    async def take(self, id: str, answer: str) -> SignInRow | None:  # noqa: A002  the row's name
        """The sign-in of this id, once: one that waits keeps the answer, any other is removed.

        None: there is none, it has expired, or was taken.
        """
        return await self.database.write(partial(_take, id, answer))

    async def answer(self, id: str) -> str | None:  # noqa: A002  the row's name
        """The answer to a sign-in that waits, once it is there. It is removed then."""
        return await self.database.write(partial(_answer, id))

    def watch(self, id: str) -> AbstractAsyncContextManager[Watcher]:  # noqa: A002  the row's name
        """Somebody whose `changed` tells when a sign-in may have been answered, by whatever worker."""
        return self.database.watch(_channel(id))


_ACCOUNT = [field.name for field in attrs.fields(AccountRow)]
_SIGN_IN = [field.name for field in attrs.fields(SignInRow)]


def _channel(id_: str) -> str:
    return f"sign-in {id_}"


def _is(principal: Principal, name: str) -> tuple[peewee.Expression, ...]:
    return tables.Account.owner == principal.id, tables.Account.name == name


def _accounts(*conditions: peewee.Expression, most: int | None = None) -> Sequence[AccountRow]:
    account = tables.Account
    query = account.select(*[getattr(account, name) for name in _ACCOUNT]).order_by(account.owner, account.name)
    rows = tables.fetch((query.where(*conditions) if conditions else query).limit(most))
    return [AccountRow(**dict(zip(_ACCOUNT, row, strict=True))) for row in rows]


def _put(row: AccountRow) -> None:
    values = attrs.asdict(row, recurse=False)
    account = tables.Account
    changed = {getattr(account, name): value for name, value in values.items() if name not in ("owner", "name")}
    account.insert(**values).on_conflict(conflict_target=[account.owner, account.name], update=changed).execute()


def _begin(row: SignInRow) -> None:
    tables.SignIn.delete().where(tables.SignIn.expires_at < datetime.now(UTC)).execute()
    tables.SignIn.insert(**attrs.asdict(row, recurse=False)).execute()


def _take(id_: str, answer: str) -> SignInRow | None:
    sign_in = tables.SignIn
    query = sign_in.select(*[getattr(sign_in, name) for name in _SIGN_IN]).where(
        sign_in.id == id_, sign_in.answer.is_null(), sign_in.expires_at >= datetime.now(UTC)
    )
    found = tables.fetch(tables.locking(query))
    if not found:
        return None
    row = SignInRow(**dict(zip(_SIGN_IN, found[0], strict=True)))
    if row.waits:
        sign_in.update(answer=answer).where(sign_in.id == id_).execute()
        tables.announce(_channel(id_))
    else:
        sign_in.delete().where(sign_in.id == id_).execute()
    return row


def _answer(id_: str) -> str | None:
    sign_in = tables.SignIn
    taken = sign_in.delete().where(sign_in.id == id_, sign_in.answer.is_null(False))
    found = tables.fetch(taken.returning(sign_in.answer))
    return found[0][0] if found else None
