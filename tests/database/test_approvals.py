"""Approvals: asked for once, decided once by their owner, acted on once."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from chatcore.database import Approval, Approvals, Conversations, Database, NewMessage, NewRun, Runs
from chatcore.errors import ChatcoreError, Conflict, NotFound
from chatcore.types import Principal

MakeRun = Callable[..., NewRun]


@pytest.fixture
def approvals(database: Database) -> Approvals:
    return Approvals(database)


Ask = Callable[..., Awaitable[list[Approval]]]


@pytest.fixture
def ask(
    approvals: Approvals,
    conversations: Conversations,
    ann: Principal,
    user: Callable[..., NewMessage],
    answer: Callable[..., list[NewMessage]],
    new_run: MakeRun,
) -> Ask:
    """Starts a run of Ann's and asks for calls of it; the run is named like its conversation."""

    async def ask(run_id: str, *calls: str, seconds: float = 60.0) -> list[Approval]:
        begun = await conversations.begin(ann, conversation_id=run_id, messages=[user("Do it")], run=new_run(run_id))
        stored = await conversations.add_answer(ann, run_id, begun.path[-1].id, answer(None, *calls, run_id=run_id))
        asked = [
            Approval(
                place=place.id,
                run_id=run_id,
                conversation_id=run_id,
                call_id=f"call_{name}",
                tool=name,
                arguments={"x": [1, {"ü": None}]},
                digest=f"digest of {name}",
                expires_at=datetime.now(UTC) + timedelta(seconds=seconds),
            )
            for name, place in zip(calls, stored[1:], strict=True)
        ]
        await approvals.request(asked, {"kept": run_id})
        return asked

    return ask


async def test_asked(ask: Ask, approvals: Approvals, runs: Runs, ann: Principal, bob: Principal) -> None:
    """Who is asked sees all that waits, or that of a run; nobody else sees any. The runs wait."""
    first, second = await ask("r1", "pay", "send"), await ask("r2", "pay")
    assert await approvals.open(ann) == [*first, *second]
    assert await approvals.open(ann, "r2") == second
    assert await approvals.open(bob) == await approvals.open(bob, "r1") == []
    record = await runs.get(ann, "r1")
    assert (record.state, record.reason) == ("waiting", "approval")
    assert await approvals.paused("r1") == {"kept": "r1"}


async def test_decided_once(ask: Ask, approvals: Approvals, ann: Principal) -> None:
    """The first decision counts, and is told once to who acts on it."""
    [pay] = await ask("r1", "pay")
    assert await approvals.settle(pay) is None
    decided = await approvals.decide(ann, "r1", "call_pay", pay.digest, "approve")
    assert decided == attrs.evolve(pay, decision="approve")
    for decision in ("approve", "reject"):
        with pytest.raises(Conflict, match="decided already"):
            await approvals.decide(ann, "r1", "call_pay", pay.digest, decision)
    assert await approvals.open(ann) == []
    assert await approvals.unsettled("r1") == [decided]
    assert await approvals.settle(pay) == "approve"
    assert await approvals.settle(pay) is None
    assert await approvals.unsettled("r1") == []


async def test_the_last_one_ends_the_wait(ask: Ask, approvals: Approvals, runs: Runs, ann: Principal) -> None:
    """The run goes on when every call was acted on, and what was kept for that is gone."""
    pay, send = await ask("r1", "pay", "send")
    await approvals.decide(ann, "r1", "call_send", send.digest, "reject")
    assert await approvals.settle(send) == "reject"
    assert (await runs.get(ann, "r1")).state == "waiting"
    await approvals.decide(ann, "r1", "call_pay", pay.digest, "approve")
    assert await approvals.settle(pay) == "approve"
    record = await runs.get(ann, "r1")
    assert (record.state, record.reason) == ("running", None)
    assert await approvals.paused("r1") is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"digest": "digest of send"}, Conflict),
        ({"digest": ""}, Conflict),
        ({"call_id": "call_other"}, NotFound),
        ({"run_id": "r2"}, NotFound),
        ({"principal": Principal("bob")}, NotFound),
        ({"principal": Principal("bob", frozenset({"*"}))}, NotFound),
    ],
    ids=str,
)
async def test_wrong_decisions(
    ask: Ask, approvals: Approvals, ann: Principal, change: dict[str, Any], error: type[ChatcoreError]
) -> None:
    """Another digest, call, run or principal decides nothing."""
    [pay] = await ask("r1", "pay")
    decision = {
        "principal": ann, "run_id": "r1", "call_id": "call_pay", "digest": pay.digest, "decision": "approve", **change
    }  # fmt: skip
    with pytest.raises(error):
        await approvals.decide(**decision)
    assert await approvals.settle(pay) is None
    assert await approvals.open(ann) == [pay]


