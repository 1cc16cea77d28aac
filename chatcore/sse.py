"""Server-sent events: an incremental parser and an encoder (WHATWG HTML, "Server-sent events").

Both work on bytes, so that an event that is passed on need not be decoded.
"""

import msgspec

from chatcore.errors import StreamBroken

DONE = b"[DONE]"
"""The data of the event with which OpenAI-shaped servers end a stream. It is not JSON."""

MEBIBYTE = 2**20
_BOM = b"\xef\xbb\xbf"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event. `data` is valid UTF-8 (what was not became U+FFFD); `id` is the last one seen, None if none was."""

    # Not of attrs: to make one would take as long as all the rest of its parsing.

    data: bytes
    event: str = "message"
    id: str | None = None


class Parser:
    """Takes a stream apart, in pieces of any size.

    Args:
        limit: the most bytes that one event may have.
        total: the most bytes that the whole stream may have.

    `comments` counts the comment lines so far: they are signs of life. `retry` is the reconnection time that the
    stream asked for, in milliseconds.
    """

    def __init__(self, *, limit: int = 32 * MEBIBYTE, total: int = 256 * MEBIBYTE) -> None:
        self.comments = 0
        self.retry: int | None = None
        self._limit = limit
        self._left = total
        self._start: bytes | None = b""  # the first bytes, until it is known whether they are a byte order mark
        self._after_cr = False
        self._rest: list[bytes] = []  # the block that has not ended yet
        self._rest_size = 0
        self._id: str | None = None

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete.

        Raises:
            StreamBroken: an event, or the whole stream, is larger than allowed.
        """
        events: list[Event] = []
        for block in self._blocks(data):
            # The ordinary event has one line. The rest of this class is for all the others.
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(Event(_utf8(block[6:]), "message", self._id))
            elif event := self._event(block):
                events.append(event)
        return events

    def _blocks(self, data: bytes) -> list[bytes]:
        """The events that these bytes complete, each with its lines."""
        self._left -= len(data)
        if self._left < 0:
            raise StreamBroken("the stream is longer than allowed", kind="too_large")
        if self._start is not None:
            data = self._without_bom(data)
        if self._after_cr or b"\r" in data:
            data = self._with_lf_only(data)
        if self._rest or not data.endswith(b"\n\n"):
            data = self._ended(data)
            if not data:
                return []
        blocks = data[:-2].split(b"\n\n")
        if len(data) > self._limit:
            self._check(max(map(len, blocks)))
        return blocks

    def close(self) -> list[Event]:
        """The events that the end of the stream completes: only `[DONE]` counts without the blank line after it."""
        event = self._event(b"".join(self._rest))
        self._rest.clear()
        return [event] if event is not None and event.data == DONE else []

    def _without_bom(self, data: bytes) -> bytes:
        data = (self._start or b"") + data
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._start = data
            return b""
        self._start = None
        return data.removeprefix(_BOM)

    def _with_lf_only(self, data: bytes) -> bytes:
        """CR and CRLF as LF. A CR ends its line at once; if an LF comes next, it belongs to that CR."""
        if not data:
            return data
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _ended(self, data: bytes) -> bytes:
        """All blocks that have ended, up to the blank line of the last; keeps the rest. Joins each block once."""
        across = data.startswith(b"\n") and self._rest and self._rest[-1].endswith(b"\n")
        if across or b"\n\n" in data:
            data = b"".join((*self._rest, data))
            end = data.rindex(b"\n\n") + 2
            self._rest.clear()
            self._rest_size = 0
            data, rest = data[:end], data[end:]
        else:
            data, rest = b"", data
        if rest:
            self._rest.append(rest)
            self._rest_size += len(rest)
            self._check(self._rest_size)
        return data

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise StreamBroken(f"an event of the stream has more than {self._limit} bytes", kind="too_large")

    def _event(self, block: bytes) -> Event | None:
        data: list[bytes] = []
        event = ""
        for line in block.split(b"\n"):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                event = value.decode("utf-8", "replace")
            elif name == b"error" and not data:  # no field of the standard, but llama.cpp's until September 2025
                event, data = "error", [value]
            else:
                self._other(name, value, line)
        return Event(_utf8(b"\n".join(data)), event or "message", self._id) if data else None

    def _other(self, name: bytes, value: bytes, line: bytes) -> None:
        if name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry = int(value)
        elif line.startswith(b":"):
            self.comments += 1


def _utf8(data: bytes) -> bytes:
    return data if data.isascii() else data.decode("utf-8", "replace").encode()


def encode(data: bytes, *, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002  the field's name
    """One event as bytes. Each line of `data` gets a line of its own.

    Raises:
        ValueError: `event` or `id` has a line break or NUL in it, which would let it write fields of its own.
    """
    if b"\n" in data or b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    head = (b"" if event is None else _field(b"event", event)) + (b"" if id is None else _field(b"id", id))
    return b"%bdata: %b\n\n" % (head, data)


def comment(text: str = "") -> bytes:
    """A comment: clients ignore it, and it keeps the connection in use."""
    return _field(b"", text) + b"\n"


def _field(name: bytes, value: str) -> bytes:
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"{value!r} cannot be a field of a server-sent event: it has a line break or NUL in it")
    return b"%b: %b\n" % (name, value.encode())
