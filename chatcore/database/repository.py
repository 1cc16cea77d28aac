"""What repositories are made of: methods that are units of work.

    @attrs.frozen
    class Words:
        database: Database

        @reads
        def count(self, principal: Principal) -> int:
            return len(tables.fetch(…))

    await Words(database).count(principal)

The method is written as what is done in a thread of the database, and called as what is awaited for it.
"""

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from chatcore.database.handle import Database


class Repository(Protocol):
    """Whatever keeps things of one kind in a database."""

    @property
    def database(self) -> Database: ...


R = TypeVar("R", bound=Repository)
P = ParamSpec("P")
T = TypeVar("T")


def reads(work: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], Coroutine[Any, Any, T]]:
    """A method that only reads."""

    @wraps(work)
    async def method(repository: R, /, *args: P.args, **options: P.kwargs) -> T:
        return await repository.database.read(partial(work, repository, *args, **options))

    return method


def writes(work: Callable[Concatenate[R, P], T]) -> Callable[Concatenate[R, P], Coroutine[Any, Any, T]]:
    """A method that writes. It may be run again from the beginning, where another one was in the way."""

    @wraps(work)
    async def method(repository: R, /, *args: P.args, **options: P.kwargs) -> T:
        return await repository.database.write(partial(work, repository, *args, **options))

    return method
