"""Room for what is large: what many keep at the same time must not be more, all together, than there is room for."""

from weakref import WeakKeyDictionary

from chatcore.errors import Overloaded


class Room:
    """Bytes of one kind. What is small does not count, and of what is large one always finds room.

    Args:
        most: how many there may be at once.
        small: up to how many are not counted.
        full: what is said to those who find none.
    """

    def __init__(self, most: int, *, small: int, full: str) -> None:
        self._most = most
        self._small = small
        self._full = full
        self._taken: WeakKeyDictionary[object, int] = WeakKeyDictionary()

    @property
    def taken(self) -> int:
        """How many are counted now."""
        return sum(self._taken.values())

    def take(self, owner: object, size: int) -> None:
        """Counts so many bytes from now on for an owner, in place of what it had, as long as it lives.

        Raises:
            Overloaded: there is no room for them. The owner has what it had.
        """
        if size <= self._small:
            return
        others = self.taken - self._taken.get(owner, 0)
        if others and others + size > self._most:
            raise Overloaded(self._full)
        self._taken[owner] = size

    def hand_over(self, owner: object, heir: object) -> None:
        """Counts for another what was counted for an owner."""
        if size := self._taken.pop(owner, 0):
            self._taken[heir] = size

    def leave(self, owner: object) -> None:
        """Counts nothing for an owner any more."""
        self._taken.pop(owner, None)
