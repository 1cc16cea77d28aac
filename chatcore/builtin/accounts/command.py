"""`chatcore accounts`: what people have with other services, for the operator."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

from chatcore.accounts import Accounts
from chatcore.database import AccountRow, Database
from chatcore.types import LOCAL, Principal

T = TypeVar("T")


def accounts_command(database: Database, accounts: Accounts) -> click.Command:
    """The command, for these accounts in this database."""
    return click.Group(
        "accounts",
        help="List and forget what people have with other services.",
        commands=[list_accounts, forget],
        context_settings={"obj": (database, accounts)},
    )


@click.command("list")
@click.pass_obj
def list_accounts(both: tuple[Database, Accounts]) -> None:
    """List who is signed in where. Nothing of it is a secret."""
    rows = [("PRINCIPAL", "ACCOUNT", "SIGNED IN AS", "CHANGED", "STATE"), *map(_row, _run(both, _rows))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@click.command()
@click.argument("name", required=False)
@click.option("--principal", default=LOCAL.id, show_default=True, help="Whose account it is.")
@click.option("--all", "everything", is_flag=True, help="All accounts of all principals.")
@click.pass_obj
def forget(both: tuple[Database, Accounts], name: str | None, principal: str, everything: bool) -> None:
    """Forget an account. The service is told to revoke what it has given, if it can be."""
    if everything == (name is not None):
        raise click.UsageError("name one account, or say --all")

    async def work(accounts: Accounts) -> None:
        meant = [(row.owner, row.name) for row in await _rows(accounts)] if name is None else [(principal, name)]
        for owner, account in meant:
            revoked = await accounts.forget(Principal(owner), account)
            click.echo(f"forgot {account} of {owner}, {'revoked' if revoked else 'not revoked'} at the service")

    _run(both, work)


async def _rows(accounts: Accounts) -> list[AccountRow]:
    return list(await accounts.vault.table.list())


def _run(both: tuple[Database, Accounts], work: Callable[[Accounts], Coroutine[Any, Any, T]]) -> T:
    database, accounts = both

    async def session() -> T:
        await database.open()
        try:
            return await work(accounts)
        finally:
            await database.close()

    return asyncio.run(session())


def _row(row: AccountRow) -> tuple[str, ...]:
    changed = row.updated_at.astimezone().strftime("%Y-%m-%d %H:%M")
    return row.owner, row.name, row.subject or "-", changed, "sign in again" if row.refused else "connected"
