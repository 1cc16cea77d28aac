"""What a server sends, cut to what can be used of it before it is taken apart.

Taking apart five megabytes of small values takes half a second, and meanwhile nobody else is served. Here they are only
run through, which takes some ten milliseconds: what is kept is small, or long only as text is.
"""

import asyncio
from collections.abc import Callable

import msgspec

LARGEST = 16 * 2**20
"""Bytes of one message. More is not read: the connection, or the call where that is possible, ends."""
SMALL = 2**17
"""Bytes of a message that is taken as it is."""

_OTHER = 4 * 2**20  # bytes of a message that is no tool's answer, such as a list of tools
_PARTS = 200  # of a tool's answer
_PLAIN_PART = 2**15  # bytes of a part that is taken as it is
_TEXT = 400_000  # characters of a part; how many a model gets is the turn's limit
_IMAGE = 8 * 2**20  # bytes of an image or another file, as base64
_STRUCTURED = 2**16  # bytes of structured content


class _Frame(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")
    result: dict[str, msgspec.Raw] = {}


_frame = msgspec.json.Decoder(_Frame)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_list = msgspec.json.Decoder(list[msgspec.Raw])
_string = msgspec.json.Decoder(str)


def bounded(message: bytes) -> bytes:
    """A JSON-RPC message as it is, or a shorter one with the same id that says what was left out of it."""
    if len(message) <= SMALL:
        return message
    try:
        frame = _frame.decode(message)
        if "content" in frame.result:
            return _answer(frame.id, _tool_result(frame.result))
    except msgspec.DecodeError:
        return message  # whoever takes it apart says what is wrong with it
    if len(message) <= _OTHER:
        return message
    return _refusal(frame.id, f"the message has {_size(len(message))}, the limit is {_size(_OTHER)}")


async def whole(pieces: list[bytes], shorten: Callable[[bytes], bytes] = bounded) -> bytes:
    """A message that has come in pieces, shortened if it is a long one. That is done in a thread: where memory is slow,
    copying ten megabytes alone takes as long as a model needs for a word."""
    if sum(map(len, pieces)) <= SMALL:
        return b"".join(pieces)
    return await asyncio.to_thread(lambda: shorten(b"".join(pieces)))


def refused(identifier: bytes, reason: str) -> bytes:
    """The message that answers a request, by its id as JSON, with an error."""
    return _refusal(msgspec.Raw(identifier), reason)


def _answer(identifier: msgspec.Raw, result: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": identifier, "result": result})


def _refusal(identifier: msgspec.Raw, reason: str) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": identifier, "error": {"code": -32000, "message": reason}})


def _tool_result(fields: dict[str, msgspec.Raw]) -> dict[str, object]:
    """The fields of a tool's answer. Structured content that is long goes: its text is usually there as well."""
    raw = _list.decode(fields["content"])
    parts: list[object] = [_part(part) for part in raw[:_PARTS]]
    if len(raw) > _PARTS:
        parts.append(_note(f"{len(raw) - _PARTS} more parts were left out: the limit is {_PARTS}"))
    structured = memoryview(fields.get("structuredContent", b""))
    if len(structured) <= _STRUCTURED:
        return {**fields, "content": parts}
    if not parts:
        parts.append({"type": "text", "text": bytes(structured[:_TEXT]).decode(errors="replace")})
    return {**{key: value for key, value in fields.items() if key != "structuredContent"}, "content": parts}


def _part(part: msgspec.Raw) -> object:
    size = len(part)
    if size <= _PLAIN_PART:
        return part
    shortened = {key: _field(key, value) for key, value in _fields.decode(part).items()}
    if None in shortened.values():
        return _note(f"a file of {_size(size)} was left out: the limit is {_size(_IMAGE)}")
    return shortened


def _field(key: str, value: msgspec.Raw) -> object:
    """A field of a part, shortened; None where nothing is left of it that could be used."""
    size = len(value)
    if size <= _PLAIN_PART:
        return value
    match key:
        case "text":
            return _string.decode(value)[:_TEXT]
        case "data" | "blob":
            return value if size <= _IMAGE else None
        case "resource":
            inner = {name: _field(name, item) for name, item in _fields.decode(value).items()}
            return None if None in inner.values() else inner
    return {}


def _note(text: str) -> dict[str, str]:
    return {"type": "text", "text": f"[{text}]"}


def _size(number: int) -> str:
    return f"{number / 2**20:.1f} MB"
