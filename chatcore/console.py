"""What commands have in common: tables, text of others that is safe to print, and work with the database."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from chatcore.database import Database

T = TypeVar("T")


# What a terminal takes for an order, such as to put something on the clipboard.
_ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """A text in one line in which nothing is hidden: what nobody would see, or a terminal obey, is written out."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def harmless(text: str) -> str:
    """A text with its lines, its tabs, and the invisible characters of which letters and pictures are made."""
    return _ORDERS.sub(lambda found: _escaped(found[0]), text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under a head, in columns as wide as they need to be; the last one runs on."""
    lines = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
        for line in lines
    )


def with_database(database: "Database", work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Does something while the database is open, and gives its result."""

    async def session() -> T:
        await database.open()
        try:
            return await work()
        finally:
            await database.close()

    return asyncio.run(session())
