"""Counts, as cheap as they can be: what the metrics are made of.

Each belongs to the part of the server that counts, which adds to it at most once for a batch of events, a request or a
run; whoever wants to know reads it.
"""

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Labels: TypeAlias = tuple[str, ...]

OTHER = "other"
_LONGEST = 100  # characters of a label's value


class Tally:
    """Sums by labels, such as model and kind. The last label may come from outside: what it says is cut to a length,
    and once there are `most` different combinations, a new one is counted as `other`."""

    def __init__(self, *, most: int = 200) -> None:
        self._most = most
        self._sums: dict[Labels, float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Adds to the sum of these labels."""
        labels = (*labels[:-1], labels[-1][:_LONGEST]) if labels else ()
        if labels not in self._sums and len(self._sums) >= self._most:
            labels = (*labels[:-1], OTHER)
        self._sums[labels] = self._sums.get(labels, 0) + amount

    def sums(self) -> Mapping[Labels, float]:
        """The sums so far. May be asked for in any thread."""
        return self._sums.copy()


class Histogram:
    """How many values fell into which bucket. `bounds` are the upper ones, ascending; a last bucket takes the rest.

    Several threads may count in one.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._lock = threading.Lock()
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        with self._lock:
            self.counts[bisect_left(self.bounds, value)] += 1
            self.sum += value
