"""Asking for consent, and waiting for it (chatcore/runs/approvals.py)."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore.database import Database
from chatcore.runs.approvals import Approvals, approval_of, digest
from chatcore.tools import Tool, ToolCall
from chatcore.types import LOCAL, Limits, Turn

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


async def pay(amount: int, to: str = "") -> str:
    """Pays."""
    return f"paid {amount}"


PAY = Tool.of(pay, destructive=True)
ASKED: dict[str, Any] = {
    "run_id": "r",
    "call_id": "a",
    "tool": PAY,
    "arguments": {"amount": 5, "to": "bob"},
    "expires_at": NOW,
}
TURN = Turn(
    id="r", principal=LOCAL, conversation_id="c", model="m", provider="p", history=(), limits=Limits(approval_timeout=9)
)


@pytest.mark.parametrize(
    "other",
    [
        {"run_id": "r2"},
        {"call_id": "b"},
        {"arguments": {"amount": 50, "to": "bob"}},
        {"arguments": {"amount": 5}},
        {"expires_at": NOW + timedelta(microseconds=1)},
        {"tool": attrs.evolve(PAY, name="pay2")},
        {"tool": attrs.evolve(PAY, description="Pays, and tells nobody.")},
        {"tool": attrs.evolve(PAY, destructive=False)},
        {"tool": attrs.evolve(PAY, parameters={"type": "object"})},
    ],
    ids=str,
)
def test_whatever_is_another_has_another_digest(other: dict[str, Any]) -> None:
    """Run, call, tool, its definition, arguments, expiry: a consent to one is none to the other."""
    assert digest(**{**ASKED, **other}) != digest(**ASKED)


def test_what_is_the_same_has_the_same_digest() -> None:
    """The order in which the arguments stand changes nothing."""
    assert digest(**{**ASKED, "arguments": {"to": "bob", "amount": 5}}) == digest(**ASKED)


def test_an_approval_expires_as_the_turn_says() -> None:
    """After the turn's limit, counted from now."""
    approval = approval_of(TURN, ToolCall("a", "pay"), PAY, {"amount": 5}, 7)
    assert timedelta(seconds=8) < approval.expires_at - datetime.now(UTC) <= timedelta(seconds=9)
    assert (approval.run_id, approval.conversation_id, approval.place, approval.tool) == ("r", "c", 7, "pay")


@pytest.mark.parametrize("first", [True, False])
async def test_a_wait_ends_with_news(tmp_path: Path, first: bool) -> None:
    """Whether they come before it or while it waits; each ends one wait."""
    approvals = Approvals(Database(str(tmp_path / "never opened.db")))
    waiting = [approval_of(TURN, ToolCall("a", "pay"), PAY, {}, 7)]
    if first:
        approvals.wake()
    task = asyncio.create_task(approvals.changed(waiting))
    if not first:
        await asyncio.sleep(0)
        approvals.wake()
    await asyncio.wait_for(task, 2)
    again = asyncio.create_task(approvals.changed(waiting))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


async def test_a_wait_ends_when_the_first_approval_expires(tmp_path: Path) -> None:
    """Also if that is in the past."""
    approvals = Approvals(Database(str(tmp_path / "never opened.db")))
    later = approval_of(TURN, ToolCall("a", "pay"), PAY, {}, 7)
    for left in (-1.0, 0.01):
        soon = attrs.evolve(later, expires_at=datetime.now(UTC) + timedelta(seconds=left))
        await asyncio.wait_for(approvals.changed([later, soon]), 2)
