"""The tree of a conversation's messages, whatever is done to it."""

import asyncio
import tempfile
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatcore.database import Conversations, Database, NewMessage, NewRun
from chatcore.database.tree import Node, deleted_with, surviving_ancestor
from chatcore.tools import ToolCall
from chatcore.types import Message, Principal, StoredMessage


def nodes(*rows: tuple[Any, ...]) -> dict[int, Node]:
    """Nodes of (id, parent, role) and maybe run, client id, client-side parent."""
    return {row[0]: Node(*row, *[None] * (6 - len(row))) for row in rows}


CHAT = nodes(
    (1, None, "system"),
    (2, 1, "user", None, "u1"),
    (3, 2, "assistant", "r1", "a1", "u1"),
    (4, 3, "tool", "r1", None, "a1"),
    (5, 4, "tool", "r1", None, "a1"),
    (6, 5, "assistant", "r1", "a1", "u1"),
    (7, 6, "user", None, "u2"),
    (8, 7, "assistant", "r2", "a2", "u2"),
)


def test_question_takes_its_answer_with_it() -> None:
    """With a question go its answers and their tools, by the clients' own parents; the next turn stays and moves up."""
    gone = deleted_with(CHAT, [2], {})
    assert gone == {2, 3, 4, 5, 6}
    assert surviving_ancestor(CHAT, gone, 7) == 7
    assert surviving_ancestor(CHAT, gone, 6) == 1


def test_question_of_a_run() -> None:
    """Where clients name no parents, the runs know what answers what; a question may have several."""
    tree = nodes((1, None, "user"), (2, 1, "assistant", "r1"), (3, 1, "assistant", "r2"), (4, 2, "user"))
    assert deleted_with(tree, [1], {"r1": 1, "r2": 1, "r3": 4}) == {1, 2, 3}


def test_answer_and_its_tools_are_one() -> None:
    """With one of them go all, so that no call is without its answer; the question stays."""
    tree = nodes(
        (1, None, "user"), (2, 1, "assistant"), (3, 2, "tool"), (4, 3, "tool"), (5, 4, "assistant"), (6, 5, "tool")
    )
    for chosen in (2, 3, 4):
        assert deleted_with(tree, [chosen], {}) == {2, 3, 4}
    assert deleted_with(tree, [6], {}) == {5, 6}


def test_tool_message_without_an_answer_above_it() -> None:
    """A client's own tool message goes alone."""
    tree = nodes((1, None, "tool"), (2, None, "user"), (3, 2, "tool"), (4, 3, "assistant"))
    assert [deleted_with(tree, [chosen], {}) for chosen in (1, 2, 3)] == [{1}, {2}, {3}]


def test_clients_may_choose_any_ids() -> None:
    """Messages that are their own parents, or each other's, or share an id, end the search all the same."""
    tree = nodes(
        (1, None, "user", None, "x", "x"), (2, 1, "user", None, "y", "z"), (3, 2, "user", None, "z", "y"),
        (4, 3, "user", None, "x", None), (5, 4, "assistant", None, "", ""),
    )  # fmt: skip
    assert deleted_with(tree, [1], {}) == {1}
    assert deleted_with(tree, [4], {}) == {1, 4}
    assert deleted_with(tree, [2], {}) == {2, 3}
    assert deleted_with(tree, [5], {}) == {5}


ANN = Principal("ann")
ids = st.none() | st.sampled_from(["u1", "u2", "a1", ""])


