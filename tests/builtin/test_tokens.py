"""Bearer tokens: the authenticator over a real database, and the commands."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from quart import Quart

from chatcore.access import Access, authenticated, current_principal
from chatcore.builtin.tokens import FRESH, BearerTokens, Lifetime, Tokens
from chatcore.config import Config
from chatcore.database import Database, tables
from chatcore.database import Tokens as TokenTable
from chatcore.errors import ChatcoreError, Conflict, NotFound, Unauthenticated
from chatcore.hooks import Context, NoSettings
from chatcore.protocols import Activatable, Authenticator, Credentials
from chatcore.types import Principal


@attrs.define
class Clock:
    """A clock that a test moves."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def table(tmp_path: Path) -> AsyncIterator[TokenTable]:
    """The tokens of an open database, which is a file."""
    database = Database(str(tmp_path / "chatcore.db"))
    await database.open()
    yield TokenTable(database)
    await database.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bearer(table: TokenTable, clock: Clock) -> BearerTokens:
    return BearerTokens(table, clock)


async def ask(bearer: BearerTokens, authorization: str | None) -> Principal | None:
    return await bearer.authenticate(Credentials({} if authorization is None else {"authorization": authorization}))


async def test_who_has_a_token_is_let_in_when_nothing_can_be_written(table: TokenTable, bearer: BearerTokens) -> None:
    """As when the disk is full: what is stored can still be read, by those whose it is."""
    _, token = await table.create("ann", ["*"], "")
    full = "CREATE TRIGGER full BEFORE UPDATE ON token BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    await table.database.write(lambda: tables.execute(full))
    assert await ask(bearer, f"Bearer {token}") == Principal("ann", frozenset({"*"}))
    assert (await table.list())[0].last_used_at is None


# --- the authenticator ------------------------------------------------------------------------------------------------


async def test_a_token_is_its_principal(bearer: BearerTokens, table: TokenTable) -> None:
    """With the scopes that it was made with."""
    _, token = await table.create("anna", ["chat", "admin"], "laptop")
    assert await ask(bearer, f"Bearer {token}") == Principal("anna", frozenset({"chat", "admin"}))
    assert await ask(bearer, f"bearer   {token}") == Principal("anna", frozenset({"chat", "admin"}))
    assert isinstance(bearer, Authenticator)
    assert isinstance(bearer, Activatable)


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer eyJhbGciOi.e30.x", "Bearer sk-anything", "cc_x"],
)
async def test_other_credentials_are_somebody_elses(bearer: BearerTokens, authorization: str | None) -> None:
    """Another authenticator may know them; clients that always send a key work where no one needs any."""
    assert await ask(bearer, authorization) is None


@pytest.mark.parametrize("change", [lambda token: token[:11], lambda token: token[:-1], lambda token: token + "x"])
async def test_a_part_of_a_token_is_refused(
    bearer: BearerTokens, table: TokenTable, change: Callable[[str], str]
) -> None:
    """As is one with something behind it."""
    _, token = await table.create("anna", ["*"], "")
    with pytest.raises(Unauthenticated) as refused:
        await ask(bearer, f"Bearer {change(token)}")
    assert "tokens create" in (refused.value.hint or "")


async def test_two_tokens_are_none(bearer: BearerTokens, table: TokenTable) -> None:
    """Headers that were joined on the way are not picked from."""
    _, token = await table.create("anna", ["*"], "")
    assert await ask(bearer, f"Bearer {token}, Bearer {token}") is None


async def test_an_unknown_token_is_refused(bearer: BearerTokens) -> None:
    """It is of our kind, and nobody else can judge it. The message does not repeat it."""
    with pytest.raises(Unauthenticated) as refused:
        await ask(bearer, "Bearer cc_0123456789")
    assert "cc_0123456789" not in f"{refused.value} {refused.value.hint}"


async def test_an_expired_token_is_refused(bearer: BearerTokens, table: TokenTable) -> None:
    """From the moment of its end."""
    _, token = await table.create("anna", ["*"], "", datetime.now(UTC) - timedelta(seconds=1))
    with pytest.raises(Unauthenticated):
        await ask(bearer, f"Bearer {token}")


async def test_a_revoked_token_works_no_longer_than_stated(
    bearer: BearerTokens, table: TokenTable, clock: Clock
) -> None:
    """The database is asked again after FRESH seconds."""
    record, token = await table.create("anna", ["*"], "")
    await ask(bearer, f"Bearer {token}")
    await table.revoke(record.id)
    clock.now += FRESH
    with pytest.raises(Unauthenticated):
        await ask(bearer, f"Bearer {token}")
    with pytest.raises(Unauthenticated):
        await ask(bearer, f"Bearer {token}")


