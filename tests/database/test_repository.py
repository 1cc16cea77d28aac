"""Methods that are units of work (chatcore/database/repository.py)."""

import inspect
import threading

import attrs
import pytest

from chatcore.database import Database, Documents, tables
from chatcore.database.repository import reads, writes
from chatcore.errors import Conflict
from chatcore.types import Principal


@attrs.frozen
class Words:
    """Counts and forgets documents."""

    database: Database

    @reads
    def count(self, principal: Principal, *, namespace: str = "n") -> int:
        """How many there are."""
        document = tables.Document
        found = document.select(document.key).where(document.owner == principal.id, document.namespace == namespace)
        return len(tables.fetch(found))

    @writes
    def forget(self, principal: Principal, *, really: bool) -> str:
        """Deletes all, and then perhaps not."""
        tables.Document.delete().where(tables.Document.owner == principal.id).execute()
        if not really:
            raise Conflict("not really")
        return threading.current_thread().name


async def test_a_method_is_a_unit_of_work(database: Database, ann: Principal) -> None:
    """It runs in a thread of the database; what it gives is given, and where it fails nothing was done."""
    words = Words(database)
    await Documents(database).put(ann, "n", "k", 1)
    assert await words.count(ann) == 1
    assert await words.count(ann, namespace="other") == 0
    with pytest.raises(Conflict, match="not really"):
        await words.forget(ann, really=False)
    assert await words.count(ann) == 1
    assert await words.forget(ann, really=True) == "chatcore database"
    assert await words.count(ann) == 0


def test_a_method_looks_as_it_was_written() -> None:
    """Its name, its docstring and its parameters; but it is awaited."""
    assert inspect.iscoroutinefunction(Words.count)
    assert (Words.count.__name__, inspect.getdoc(Words.count)) == ("count", "How many there are.")
    assert list(inspect.signature(Words.forget).parameters) == ["self", "principal", "really"]
