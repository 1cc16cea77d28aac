"""What a turn counts, and how it is kept while it waits (chatcore/runs/paused.py)."""

import attrs
import pytest

from chatcore import wire
from chatcore.runs.paused import Paused, Tally
from chatcore.tools import Tool, ToolCall
from chatcore.types import Limits, Message, Principal, Turn


def lookup(arguments: str) -> ToolCall:
    return ToolCall("any id", "lookup", arguments)


@pytest.mark.parametrize(
    ("answers", "ends"),
    [
        ([['{"a": 1, "b": [2]}'], ['{"b":[2],"a":1}'], ['{ "a":1,"b": [ 2 ] }']], True),
        ([['{"a": 1}'], ['{"a": 2}'], ['{"a": 1}'], ['{"a": 1}']], False),
        ([['{"a": 1}', '{"a": 2}'], ['{"a": 2}', '{"a": 3}'], ['{"a": 2}']], True),
        ([['{"a": 1}'] * 3, ['{"a": 1}'] * 3], False),
        ([["{"], ["{"], ["{"]], True),
        ([["{}"], [""], ["{}"]], False),
    ],
)
def test_what_counts_as_asking_for_the_same_again(answers: list[list[str]], ends: bool) -> None:
    """The same tool with the same arguments, however they are written, in three answers in a row."""
    tally = Tally()
    found = [tally.repeated([lookup(arguments) for arguments in answer]) for answer in answers]
    assert not any(found[:-1])
    assert (found[-1] is not None) is ends


def test_another_tool_is_another_call() -> None:
    """The arguments alone do not make it."""
    tally = Tally()
    assert [tally.repeated([ToolCall("a", name, "{}")]) for name in ("one", "two", "one", "two")] == [None] * 4


async def nothing() -> str:
    """Does nothing."""
    return ""


def test_a_turn_comes_back_as_it_was() -> None:
    """As JSON, with all that it has counted; its tools are those that there are then, of the names that it had."""
    tool = Tool.of(nothing)
    turn = Turn(
        id="r",
        principal=Principal("ann", frozenset({"a", "b"})),
        conversation_id="c",
        model="m",
        provider="p",
        history=(Message(role="user", content="x"),),
        parameters={"top_p": 0.5, "reasoning": {"effort": "low"}},
        tools={"nothing": tool, "gone": attrs.evolve(tool, name="gone")},
        limits=Limits(hops=3, cost=0.5),
        client_id="cli",
        metadata={"client_assistant_message_id": "x"},
        can_approve=True,
    )
    call = ToolCall("a", "nothing", "{}")
    history = [*turn.history, Message(role="assistant", tool_calls=(call,), reasoning_details=({"signature": "s"},))]
    tally = Tally(hops=2, cost=0.25, errors_in_a_row=1, attempts={"nothing": 1})
    tally.repeated([call])
    kept = wire.dumps(wire.unstructure(Paused.of(turn, history, tally, 7)))
    paused = wire.structure(wire.loads(kept), Paused)
    assert (paused.tally, paused.answer_id) == (tally, 7)
    other = attrs.evolve(tool, name="other")
    resumed = paused.resumed({"nothing": tool, "other": other})
    assert resumed == attrs.evolve(turn, history=tuple(history), tools={"nothing": tool})
