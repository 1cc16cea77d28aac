"""What a view says about itself, and the forms that all answers have: for the OpenAPI document.

A view says with `@describe` what it takes and gives; its docstring is the text. Who may call it is what `access`
knows. The plugin `pages` makes the document of it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

View = TypeVar("View", bound=Callable[..., Any])

_ATTRIBUTE = "chatcore_description"


@attrs.frozen
class Violation:
    """One thing that is wrong in a request. `path` says where (`$.messages[0].role`), `loc` the same in pieces."""

    type: str
    loc: tuple[str | int, ...]
    msg: str
    path: str


@attrs.frozen
class Error:
    """Why a request failed. `code` is stable, `detail` is for people, `hint` says what to do about it."""

    detail: str | tuple[Violation, ...]
    code: str
    hint: str = ""


@attrs.frozen
class ServerSentEvent:
    """One event of a stream. `data` is JSON in most events; `id` is where to go on with `Last-Event-ID`."""

    data: str
    event: str = "message"
    id: str | None = None
    retry: int | None = None


@attrs.frozen(kw_only=True)
class describe:  # noqa: N801 - it is used as a decorator
    """Says what a view takes and gives, for the OpenAPI document. It changes nothing about the view.

    Attributes:
        summary: one line; without it the first line of the docstring. The rest of the docstring is the description.
        body: the type of the JSON body, as `read_body` takes it.
        answer: the type of the JSON answer. None leaves it open.
        status: the status of that answer.
        stream: whether the answer is a stream of server-sent events.
        query: the attrs class of the query, as `read_query` takes it.
        errors: the statuses of errors beside those that follow from the above (400, 401, 403, 413, 422).
        tags: where the operation is listed; without them, under its blueprint's name.
    """

    summary: str | None = None
    body: Any = None
    answer: Any = None
    status: int = 200
    stream: bool = False
    query: type[Any] | None = None
    errors: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()

    def __call__(self, view: View) -> View:
        vars(view)[_ATTRIBUTE] = self
        return view


def described(view: Callable[..., Any]) -> describe:
    """What a view says about itself, which may be nothing."""
    said: describe = getattr(view, _ATTRIBUTE, describe())
    return said
