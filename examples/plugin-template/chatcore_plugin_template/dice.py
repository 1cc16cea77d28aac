"""Dice. Knows nothing of chatcore: it can be read and tested alone."""

import secrets
from collections.abc import Callable, Sequence


def throw(count: int, sides: int, draw: Callable[[int], int] = secrets.randbelow) -> Sequence[int]:
    """The faces of `count` dice, each 1 to `sides`. `draw(n)` gives a number from 0 to n - 1.

    Raises:
        ValueError: there are no such dice.
    """
    if count < 1 or sides < 2:
        raise ValueError("a throw takes at least one die, and a die has at least two sides")
    return [draw(sides) + 1 for _ in range(count)]
