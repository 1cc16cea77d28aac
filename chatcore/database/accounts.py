"""What people have with other services, and their sign-ins under way, in the database: as it was encrypted."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

import attrs
import peewee

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.repository import reads, writes
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

    @reads
    def get(self, principal: Principal, name: str) -> AccountRow | None:
        """An account, or None if there is none."""
        return next(iter(_accounts(*_is(principal, name))), None)

    @reads
    def list(self, principal: Principal | None = None) -> Sequence[AccountRow]:
        """The accounts of somebody, or for the operator those of all, in the order of their names."""
        return _accounts(*([] if principal is None else [tables.Account.owner == principal.id]))

    @reads
    def any(self) -> AccountRow | None:
        """Some account, if there is one."""
        return next(iter(_accounts(most=1)), None)

    @writes
    def put(self, row: AccountRow) -> None:
        """Stores an account, in place of an earlier one."""
        values = attrs.asdict(row, recurse=False)
        account = tables.Account
        changed = {getattr(account, name): value for name, value in values.items() if name not in ("owner", "name")}
        account.insert(**values).on_conflict(conflict_target=[account.owner, account.name], update=changed).execute()

    @writes
    def refuse(self, principal: Principal, name: str) -> None:
        """Notes that the service takes an account no more."""
        tables.Account.update(refused=True).where(*_is(principal, name)).execute()

    @writes
    def delete(self, principal: Principal, name: str) -> bool:
        """Deletes an account. False: there was none."""
        return bool(tables.Account.delete().where(*_is(principal, name)).execute())


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

    @writes
    def begin(self, row: SignInRow) -> None:
        """Stores a sign-in, and removes those that have come to their end."""
        tables.SignIn.delete().where(tables.SignIn.expires_at < datetime.now(UTC)).execute()
        tables.SignIn.insert(**attrs.asdict(row, recurse=False)).execute()

    @writes
    def take(self, id: str, answer: str) -> SignInRow | None:  # noqa: A002  the row's name
        """The sign-in of this id, once: one that waits keeps the answer, any other is removed.

        None: there is none, it has expired, or was taken.
        """
        sign_in = tables.SignIn
        query = sign_in.select(*tables.columns(SignInRow, sign_in).values()).where(
            sign_in.id == id, sign_in.answer.is_null(), sign_in.expires_at >= datetime.now(UTC)
        )
        row = next(iter(tables.records(SignInRow, tables.locking(query))), None)
        if row is not None and row.waits:
            sign_in.update(answer=answer).where(sign_in.id == id).execute()
            tables.announce(_channel(id))
        elif row is not None:
            sign_in.delete().where(sign_in.id == id).execute()
        return row

    @writes
    def answer(self, id: str) -> str | None:  # noqa: A002  the row's name
        """The answer to a sign-in that waits, once it is there. It is removed then."""
        sign_in = tables.SignIn
        taken = sign_in.delete().where(sign_in.id == id, sign_in.answer.is_null(False))
        found = tables.fetch(taken.returning(sign_in.answer))
        return found[0][0] if found else None

    def watch(self, id: str) -> AbstractAsyncContextManager[Watcher]:  # noqa: A002  the row's name
        """Somebody whose `changed` tells when a sign-in may have been answered, by whatever worker."""
        return self.database.watch(_channel(id))


def _channel(id_: str) -> str:
    return f"sign-in {id_}"


def _is(principal: Principal, name: str) -> tuple[peewee.Expression, ...]:
    return tables.Account.owner == principal.id, tables.Account.name == name


def _accounts(*conditions: peewee.Expression, most: int | None = None) -> Sequence[AccountRow]:
    account = tables.Account
    query = account.select(*tables.columns(AccountRow, account).values()).order_by(account.owner, account.name)
    return tables.records(AccountRow, (query.where(*conditions) if conditions else query).limit(most))
