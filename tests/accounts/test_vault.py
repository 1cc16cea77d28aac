"""The vault: documents by owner and name, encrypted, and claimed by one task of one worker at a time."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from chatcore.accounts import Accounts, vault
from chatcore.accounts.vault import Vault
from chatcore.database import Database, tables
from chatcore.errors import VaultError
from chatcore.types import Principal

DOCUMENT = {"access_token": "planted-token", "n": [1, {"ü": None}]}
SOON = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def make(make_accounts: Callable[..., Accounts]) -> Callable[[], Vault]:
    return lambda: make_accounts().vault


async def test_a_document_comes_back_to_its_owner_only(make: Callable[[], Vault], ann: Principal, bob: Principal):
    """With what was stored beside it, on any worker."""
    await make().put(ann, "mail", DOCUMENT, subject="ann@example.org", scopes=["read"], expires_at=SOON)
    entry = await make().get(ann, "mail")
    assert entry is not None
    assert (entry.document, entry.subject, entry.scopes) == (DOCUMENT, "ann@example.org", ("read",))
    assert (entry.expires_at, entry.refused) == (SOON, False)
    assert await make().get(bob, "mail") is None
    assert await make().get(ann, "disk") is None
    assert not await make().delete(bob, "mail")
    assert await make().delete(ann, "mail")
    assert await make().get(ann, "mail") is None


async def test_no_secret_is_in_the_database_or_in_a_repr(make: Callable[[], Vault], database: Database, ann: Principal):
    """What is encrypted is the whole document."""
    await make().put(ann, "mail", DOCUMENT)
    rows = await database.read(lambda: tables.execute("SELECT * FROM account"))
    assert "planted" not in repr(rows)
    assert "planted" not in repr(await make().get(ann, "mail"))
    assert "gAAAA" not in repr(await make().table.get(ann, "mail"))


async def test_a_row_given_to_another_owner_is_refused(make: Callable[[], Vault], database: Database, ann: Principal):
    """Who can write to the database cannot make one's account another's."""
    await make().put(ann, "mail", DOCUMENT)
    await database.write(lambda: tables.execute("UPDATE account SET owner = ?", "eve"))
    with pytest.raises(VaultError, match="cannot be decrypted"):
        await make().get(Principal("eve"), "mail")


async def test_a_refused_document_stays_and_a_new_one_is_good(make: Callable[[], Vault], ann: Principal):
    """The mark is for its owner, who signs in again."""
    await make().put(ann, "mail", DOCUMENT)
    await make().refuse(ann, "mail")
    entry = await make().get(ann, "mail")
    assert entry is not None
    assert (entry.refused, entry.document) == (True, DOCUMENT)
    await make().put(ann, "mail", {})
    entry = await make().get(ann, "mail")
    assert entry is not None
    assert not entry.refused


async def test_a_vault_says_when_its_key_is_gone(make: Callable[[], Vault], key_file, ann: Principal):
    """It neither makes a new one nor gives nothing."""
    await make().put(ann, "mail", DOCUMENT)
    key_file.unlink()
    for work in (make().get(ann, "mail"), make().put(ann, "disk", {})):
        with pytest.raises(VaultError):
            await work


# --- claims -----------------------------------------------------------------------------------------------------------


async def test_one_at_a_time_has_a_claim(make: Callable[[], Vault], ann: Principal):
    """Of all tasks of all workers; nothing that is claimed is read between another's reading and writing."""
    workers = [make(), make()]
    await workers[0].put(ann, "mail", {"n": 0})

    async def count(one: Vault) -> None:
        async with one.claim(ann, "mail"):
            entry = await one.get(ann, "mail")
            assert entry is not None
            await one.put(ann, "mail", {"n": entry.document["n"] + 1})

    await asyncio.gather(*(count(workers[number % 2]) for number in range(10)))
    entry = await workers[0].get(ann, "mail")
    assert entry is not None
    assert entry.document == {"n": 10}


async def test_claims_of_others_and_of_other_names_do_not_wait(
    make: Callable[[], Vault], ann: Principal, bob: Principal
):
    """Nor does one that comes after an error."""
    one = make()
    async with one.claim(ann, "mail"), one.claim(bob, "mail"), one.claim(ann, "disk"):
        pass
    with pytest.raises(ZeroDivisionError):
        async with one.claim(ann, "mail"):
            raise ZeroDivisionError
    async with asyncio.timeout(5), make().claim(ann, "mail"):
        pass


async def test_a_claim_is_kept_for_as_long_as_it_is_held(
    make: Callable[[], Vault], ann: Principal, monkeypatch: pytest.MonkeyPatch
):
    """Beyond its lease: that is renewed. Who waits can stop to, and leaves nothing behind."""
    monkeypatch.setattr(vault, "LEASE", 1.0)
    one, other = make(), make()
    async with one.claim(ann, "mail"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5), other.claim(ann, "mail"):
                raise AssertionError("two have it")
    async with asyncio.timeout(5), other.claim(ann, "mail"):
        pass


async def test_a_claim_ends_some_time_after_its_holder_died(
    make: Callable[[], Vault], database: Database, ann: Principal
):
    """So nobody is locked out for ever."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    await make()._jobs.claim("account 'ann' 'mail'", "a dead worker", past)
    async with asyncio.timeout(5), make().claim(ann, "mail"):
        pass
    assert await database.read(lambda: tables.execute("SELECT * FROM job")) == []
