"""Sign-ins under way: each state is good once, for one principal, for ten minutes, on any worker."""

import asyncio
from collections.abc import Callable

import pytest

from chatcore.accounts import Accounts, Answer, sign_ins
from chatcore.accounts.sign_ins import SignIns
from chatcore.database import Database, tables
from chatcore.errors import SignInFailed
from chatcore.secrets import Secret
from chatcore.types import Principal


@pytest.fixture
def make(make_accounts: Callable[..., Accounts]) -> Callable[[], SignIns]:
    return lambda: make_accounts().sign_ins


def bringing(state: str, **fields: object) -> Answer:
    return Answer(**{"state": state, "code": Secret("a-code"), **fields})


async def test_a_sign_in_ends_on_another_worker_than_it_began(make: Callable[[], SignIns], ann: Principal):
    """With what was kept for it, which nobody can read in the database."""
    state = await make().keep(ann, "mail", {"verifier": "planted"})
    sign_in = await make().take(bringing(state), None)
    assert (sign_in.owner.id, sign_in.name, sign_in.kept, sign_in.waits) == (
        "ann",
        "mail",
        {"verifier": "planted"},
        False,
    )


async def test_nothing_is_readable_in_the_database(make: Callable[[], SignIns], database: Database, ann: Principal):
    """Neither the state, nor the verifier, nor a code that has come."""
    state = await make().begin(ann, "mail")
    kept = await make().keep(ann, "mail", {"verifier": "planted"})
    await make().take(bringing(state), None)
    rows = repr(await database.read(lambda: tables.execute("SELECT * FROM sign_in")))
    assert not [text for text in ("planted", "a-code", state, kept) if text in rows]


async def test_a_state_is_good_once(make: Callable[[], SignIns], ann: Principal):
    """Also when two come with it at the same time."""
    state = await make().keep(ann, "mail", {})
    one, other = make(), make()
    outcomes = await asyncio.gather(
        *(worker.take(bringing(state), None) for worker in (one, other, one)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["SignIn", "SignInFailed", "SignInFailed"]


@pytest.mark.parametrize("forged", ["", "ann", "gAAAAABm", "\udcff", "x" * 10_000])
async def test_a_forged_state_is_refused(make: Callable[[], SignIns], ann: Principal, forged: str):
    """Without a look into the database."""
    await make().keep(ann, "mail", {})
    with pytest.raises(SignInFailed, match="not begun here"):
        await make().take(bringing(forged), None)


async def test_something_else_that_was_encrypted_here_is_no_state(make: Callable[[], SignIns], ann: Principal):
    """Only what is stored as one is."""
    one = make()
    sealed = await one._keys.seal({"owner": "ann", "name": "mail", "document": {}})
    with pytest.raises(SignInFailed, match="used already"):
        await one.take(bringing(sealed), None)


@pytest.mark.parametrize("column", ["owner", "sealed"])
async def test_a_row_that_was_given_to_another_is_refused(
    make: Callable[[], SignIns], database: Database, ann: Principal, bob: Principal, column: str
):
    """Who can write to the database cannot have one's sign-in end as another's."""
    states = [await make().keep(principal, "mail", {}) for principal in (ann, bob)]

    def swap() -> None:
        one, other = tables.execute(f"SELECT id, {column} FROM sign_in")
        for (row, _), (_, value) in ((one, other), (other, one)):
            tables.execute(f"UPDATE sign_in SET {column} = ? WHERE id = ?", value, row)

    await database.write(swap)
    for state in states:
        with pytest.raises(SignInFailed, match="used already"):
            await make().take(bringing(state), None)


async def test_the_state_of_somebody_else_is_refused_and_stays_good(
    make: Callable[[], SignIns], ann: Principal, bob: Principal
):
    """Where the browser says who it is, nobody ends the sign-in of another."""
    state = await make().keep(ann, "mail", {})
    with pytest.raises(SignInFailed, match="somebody else"):
        await make().take(bringing(state), bob)
    assert (await make().take(bringing(state), ann)).owner.id == "ann"


async def test_a_state_ends_after_ten_minutes(
    make: Callable[[], SignIns], ann: Principal, monkeypatch: pytest.MonkeyPatch
):
    """By its own time, and by the row's, which is removed when the next sign-in begins."""
    monkeypatch.setattr(sign_ins, "LIFETIME", -1)
    state = await make().keep(ann, "mail", {})
    monkeypatch.undo()
    with pytest.raises(SignInFailed, match="used already"):
        await make().take(bringing(state), None)


async def test_expired_sign_ins_are_removed(
    make: Callable[[], SignIns], database: Database, ann: Principal, monkeypatch: pytest.MonkeyPatch
):
    """By the next one."""
    monkeypatch.setattr(sign_ins, "LIFETIME", -1)
    await make().keep(ann, "mail", {})
    monkeypatch.undo()
    await make().keep(ann, "mail", {})
    assert await database.read(lambda: tables.execute("SELECT count(*) FROM sign_in")) == [(1,)]


# --- those that wait --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits_first", [True, False])
async def test_who_waits_gets_the_answer_from_another_worker(
    make: Callable[[], SignIns], ann: Principal, waits_first: bool, monkeypatch: pytest.MonkeyPatch
):
    """Whether it waits already when that comes or not; with the issuer, and once."""
    monkeypatch.setattr(sign_ins, "LOOK", 60.0)  # it is told, and does not look by itself
    one, other = make(), make()
    state = await one.begin(ann, "tools/x")
    waiting = asyncio.create_task(one.answer(ann, state)) if waits_first else None
    taken = await other.take(bringing(state, issuer="https://issuer"), None)
    assert taken.waits
    answer = await asyncio.wait_for(waiting or one.answer(ann, state), 10)
    assert (answer.code.reveal(), answer.issuer, answer.state) == ("a-code", "https://issuer", state)
    with pytest.raises(SignInFailed, match="used already"):
        await other.take(bringing(state), None)


async def test_the_first_answer_counts(make: Callable[[], SignIns], ann: Principal):
    """Another one that comes before it was read is refused, and changes nothing."""
    state = await make().begin(ann, "tools/x")
    await make().take(bringing(state), None)
    with pytest.raises(SignInFailed, match="used already"):
        await make().take(bringing(state, code=Secret("injected")), None)
    assert (await make().answer(ann, state)).code.reveal() == "a-code"


async def test_who_waits_is_told_of_a_no(make: Callable[[], SignIns], ann: Principal):
    """With what the service says."""
    one = make()
    state = await one.begin(ann, "tools/x")
    await make().take(bringing(state, code=Secret(""), error="access_denied"), None)
    with pytest.raises(SignInFailed, match="access_denied"):
        await asyncio.wait_for(one.answer(ann, state), 10)


async def test_nobody_waits_for_the_answer_of_another(make: Callable[[], SignIns], ann: Principal, bob: Principal):
    """Nor for one to something that is no state."""
    state = await make().begin(ann, "tools/x")
    for asking, asked in ((bob, state), (ann, "forged")):
        with pytest.raises(SignInFailed, match="somebody else"):
            await make().answer(asking, asked)


async def test_who_waits_does_not_wait_for_ever(
    make: Callable[[], SignIns], ann: Principal, monkeypatch: pytest.MonkeyPatch
):
    """The window may have been closed."""
    state = await make().begin(ann, "tools/x")
    monkeypatch.setattr(sign_ins, "LIFETIME", 0.05)
    with pytest.raises(SignInFailed, match="in time"):
        await make().answer(ann, state)
