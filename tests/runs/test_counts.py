"""What runs have come to (chatcore/runs/counts.py)."""

from datetime import UTC, datetime

import pytest

from chatcore.runs.counts import RunCounts
from chatcore.types import Message, RunEnded, StoredMessage


def answer(model, usage):
    return StoredMessage(
        id=1,
        conversation_id="c",
        parent_id=None,
        message=Message(role="assistant", content="x"),
        created_at=datetime.now(UTC),
        model=model,
        usage=usage,
    )


def test_the_tokens_of_all_answers_of_a_run_are_counted():
    """A run that used tools has several, perhaps of several models; one may not have told what it took."""
    counts = RunCounts()
    first = answer("a/one", {"prompt_tokens": 10, "completion_tokens": 2, "cost": 0.25})
    second = answer("a/two", {"prompt_tokens": 20, "completion_tokens": 3})
    counts.end(RunEnded("completed", "stop"), [first, second, answer("a/one", None)])
    assert counts.tokens.sums() == {
        ("prompt", "a/one"): 10,
        ("completion", "a/one"): 2,
        ("prompt", "a/two"): 20,
        ("completion", "a/two"): 3,
    }
    assert counts.cost.sums() == {("a/one",): 0.25, ("a/two",): 0}
    assert counts.ended.sums() == {("completed", "stop"): 1}


@pytest.mark.parametrize("nonsense", ["5", None, -1, float("nan"), float("inf"), []])
def test_what_is_no_number_of_tokens_is_not_counted(nonsense):
    """An upstream may say anything; a counter can only go up, by something."""
    counts = RunCounts()
    counts.end(RunEnded("completed", "stop"), [answer("m", {"prompt_tokens": nonsense, "cost": nonsense})])
    assert {*counts.tokens.sums().values(), *counts.cost.sums().values()} == {0}
