"""What commands have in common (chatcore/console.py)."""

import asyncio
from pathlib import Path

import pytest

from chatcore.console import harmless, printable, table, with_database
from chatcore.database import Database, Documents
from chatcore.errors import DatabaseError
from chatcore.types import LOCAL


def test_a_table_has_columns_as_wide_as_they_need_to_be():
    """The last one runs on, and no line ends with spaces."""
    assert table(("A", "LONG", "B"), [("xyz", "", "one two"), ("", "1", "")]) == (
        "A    LONG  B\nxyz        one two\n     1"
    )
    assert table(("ONE",), []) == "ONE"


def test_nothing_in_a_table_is_an_order_for_the_terminal():
    """Other people and services choose their own names."""
    assert table(("NAME", "OF"), [("a\x1b[2Jb", "x\ny\u202e")]) == "NAME       OF\na\\x1b[2Jb  x\\ny\\u202e"


def test_a_text_keeps_its_lines_and_its_letters():
    """Only what a terminal would obey is written out."""
    assert harmless("a\tb\r\n\x1b]0;t\x07 👩\u200d🚀\x9b") == "a\tb\\r\n\\x1b]0;t\\x07 👩\u200d🚀\\x9b"
    assert printable("a\u200db") == "a\\u200db"


def test_the_database_is_open_while_something_is_done(tmp_path: Path):
    """And closed after that, whatever came of it."""
    database = Database(str(tmp_path / "chatcore.db"))
    documents = Documents(database)

    async def fail() -> None:
        raise LookupError("nothing")

    assert with_database(database, lambda: documents.get(LOCAL, "a", "b")) is None
    with pytest.raises(LookupError, match="nothing"):
        with_database(database, fail)
    with pytest.raises(DatabaseError):
        asyncio.run(documents.get(LOCAL, "a", "b"))
