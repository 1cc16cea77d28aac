"""Bearer tokens."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from chatcore.database import Database, Tokens, tables
from chatcore.errors import Conflict, NotFound


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)


async def test_token_is_shown_once(tokens: Tokens, tmp_path: Path) -> None:
    """A token begins with its id and is stored nowhere."""
    record, token = await tokens.create("ann", ["chat", "admin"], "laptop", None)
    assert token.startswith(record.id)
    assert record.id.startswith("cc_")
    assert (record.principal_id, record.name, record.scopes) == ("ann", "laptop", {"chat", "admin"})
    assert list(await tokens.list()) == [record]
    assert await tokens.find(token) == record
    for file in tmp_path.iterdir():  # noqa: ASYNC240  a test has time
        assert token[len(record.id) :].encode() not in file.read_bytes()


async def test_token_that_is_not_good(tokens: Tokens) -> None:
    """Nothing but the whole token is good, as long as it is neither expired nor revoked."""
    now = datetime.now(UTC)
    record, token = await tokens.create("ann", ["*"], "")
    for other in ("", "cc_", record.id, token[:-1], token + "x", token.upper(), "%", "\ud800", "cc_" + "x" * 100_000):
        assert await tokens.find(other) is None
    _, expired = await tokens.create("ann", ["*"], "", now - timedelta(seconds=1))
    _, later = await tokens.create("ann", ["*"], "", now + timedelta(hours=1))
    assert await tokens.find(expired) is None
    assert await tokens.find(later)
    await tokens.revoke(token)
    assert await tokens.find(token) is None


async def test_use_is_noted(tokens: Tokens, database: Database) -> None:
    """The time of the last use is kept, written at most once a minute."""
    record, token = await tokens.create("ann", ["*"], "")
    await tokens.find(token)
    first = (await tokens.list())[0].last_used_at
    assert first is not None
    await tokens.find(token)
    assert (await tokens.list())[0].last_used_at == first
    earlier = first - timedelta(minutes=2)
    await database.write(lambda: tables.Token.update(last_used_at=earlier).execute())
    await tokens.find(token)
    assert (await tokens.list())[0].last_used_at > earlier  # type: ignore[operator]
    assert record.last_used_at is None


async def test_revoking(tokens: Tokens) -> None:
    """A token is revoked by how it begins, if that is enough to know it, or by all of it; twice is the same as once."""
    one, token = await tokens.create("ann", ["*"], "one")
    two, _ = await tokens.create("bob", ["*"], "two")
    for ref, error in (
        ("", NotFound),
        ("zz", NotFound),
        ("cc_%", NotFound),
        ("cc_", Conflict),
        (token + "x", NotFound),
    ):
        with pytest.raises(error) as caught:
            await tokens.revoke(ref)
        assert caught.value.hint
        assert token[len(one.id) :] not in str(caught.value)
    revoked = await tokens.revoke(one.id)
    assert revoked.revoked_at is not None
    assert await tokens.revoke(token) == revoked
    assert (await tokens.revoke(two.id[:-1])).id == two.id
    assert [record.name for record in await tokens.list() if record.revoked_at] == ["one", "two"]


async def test_whether_there_are_any(tokens: Tokens) -> None:
    """A server has tokens until all are revoked; one that has expired does not open it."""
    assert not await tokens.any()
    record, _ = await tokens.create("ann", ["*"], "", datetime.now(UTC) - timedelta(days=1))
    assert await tokens.any()
    await tokens.revoke(record.id)
    assert not await tokens.any()