class Tree(RuleBasedStateMachine):
    """Turns are begun, answered, branched and deleted in any order, with any client-side ids."""

    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.database = Database(str(Path(self.directory.name) / "chatcore.db"))
        self.conversations = Conversations(self.database)
        self.run(self.database.open())
        self.runs = 0
        self.begun: list[tuple[str, int]] = []
        self.messages: tuple[StoredMessage, ...] = ()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.database.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            self.directory.cleanup()

    @rule(count=st.integers(0, 2), client_id=ids, parent=ids, after=st.none() | st.integers(0, 40))
    def begin(self, count: int, client_id: str | None, parent: str | None, after: int | None) -> None:
        self.runs += 1
        new = [
            NewMessage(
                message=Message(role="user", content=f"question {self.runs}"),
                client_message_id=client_id,
                parent_client_message_id=parent,
            )
        ] * count
        run = NewRun(
            id=f"r{self.runs}",
            worker="w",
            lease_until=datetime.now(UTC) + timedelta(seconds=9),
            model="m",
            format="chat",
        )
        place = after if not after or not self.messages else self.messages[after % len(self.messages)].id
        if place and not self.messages:
            place = 0
        begun = self.run(self.conversations.begin(ANN, conversation_id="c", messages=new, run=run, after=place))
        assert begun.path == self.run(self.conversations.path(ANN, "c"))
        if begun.path:
            self.begun.append((run.id, begun.path[-1].id))

    @precondition(lambda self: self.begun)
    @rule(which=st.integers(0, 20), tools=st.integers(0, 3), hops=st.integers(1, 2), client_id=ids, parent=ids)
    def answer(self, which: int, tools: int, hops: int, client_id: str | None, parent: str | None) -> None:
        run_id, place = self.begun[which % len(self.begun)]
        for _ in range(hops):
            calls = tuple(ToolCall(f"{number}", "t") for number in range(tools))
            new = [
                NewMessage(
                    message=Message(role="assistant", content="answer", tool_calls=calls),
                    run_id=run_id,
                    client_message_id=client_id,
                    parent_client_message_id=parent,
                ),
                *(
                    NewMessage(
                        message=Message(role="tool", content="?", tool_call_id=call.id),
                        run_id=run_id,
                        parent_client_message_id=client_id,
                    )
                    for call in calls
                ),
            ]
            if place not in {message.id for message in self.messages}:
                return
            stored = self.run(self.conversations.add_answer(ANN, "c", place, new))
            place = stored[-1].id
            self.messages += stored

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(0, 40), by_client_id=st.booleans())
    def delete(self, which: int, by_client_id: bool) -> None:
        chosen = self.messages[which % len(self.messages)]
        ref = chosen.client_message_id if by_client_id and chosen.client_message_id is not None else str(chosen.id)
        self.run(self.conversations.delete_message(ANN, "c", ref))
        left = {message.id for message in self.run(self.conversations.tree(ANN, "c"))}
        assert chosen.id not in left

    @precondition(lambda self: self.messages)
    @rule(which=st.integers(0, 40))
    def select(self, which: int) -> None:
        chosen = self.messages[which % len(self.messages)]
        self.run(self.conversations.select_leaf(ANN, "c", chosen.id))
        assert chosen.id in {message.id for message in self.run(self.conversations.path(ANN, "c"))}

    @invariant()
    def is_a_tree_of_valid_conversations(self) -> None:
        if not hasattr(self, "runs") or not self.runs:
            return
        self.messages = self.run(self.conversations.tree(ANN, "c"))
        by_id = {message.id: message for message in self.messages}
        parents = {message.parent_id for message in self.messages}
        for message in self.messages:
            assert message.parent_id is None or message.parent_id in by_id
            assert message.parent_id is None or message.parent_id < message.id
        for leaf in by_id.keys() - parents:
            valid(self.run(self.conversations.path(ANN, "c", leaf)))
        path = self.run(self.conversations.path(ANN, "c"))
        valid(path)
        leaf = self.run(self.conversations.get(ANN, "c")).leaf
        assert (path[-1].id if path else None) == leaf


def valid(path: Sequence[StoredMessage]) -> None:
    """A model accepts the path: after an answer come its tools, all of them, and no tool comes from nowhere."""
    waiting: list[str] = []
    for message in path:
        if message.message.role == "tool":
            assert message.message.tool_call_id == waiting.pop(0)
        else:
            assert not waiting
            waiting = [call.id for call in message.message.tool_calls]
    assert not waiting


Tree.TestCase.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
test_tree = Tree.TestCase
