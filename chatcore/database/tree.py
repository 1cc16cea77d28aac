"""The tree of a conversation's messages: what goes with a message that is deleted, and where the rest then hangs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import attrs


@attrs.frozen
class Node:
    """What the shape of a tree depends on. `parent_client_id` is the client's own, which may point anywhere."""

    id: int
    parent_id: int | None
    role: str
    run_id: str | None
    client_id: str | None
    parent_client_id: str | None


Nodes: TypeAlias = Mapping[int, Node]


def deleted_with(nodes: Nodes, chosen: Iterable[int], questions: Mapping[str, int | None]) -> frozenset[int]:
    """The messages that go when `chosen` are deleted, with these.

    With a message go those whose client-side parent it is, the answers of runs that had it as their question
    (`questions` by run), and, of an answer and the tool messages that belong to it, all when one goes.
    """
    tied = _ties(nodes, questions)
    gone: set[int] = set()
    waiting = list(chosen)
    while waiting:
        message_id = waiting.pop()
        if message_id not in gone:
            gone.add(message_id)
            waiting.extend(tied[message_id])
    return frozenset(gone)


def surviving_ancestor(nodes: Nodes, gone: frozenset[int], message_id: int | None) -> int | None:
    """The message itself if it stays, else the nearest above it that does."""
    while message_id is not None and message_id in gone:
        message_id = nodes[message_id].parent_id
    return message_id


def newest_below(nodes: Nodes, message_id: int) -> int:
    """The message that was stored last among one and all below it."""
    below = {message_id}
    for node_id in sorted(nodes):  # a message is stored after the one above it
        if nodes[node_id].parent_id in below:
            below.add(node_id)
    return max(below)


def _ties(nodes: Nodes, questions: Mapping[str, int | None]) -> Mapping[int, list[int]]:
    """For each message, those that go with it."""
    by_client_id = defaultdict(list)
    for node in nodes.values():
        if node.client_id is not None:
            by_client_id[node.client_id].append(node.id)
    tied: dict[int, list[int]] = defaultdict(list)
    for node in nodes.values():
        above = by_client_id[node.parent_client_id] if node.parent_client_id is not None else []
        question = questions.get(node.run_id) if node.run_id is not None else None
        for message_id in [*above, *([question] if question is not None else [])]:
            tied[message_id].append(node.id)
        answer = _answer_of(nodes, node)
        if answer is not None:
            tied[answer].append(node.id)
            tied[node.id].append(answer)
    return tied


def _answer_of(nodes: Nodes, node: Node) -> int | None:
    """The answer that asked for a tool, of the tool's message."""
    above: Node | None = node
    while above is not None and above.role == "tool":
        above = nodes[above.parent_id] if above.parent_id is not None else None
    return above.id if above is not None and above is not node and above.role == "assistant" else None
