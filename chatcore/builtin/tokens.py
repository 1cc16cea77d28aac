"""Bearer tokens: who presents one is let in, and commands to make, list and revoke them.

    chatcore tokens create --name laptop --expires 30d
    curl -H "Authorization: Bearer TOKEN" …

As long as there are none, a server on loopback lets everybody in (see `chatcore.access`).
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import attrs
import click

from chatcore.console import table, with_database
from chatcore.database import Database, TokenRecord
from chatcore.database import Tokens as TokenTable
from chatcore.errors import Unauthenticated
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Authenticator, Credentials
from chatcore.types import LOCAL, Principal

FRESH = 2.0
"""Seconds for which what the database said is taken for true: how long a revoked token may go on working, and how long
it may take until the first token closes the server."""

_REMEMBERED = 1024  # tokens; more are in use at once on no server of this kind
# What every token begins with. Other bearers, such as a sign-in plugin's, are not this authenticator's to judge.
_BEARER = re.compile(r"bearer +(cc_\S+)", re.IGNORECASE)
_LONGEST = 200  # characters of a name; the list has a column for it
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class Tokens(Plugin[NoSettings]):
    """Lets in who has a token of `chatcore tokens create`."""

    @hookimpl
    def register_auth(self) -> Iterable[Authenticator]:
        yield BearerTokens(TokenTable(self.context.database))

    @hookimpl
    def register_commands(self) -> Iterable[click.Command]:
        yield click.Group(
            "tokens",
            help="Make, list and revoke the tokens that let people in.",
            epilog="Options of the configuration stand before it: chatcore --data DIRECTORY tokens list.",
            commands=[create, list_tokens, revoke],
            context_settings={"obj": self.context.database},
        )


@attrs.define
class BearerTokens:
    """The authenticator. It asks the database at most every `FRESH` seconds for each token."""

    tokens: TokenTable
    clock: Callable[[], float] = time.monotonic
    name: str = "tokens"
    _known: dict[str, tuple[Principal, float]] = attrs.field(factory=dict, init=False, repr=False)
    _active: tuple[bool, float] = attrs.field(default=(False, float("-inf")), init=False)

    async def active(self) -> bool:
        """Whether there is a token: then everybody needs one. Expired ones count, revoked ones do not."""
        answer, until = self._active
        if self.clock() >= until:
            answer = await self.tokens.any()
            self._active = (answer, self.clock() + FRESH)
        return answer

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """The principal of the bearer token in the header `Authorization`."""
        match = _BEARER.fullmatch(credentials.headers.get("authorization", ""))
        if match is None:
            return None
        token = match[1]
        principal, until = self._known.get(token, (None, 0.0))
        if principal is not None and self.clock() < until:
            return principal
        record = await self.tokens.find(token)
        if record is None:
            self._known.pop(token, None)
            raise Unauthenticated(
                "this token is unknown, expired or revoked", hint="make a new one with 'chatcore tokens create'"
            )
        return self._remember(token, record)

    def _remember(self, token: str, record: TokenRecord) -> Principal:
        left = (record.expires_at - datetime.now(UTC)).total_seconds() if record.expires_at else FRESH
        principal = Principal(record.principal_id, record.scopes)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[token] = (principal, self.clock() + min(left, FRESH))
        return principal


# --- commands ---------------------------------------------------------------------------------------------------------


class Lifetime(click.ParamType[datetime]):
    """A time span such as 30d, as the moment at which it ends."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        match = re.fullmatch(r"([1-9][0-9]*)([mhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a time span: write a number and m, h, d or w, as in 30d", param, ctx)
        try:
            return datetime.now(UTC) + timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            self.fail(f"{value} ends after the year 9999: leave it out for a token without an end", param, ctx)


def _named(_ctx: click.Context, _option: click.Parameter, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    for name in (value,) if isinstance(value, str) else value:
        if not name or re.search(r"\s", name):
            raise click.BadParameter(f"{name!r} is no name: it has no spaces, and is not empty")
        _seen(_ctx, _option, name)
    return value


def _seen(_ctx: click.Context, _option: click.Parameter, value: str) -> str:
    if len(value) > _LONGEST:
        raise click.BadParameter(f"it has {len(value)} characters: write no more than {_LONGEST}")
    if not value.isprintable():
        raise click.BadParameter(f"{value!r} has characters that nobody sees: write it without them")
    return value


@click.command()
@click.option("--name", default="", callback=_seen, help="What it is for; shown in the list.")
@click.option("--principal", default=LOCAL.id, show_default=True, callback=_named, help="Whose conversations it opens.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=["*"],
    callback=_named,
    help="What it may do, such as chat or metrics; may be repeated. Everything by default.",
)
@click.option("--expires", type=Lifetime(), help="When it ends, such as 12h, 30d or 8w; never by default.")
@click.pass_obj
def create(database: Database, name: str, principal: str, scopes: Sequence[str], expires: datetime | None) -> None:
    """Make a token. It is printed once, alone on the standard output."""
    tokens = TokenTable(database)
    record, token = with_database(database, lambda: tokens.create(principal, scopes, name, expires))
    click.echo(token)
    click.echo(f"Keep it: it is not shown again. 'chatcore tokens revoke {record.id}' takes it back.", err=True)


@click.command("list")
@click.pass_obj
def list_tokens(database: Database) -> None:
    """List the tokens, the oldest first. What is shown of each is how it begins."""
    rows = map(_row, with_database(database, TokenTable(database).list))
    click.echo(table(("TOKEN", "NAME", "PRINCIPAL", "SCOPES", "MADE", "USED", "STATE"), list(rows)))


@click.command()
@click.argument("token")
@click.pass_obj
def revoke(database: Database, token: str) -> None:
    """Take a token back. TOKEN is how it begins, as in the list, or all of it. A running server follows in seconds."""
    record = with_database(database, lambda: TokenTable(database).revoke(token))
    click.echo(f"revoked {record.id} {record.name}".rstrip())


def _row(record: TokenRecord) -> tuple[str, ...]:
    return (
        record.id,
        record.name,
        record.principal_id,
        " ".join(sorted(record.scopes)),
        _day(record.created_at),
        _day(record.last_used_at) if record.last_used_at else "never",
        _state(record),
    )


def _state(record: TokenRecord) -> str:
    if record.revoked_at:
        return f"revoked {_day(record.revoked_at)}"
    if record.expires_at is None:
        return "good"
    return f"{'expired' if record.expires_at <= datetime.now(UTC) else 'good until'} {_day(record.expires_at)}"


def _day(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