async def test_expiry(ask: Ask, approvals: Approvals, ann: Principal) -> None:
    """After it nobody can decide, and who acts on it is told so, once."""
    [pay] = await ask("r1", "pay", seconds=-1)
    assert await approvals.open(ann) == []
    with pytest.raises(Conflict, match="expired"):
        await approvals.decide(ann, "r1", "call_pay", pay.digest, "approve")
    assert await approvals.settle(pay) == "expired"
    assert await approvals.settle(pay) is None


async def test_a_decision_in_time_counts_after_it(ask: Ask, approvals: Approvals, ann: Principal) -> None:
    """However late its worker looks."""
    [pay] = await ask("r1", "pay", seconds=0.2)
    await approvals.decide(ann, "r1", "call_pay", pay.digest, "approve")
    late = attrs.evolve(pay, expires_at=datetime.now(UTC))
    assert await approvals.settle(late) == "approve"


@pytest.mark.parametrize("end", ["closed", "finished"])
async def test_a_run_that_has_ended_asks_nobody(
    ask: Ask, approvals: Approvals, runs: Runs, ann: Principal, end: str
) -> None:
    """What it waited for can be decided no more."""
    [pay] = await ask("r1", "pay")
    if end == "closed":
        await approvals.close("r1")
        assert await approvals.paused("r1") is None
    else:
        await runs.finish("r1", "stopped", "user", 1)
    assert await approvals.open(ann) == []
    with pytest.raises(Conflict, match="does not wait"):
        await approvals.decide(ann, "r1", "call_pay", pay.digest, "approve")


async def test_an_id_that_a_model_uses_again(
    ask: Ask,
    approvals: Approvals,
    conversations: Conversations,
    ann: Principal,
    answer: Callable[..., list[NewMessage]],
) -> None:
    """The last call of that id is the one that is decided."""
    [first] = await ask("r1", "pay")
    await approvals.decide(ann, "r1", "call_pay", first.digest, "approve")
    await approvals.settle(first)
    _, place = await conversations.add_answer(ann, "r1", first.place, answer(None, "pay", run_id="r1"))
    second = attrs.evolve(first, place=place.id, digest="another")
    await approvals.request([second], {})
    with pytest.raises(Conflict):
        await approvals.decide(ann, "r1", "call_pay", first.digest, "approve")
    await approvals.decide(ann, "r1", "call_pay", "another", "approve")
    assert await approvals.settle(second) == "approve"


@pytest.mark.parametrize("what", ["conversation", "message"])
async def test_deleting(
    ask: Ask, approvals: Approvals, conversations: Conversations, ann: Principal, what: str
) -> None:
    """With its conversation, or with its answer, an approval is gone: nobody can decide it, and nothing is run."""
    [pay] = await ask("r1", "pay")
    if what == "conversation":
        await conversations.delete(ann, "r1", even_saved=True)
    else:
        await conversations.delete_message(ann, "r1", str(pay.place))
    assert await approvals.open(ann) == []
    with pytest.raises(NotFound):
        await approvals.decide(ann, "r1", "call_pay", pay.digest, "approve")
    assert await approvals.settle(pay) == "expired"
    assert await approvals.paused("r1") is None


async def test_the_worker_is_told(ask: Ask, approvals: Approvals, runs: Runs, ann: Principal) -> None:
    """Wherever it was decided, the run's worker gets a signal."""
    [pay] = await ask("r1", "pay")
    await approvals.decide(ann, "r1", "call_pay", pay.digest, "approve")
    [(run_id, signal, _)] = await runs.signals("here")
    assert (run_id, signal) == ("r1", "decided")


async def test_handing_over(ask: Ask, runs: Runs, ann: Principal, new_run: MakeRun) -> None:
    """A run that waits can be left to the worker that recovers runs next; one that does not wait is not."""
    await ask("r1", "pay")
    now = datetime.now(UTC)
    assert await runs.claim_expired("next", now, now) == []
    await runs.hand_over("r1", [])
    [record] = await runs.claim_expired("next", now, now + timedelta(minutes=1))
    assert (record.id, record.state, record.worker) == ("r1", "waiting", "next")
