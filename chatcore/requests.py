"""What a view asks of its request: the body and the query as attrs values, and a place among those that are answered;
and how much of what comes is kept."""

import asyncio
from contextlib import AbstractContextManager
from typing import TypeVar, get_args

from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, WebsocketDisconnectEvent, WebsocketScope
from quart import Quart, Request, current_app, request
from quart.asgi import ASGIWebsocketConnection
from quart.wrappers.request import Body
from werkzeug.exceptions import RequestEntityTooLarge

from chatcore import wire
from chatcore.errors import Overloaded, Problem, RequestError, TooLarge, ValidationFailed
from chatcore.room import Room

T = TypeVar("T")

LARGEST_BODIES = 8
"""How many bodies of the largest size are kept at once, or as much in more of smaller ones."""
LARGEST_MAILBOX = 2**22
"""Bytes of the messages of a WebSocket that wait for its view. If more come it is closed."""

MOST_VALUES = 200_000
"""Values in a JSON body: as text each takes two bytes or more, and in memory hundreds."""

_SMALL = 2**16  # bytes of a body that does not count
_MESSAGE = 100  # bytes that a message takes beside its text
_TOO_BIG = 1009  # a code of the WebSocket protocol
_BOOLEANS = {"1": True, "0": False}


async def read_body(type_: type[T]) -> T:
    """The JSON body of the request, which can be read once.

    Raises:
        RequestError: it is not JSON.
        ValidationFailed: it has the wrong shape; paths begin with `$`.
        TooLarge: it is over the server's limit, or in too many parts.
        Overloaded: so many large ones come at once that this one was not taken.
    """
    try:
        # Not cached: the request lives as long as an answer that streams.
        data = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    except RequestEntityTooLarge:
        limit = request.max_content_length
        raise TooLarge(f"the body has more than {limit} bytes", hint="max_body is the server's limit") from None
    if _is_shredded(data):
        raise TooLarge(f"the body has more than {MOST_VALUES} values", hint="send the same in fewer parts")
    return wire.structure(wire.loads(data), type_)


def _is_shredded(data: bytes) -> bool:
    """Whether JSON has too many values. Takes no longer for any bytes than for others."""
    if _values(data) <= MOST_VALUES:
        return False
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
    return plain.count(b'"') > 4 * MOST_VALUES or sum(map(_values, plain.split(b'"')[::2])) > MOST_VALUES


def _values(data: bytes) -> int:
    """How many values there are in JSON, and in its strings, if these were JSON."""
    return data.count(b",") + data.count(b"{") + data.count(b"[")


def read_query(cls: type[T]) -> T:
    """The query of the request as an attrs class with one field for each parameter.

    Numbers are as in JSON, booleans `true`, `false`, `1`, `0`. Of a parameter that comes several times the last one
    counts; a field that is an array has all of them. Parameters without a field are ignored: browsers and proxies
    add their own.

    Raises:
        ValidationFailed: paths begin with `$.query`.
    """
    values: dict[str, wire.JsonValue] = {}
    for field in wire.fields_of(cls):
        given = request.args.getlist(field.name)
        if given and list in wire.plain_types(field.type):
            values[field.name] = [_value(text, wire.plain_types(get_args(field.type)[0])) for text in given]
        elif given:
            values[field.name] = _value(given[-1], wire.plain_types(field.type))
    try:
        return wire.structure(values, cls)
    except ValidationFailed as error:
        raise ValidationFailed([Problem(f"$.query{p.path[1:]}", p.message) for p in error.problems]) from None


def admitted() -> AbstractContextManager[None]:
    """Around work that takes as much as a turn does: it counts among the answers of which there are `max_streams`.

    Raises:
        Overloaded: on entering; the server is full, or about to stop. It is the client's answer: 503 with Retry-After.
    """
    place: AbstractContextManager[None] = current_app.extensions["chatcore"].admitted()
    return place


def _value(text: str, types: tuple[type, ...]) -> wire.JsonValue:
    """A parameter as a value of one of the types, or as it is: what is wrong with it is for the converter to say."""
    if str in types:
        return text
    if bool in types and text in _BOOLEANS:
        return _BOOLEANS[text]
    try:
        return wire.loads(text.encode())
    except RequestError:
        return text


# --- how much is kept -------------------------------------------------------------------------------------------------


def bound(app: Quart, max_body: int) -> None:
    """Bounds what the bodies and messages that come to an app take, however many come at once."""

    class BoundRequest(Request):
        body_class = _bodies(LARGEST_BODIES * max_body)

    app.request_class = BoundRequest
    app.asgi_websocket_class = _BoundWebsocket


def _bodies(most: int) -> type[Body]:
    """A class of bodies that together take no more bytes than this; small ones do not count."""
    room = Room(most, small=_SMALL, full="too much is being sent to the server at once")

    class Bound(Body):
        def append(self, data: bytes) -> None:
            super().append(data)
            try:
                room.take(self, len(self._data))
            except Overloaded as error:
                self.clear()
                self._must_raise = error
                self.set_complete()

        def clear(self) -> None:
            super().clear()
            room.leave(self)

    return Bound


class _Mailbox(asyncio.Queue[str | bytes]):
    """The messages that wait for the view of a WebSocket. `held` is about what they take, in bytes."""

    held = 0

    def _put(self, item: str | bytes) -> None:
        super()._put(item)
        self.held += len(item) + _MESSAGE

    def _get(self) -> str | bytes:
        item = super()._get()
        self.held -= len(item) + _MESSAGE
        return item


class _BoundWebsocket(ASGIWebsocketConnection):
    """A WebSocket that is closed when its view does not keep up.

    It is not made to wait: behind the messages that wait there would be the news that the client has gone.
    """

    def __init__(self, app: Quart, scope: WebsocketScope) -> None:
        super().__init__(app, scope)
        self.queue: _Mailbox = _Mailbox()

    async def handle_messages(self, receive: ASGIReceiveCallable) -> None:
        async def next_message() -> ASGIReceiveEvent:
            event = await receive()
            if self.queue.held <= LARGEST_MAILBOX:
                return event
            return WebsocketDisconnectEvent(type="websocket.disconnect", code=_TOO_BIG)

        await super().handle_messages(next_message)
