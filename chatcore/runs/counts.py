"""What a worker's runs have come to, in numbers."""

from collections.abc import Mapping, Sequence

from chatcore.tally import Histogram, Tally
from chatcore.tools import JsonObject
from chatcore.types import RunEnded, StoredMessage, Turn

FIRST_TOKEN = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0)
"""Seconds: the upper bounds of the buckets of how long a model took for its first word."""

_KINDS: Mapping[str, str] = {"prompt": "prompt_tokens", "completion": "completion_tokens"}


class RunCounts:
    """`events` in all; `tokens` by kind and model, `cost` in US dollars by model; `ended` by state and reason.

    `first_token` has, by provider, how long the first word of a run took.
    """

    def __init__(self) -> None:
        self.events = 0
        self.tokens = Tally()
        self.cost = Tally()
        self.ended = Tally()
        self.first_token: dict[str, Histogram] = {}

    def spoke(self, turn: Turn, seconds: float) -> None:
        """Counts the first word of a run, that many seconds after its start."""
        self.first_token.setdefault(turn.provider, Histogram(FIRST_TOKEN)).observe(seconds)

    def end(self, ended: RunEnded, answers: Sequence[StoredMessage]) -> None:
        """Counts a run that has ended, with its answers. What an answer cost is believed only if it is a number."""
        self.ended.add(ended.state, ended.reason)
        for answer in answers:
            usage, model = answer.usage or {}, answer.model or "unknown"
            for kind, name in _KINDS.items():
                self.tokens.add(kind, model, amount=_number(usage, name))
            self.cost.add(model, amount=_number(usage, "cost"))


def _number(usage: JsonObject, name: str) -> float:
    """What an upstream says that something took. A counter cannot take less than nothing, nor infinity."""
    value = usage.get(name)
    return value if isinstance(value, int | float) and 0 <= value < float("inf") else 0