async def test_a_token_used_again_costs_no_database(bearer: BearerTokens, table: TokenTable, clock: Clock) -> None:
    """Within FRESH seconds it is known, even with the database closed."""
    _, token = await table.create("anna", ["*"], "")
    await ask(bearer, f"Bearer {token}")
    await bearer.active()
    await table.database.close()
    clock.now += FRESH * 0.9
    assert await ask(bearer, f"Bearer {token}") == Principal("anna", frozenset({"*"}))
    assert await bearer.active()


async def test_nothing_is_remembered_beyond_a_tokens_end(bearer: BearerTokens, table: TokenTable, clock: Clock) -> None:
    """The end counts even within FRESH seconds."""
    expires = datetime.now(UTC) + timedelta(seconds=0.3)
    _, token = await table.create("anna", ["*"], "", expires)
    assert await ask(bearer, f"Bearer {token}")
    clock.now += 0.3
    await asyncio.sleep(max(0.0, (expires - datetime.now(UTC)).total_seconds()))
    with pytest.raises(Unauthenticated):
        await ask(bearer, f"Bearer {token}")


async def test_memory_is_bounded(bearer: BearerTokens, table: TokenTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """More tokens than are remembered still work."""
    monkeypatch.setattr("chatcore.builtin.tokens._REMEMBERED", 2)
    tokens = [(await table.create(str(number), ["*"], ""))[1] for number in range(5)]
    for _ in range(2):
        found = [await ask(bearer, f"Bearer {token}") for token in tokens]
        assert [principal.id for principal in found if principal] == ["0", "1", "2", "3", "4"]
        assert len(bearer._known) <= 2


async def test_wrong_tokens_take_no_memory(bearer: BearerTokens) -> None:
    """Guessing fills nothing."""
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await ask(bearer, f"Bearer cc_{number}")
    assert not bearer._known


async def test_the_first_token_closes_the_server(bearer: BearerTokens, table: TokenTable, clock: Clock) -> None:
    """Within FRESH seconds; an expired token keeps it closed, revoking the last opens it."""
    assert not await bearer.active()
    record, _ = await table.create("anna", ["*"], "", datetime.now(UTC) - timedelta(days=1))
    clock.now += FRESH
    assert await bearer.active()
    await table.revoke(record.id)
    clock.now += FRESH
    assert not await bearer.active()


async def test_a_server_with_tokens(bearer: BearerTokens, table: TokenTable) -> None:
    """All together: without a token 401, with one the principal's view."""
    app = Quart(__name__)
    Access(Config(host="0.0.0.0"), lambda: [bearer]).install(app)

    @app.get("/mine")
    @authenticated
    async def mine() -> str:
        return current_principal().id

    async def answer(error: ChatcoreError) -> tuple[dict[str, str], int]:
        return {"detail": error.message}, error.status

    app.register_error_handler(ChatcoreError, answer)
    _, token = await table.create("anna", ["*"], "")
    client = app.test_client(use_cookies=False)
    assert (await client.get("/mine")).status_code == 401
    assert (await client.get("/mine", headers={"Authorization": "Bearer cc_wrong"})).status_code == 401
    response = await client.get("/mine", headers={"Authorization": f"Bearer {token}"})
    assert await response.get_data() == b"anna"


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path) -> Tokens:
    """The plugin with a database that is closed, as on the command line."""
    database = Database(str(tmp_path / "chatcore.db"))
    return Tokens(Context("tokens", NoSettings(), tmp_path / "tokens", database, logging.getLogger("tokens")))


def run(plugin: Tokens, *arguments: str) -> Result:
    """One call of `chatcore tokens …`."""
    (command,) = plugin.register_commands()
    assert command.name == "tokens"
    return CliRunner().invoke(command, arguments)


def find(plugin: Tokens, token: str) -> Principal | None:
    """Whom the server would take the bearer for."""

    async def session() -> Principal | None:
        await plugin.context.database.open()
        try:
            (authenticator,) = plugin.register_auth()
            return await authenticator.authenticate(Credentials({"authorization": f"Bearer {token}"}))
        finally:
            await plugin.context.database.close()

    return asyncio.run(session())


def test_create_prints_the_token_alone(plugin: Tokens) -> None:
    """So that a script can take it; what a person should know is beside it. By default it may do everything."""
    result = run(plugin, "create")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert "not shown again" in result.stderr
    assert find(plugin, result.stdout.strip()) == Principal("local", frozenset({"*"}))


def test_create_takes_scopes_and_a_principal(plugin: Tokens) -> None:
    """As many scopes as are given, and no more."""
    result = run(plugin, "create", "--principal", "anna", "--scope", "chat", "--scope", "admin")
    assert find(plugin, result.stdout.strip()) == Principal("anna", frozenset({"chat", "admin"}))


