"""A turn between two calls of the model: what it has counted so far, and all of it in a form that can be kept."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Self

import attrs

from chatcore import wire
from chatcore.errors import RequestError
from chatcore.tools import Tool, ToolCall
from chatcore.types import Message, Turn

REPEATS = 3
"""How often in a row a model may ask for the same: the last time it is not done any more."""


@attrs.define
class Tally:
    """What a turn counts. `said` is what came of models and tools, in bytes; `attempts` are the tools' failures by
    name, `streaks` the calls of the last answer with the number of answers in a row that had them."""

    hops: int = 0
    cost: float = 0.0
    said: int = 0
    errors_in_a_row: int = 0
    attempts: dict[str, int] = attrs.field(factory=dict)
    streaks: dict[str, int] = attrs.field(factory=dict)

    def repeated(self, calls: Sequence[ToolCall]) -> ToolCall | None:
        """Counts the calls of an answer. Gives one that is asked for, with the same arguments, for the last time."""
        keys = {_key(call): call for call in calls}
        self.streaks = {key: self.streaks.get(key, 0) + 1 for key in keys}
        return next((call for key, call in keys.items() if self.streaks[key] >= REPEATS), None)


def _key(call: ToolCall) -> str:
    """The same for calls that ask for the same, however their arguments are written."""
    try:
        arguments = wire.canonical(wire.loads(call.arguments.encode()))
    except RequestError:
        arguments = call.arguments.encode()
    return f"{call.name} {hashlib.sha256(arguments).hexdigest()}"


@attrs.frozen(kw_only=True)
class Paused:
    """A turn that waits for somebody's consent to calls of its last answer, the message `answer_id`.

    Its tools are kept by name: whoever goes on with it takes those that there are then.
    """

    turn: Turn
    tools: tuple[str, ...]
    tally: Tally
    answer_id: int

    @classmethod
    def of(cls, turn: Turn, history: Sequence[Message], tally: Tally, answer_id: int) -> Self:
        """A turn with the history that it has come to."""
        kept = attrs.evolve(turn, history=tuple(history), tools={})
        return cls(turn=kept, tools=tuple(turn.tools), tally=tally, answer_id=answer_id)

    def resumed(self, tools: Mapping[str, Tool]) -> Turn:
        """The turn with those of its tools that there are."""
        return attrs.evolve(self.turn, tools={name: tools[name] for name in self.tools if name in tools})
