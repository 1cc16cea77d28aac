"""Values that never print."""

import hmac
from typing import NoReturn, Self, SupportsIndex, final

MASK = "***"


@final
class Secret:
    """A key or a password. It shows as `***` wherever it is printed, logged or formatted; `reveal` gives the value.

    It is not an attrs class, and has no `__dict__`: `attrs.asdict`, `vars` and JSON encoders find nothing in it.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Call it where the value is used, and keep the result nowhere."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._bytes(), other._bytes())

    def _bytes(self) -> bytes:
        # What the environment holds need not be UTF-8.
        return self._value.encode(errors="surrogateescape")

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret is not pickled: pass the name of where it is kept")