@pytest.mark.parametrize("wrong", ["", " ", "two words"])
@pytest.mark.parametrize("option", ["--principal", "--scope"])
def test_a_name_that_is_none_is_refused(plugin: Tokens, option: str, wrong: str) -> None:
    """Nobody could have it; the message says what a name is."""
    result = run(plugin, "create", option, wrong)
    assert result.exit_code == 2
    assert f"{wrong!r} is no name" in result.stderr


@pytest.mark.parametrize("wrong", ["a\x1b[2Jb", "a\u202eb", "\udcff", "x" * 201])
@pytest.mark.parametrize("option", ["--name", "--principal", "--scope"])
def test_a_name_that_nobody_could_read_is_refused(plugin: Tokens, option: str, wrong: str) -> None:
    """What a terminal obeys, or what would make the list as wide; it is told with what is wrong."""
    result = run(plugin, "create", option, wrong)
    assert result.exit_code == 2
    assert "characters" in result.stderr
    assert "\x1b" not in result.stderr


def test_the_list_shows_no_token(plugin: Tokens) -> None:
    """It shows how each begins, its name, and whether it is good."""
    tokens = [run(plugin, "create", *options).stdout.strip() for options in (["--name", "laptop"], ["--expires", "2h"])]
    run(plugin, "revoke", tokens[1])
    find(plugin, tokens[0])
    listed = run(plugin, "list").stdout
    head, first, second = listed.splitlines()
    assert head.split() == ["TOKEN", "NAME", "PRINCIPAL", "SCOPES", "MADE", "USED", "STATE"]
    assert tokens[0].startswith(first.split()[0])
    assert "laptop" in first
    assert first.endswith("good")
    assert "never" in second
    assert "revoked" in second
    assert not any(token in listed for token in tokens)


def test_the_list_tells_the_end(plugin: Tokens, table: TokenTable) -> None:
    """Good until then, or expired since."""
    asyncio.run(_make(plugin, datetime.now(UTC) - timedelta(days=2)))
    run(plugin, "create", "--expires", "8w")
    _, first, second = run(plugin, "list").stdout.splitlines()
    assert "expired" in first
    assert f"good until {datetime.now().astimezone() + timedelta(weeks=8):%Y-%m}" in second


async def _make(plugin: Tokens, expires: datetime) -> None:
    await plugin.context.database.open()
    await TokenTable(plugin.context.database).create("local", ["*"], "old", expires)
    await plugin.context.database.close()


def test_an_empty_list_has_a_head(plugin: Tokens) -> None:
    """It says what would be there."""
    assert run(plugin, "list").stdout.startswith("TOKEN")


def test_revoke_takes_a_token_back(plugin: Tokens) -> None:
    """By how it begins, or as a whole."""
    first, second = (run(plugin, "create").stdout.strip() for _ in range(2))
    assert run(plugin, "revoke", first[:9]).exit_code == 0
    assert run(plugin, "revoke", second).exit_code == 0
    for token in (first, second):
        with pytest.raises(Unauthenticated):
            find(plugin, token)


def test_revoke_says_what_it_cannot_find(plugin: Tokens) -> None:
    """Nothing is revoked by mistake."""
    run(plugin, "create")
    run(plugin, "create")
    assert isinstance(run(plugin, "revoke", "cc_none").exception, NotFound)
    assert isinstance(run(plugin, "revoke", "cc_").exception, Conflict)
    assert "revoked" not in run(plugin, "list").stdout


@pytest.mark.parametrize(
    "text", ["", "30", "d", "0d", "-1d", "1.5h", "30 d", "30D", "1y", "9999999999d", "99999999w", "１d"]
)
def test_a_lifetime_that_is_none(plugin: Tokens, text: str) -> None:
    """Refused with an example; no token is made."""
    result = run(plugin, "create", "--expires", text)
    assert result.exit_code == 2
    assert "--expires" in result.stderr
    assert run(plugin, "list").stdout.count("\n") == 1


@given(st.integers(1, 10_000), st.sampled_from([("m", 60), ("h", 3600), ("d", 86400), ("w", 604800)]))
def test_a_lifetime_ends_in_so_long(number: int, unit: tuple[str, int]) -> None:
    """Minutes, hours, days and weeks, from now."""
    left = Lifetime().convert(f"{number}{unit[0]}", None, None) - datetime.now(UTC)
    assert left.total_seconds() == pytest.approx(number * unit[1], abs=5)


def test_the_group_lists_its_commands(plugin: Tokens) -> None:
    """`chatcore tokens --help`."""
    (command,) = plugin.register_commands()
    assert isinstance(command, click.Group)
    assert set(command.commands) == {"create", "list", "revoke"}
    assert all(command.commands[name].help for name in command.commands)
