"""`chatcore accounts`: what people have with other services, for the operator."""

import click

from chatcore.accounts import Accounts
from chatcore.console import table, with_database
from chatcore.database import AccountRow, Database
from chatcore.types import LOCAL, Principal


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
    database, accounts = both
    rows = with_database(database, accounts.vault.table.list)
    click.echo(table(("PRINCIPAL", "ACCOUNT", "SIGNED IN AS", "CHANGED", "STATE"), list(map(_row, rows))))


@click.command()
@click.argument("name", required=False)
@click.option("--principal", default=LOCAL.id, show_default=True, help="Whose account it is.")
@click.option("--all", "everything", is_flag=True, help="All accounts of all principals.")
@click.pass_obj
def forget(both: tuple[Database, Accounts], name: str | None, principal: str, everything: bool) -> None:
    """Forget an account. The service is told to revoke what it has given, if it can be."""
    if everything == (name is not None):
        raise click.UsageError("name one account, or say --all")

    database, accounts = both

    async def work() -> None:
        one = None if name is None else [(principal, name)]
        for owner, account in one or [(row.owner, row.name) for row in await accounts.vault.table.list()]:
            revoked = await accounts.forget(Principal(owner), account)
            click.echo(f"forgot {account} of {owner}, {'revoked' if revoked else 'not revoked'} at the service")

    with_database(database, work)


def _row(row: AccountRow) -> tuple[str, ...]:
    changed = row.updated_at.astimezone().strftime("%Y-%m-%d %H:%M")
    return row.owner, row.name, row.subject or "-", changed, "sign in again" if row.refused else "connected"
