"""The models of chaos: what each of them has its server put on the wire.

A model is a function. Its name is the model's, its parameters are the numbers that may stand behind the name (times are
in milliseconds), its docstring is the model's description.
"""

import asyncio
import inspect
import re
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, TypeAlias

from chatcore import sse, wire
from chatcore.testing.upstream import Reply
from chatcore.tools import JsonObject

ChaosModel: TypeAlias = Callable[..., Reply]

MODELS: dict[str, ChaosModel] = {}
"""All of them, by the name without numbers."""

TOOL = "chaos_repeat"
"""The tool that some of them ask for."""

MEGABYTE = 10**6
_ID = re.compile(r"([a-z]+(?:-[a-z]+)*)((?:-\d{1,6})*)")


def reply_of(model: str) -> Reply | None:
    """What a model answers, by its id without the provider: `cut-137`. None: there is no such model."""
    found = _ID.fullmatch(model)
    function = MODELS.get(found[1]) if found else None
    if found is None or function is None:
        return None
    numbers = [int(number) for number in found[2].split("-")[1:]]
    return function(*numbers) if len(numbers) <= len(_numbers(function)) else None


def listed() -> Sequence[tuple[str, str]]:
    """The id and the description of each, with the numbers that stand for those that are not given."""
    return [
        ("-".join((name, *map(str, _numbers(function).values()))), describe(function))
        for name, function in MODELS.items()
    ]


def describe(function: ChaosModel) -> str:
    """What a model does, in one line."""
    return " ".join((inspect.getdoc(function) or "").format(**_numbers(function)).split())


def _numbers(function: ChaosModel) -> dict[str, int]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def _model(function: ChaosModel) -> ChaosModel:
    MODELS[function.__name__.replace("_", "-")] = function
    return function


# --- what is said -----------------------------------------------------------------------------------------------------


def _chunk(delta: JsonObject, finish_reason: str | None = None, **fields: Any) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return sse.encode(wire.dumps({"id": "chaos", "object": "chat.completion.chunk", "choices": [choice], **fields}))


def _stream(*events: bytes) -> Reply:
    return Reply.sse(b"".join(events))


def error_reply(status: int, message: str, **headers: str) -> Reply:
    """An error before the answer, in OpenAI's form."""
    return Reply.json({"error": {"code": status, "message": message}}, status=status, headers=headers)


TEXT = "Good 日本 ☕"
"""What those say who say something. Some say only the beginning of it."""

_GOOD, _REST = (_chunk({"content": text}) for text in ("Good ", "日本 ☕"))
_STOP = _chunk({}, "stop")
_DONE = sse.encode(sse.DONE)
_COST = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "cost": 0.25}
_END = _chunk({}, "stop", usage=_COST) + _DONE

ANSWER = _GOOD + _REST + _END
"""A whole answer, as it is on the wire."""


# --- late and slow ----------------------------------------------------------------------------------------------------


@_model
def steady(count: int = 20, interval: int = 50) -> Reply:
    """A healthy answer: {count} pieces, one each {interval} ms, with the time of sending in `sent_at`."""

    def events() -> Iterator[bytes]:
        for number in range(count):
            yield _chunk({"content": f"{number} "}, sent_at=time.time())
        yield _END

    return Reply.sse(events(), pause=interval / 1000)


@_model
def endless(interval: int = 10) -> Reply:
    """An answer without end, a piece each {interval} ms."""
    return Reply.sse(repeat(_GOOD), pause=interval / 1000)


@_model
def wait(delay: int = 2000) -> Reply:
    """Nothing for {delay} ms, not even a status, and then all at once."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(delay / 1000, over.set)
    return Reply.sse(ANSWER, before=over)


@_model
def drip(rate: int = 20) -> Reply:
    """{rate} bytes a second, one by one."""
    return Reply.sse(ANSWER, chunks=1, pause=1 / max(rate, 1))


@_model
def split() -> Reply:
    """Every byte of a letter that is not ASCII comes by itself."""
    return Reply.sse(re.findall(rb"[\x00-\x7f]+|[\x80-\xff]", ANSWER), pause=0.002)


@_model
def comments(interval: int = 100) -> Reply:
    """Nothing but comments that keep the connection in use, one each {interval} ms, for ever."""
    return Reply.sse(repeat(sse.comment("CHAOS PROCESSING")), pause=interval / 1000)


@_model
def stall(count: int = 200) -> Reply:
    """Nothing more after {count} bytes, with the connection left open."""
    return Reply.sse(ANSWER, chunks=[count], gates={1: asyncio.Event()})


@_model
def large(megabytes: int = 10) -> Reply:
    """One event of {megabytes} MB."""
    head, tail = _chunk({"content": "|"}).split(b"|")
    return Reply.sse((head, *repeat(b"x" * MEGABYTE, megabytes), tail + _END))


# --- broken off, refused ----------------------------------------------------------------------------------------------


@_model
def cut(count: int = 200) -> Reply:
    """The connection is closed after {count} bytes."""
    return Reply.sse(ANSWER, drop_after=count)


@_model
def reset() -> Reply:
    """The connection is reset before the answer."""
    return Reply(reset=True)


@_model
def status(number: int = 503) -> Reply:
    """An error with the status {number}."""
    return error_reply(number if 400 <= number <= 599 else 500, f"told to fail with {number}")


@_model
def busy(seconds: int = 1) -> Reply:
    """Status 429, with `Retry-After: {seconds}`."""
    return error_reply(429, "too many requests", **{"retry-after": str(seconds)})


@_model
def html() -> Reply:
    """A page of HTML, with status 200."""
    page = b"<!doctype html><title>Please sign in</title><h1>Please sign in</h1>"
    return Reply(body=page, headers={"content-type": "text/html; charset=utf-8"})


@_model
def garbage() -> Reply:
    """An event that is not JSON, after one word."""
    return _stream(_GOOD, sse.encode(b'{"choi'), _REST, _END)


@_model
def error() -> Reply:
    """An error inside of the stream, after one word."""
    told = {"code": 502, "message": "the model has crashed", "metadata": {"error_type": "provider_unavailable"}}
    return _stream(_GOOD, _chunk({"content": ""}, "error", error=told))


# --- odd --------------------------------------------------------------------------------------------------------------


@_model
def no_finish() -> Reply:
    """No finish reason, only `[DONE]`."""
    return _stream(_GOOD, _REST, _DONE)


@_model
def no_done() -> Reply:
    """A finish reason, and no `[DONE]`."""
    return _stream(_GOOD, _REST, _STOP)


@_model
def no_end() -> Reply:
    """Neither a finish reason nor `[DONE]`."""
    return _stream(_GOOD, _REST)


@_model
def after_done() -> Reply:
    """More of it after `[DONE]`, and then what is not JSON."""
    return _stream(ANSWER, _REST, sse.encode(b'{"choi'), _END)


@_model
def empty() -> Reply:
    """No text at all, but a finish reason."""
    return _stream(_END)


@_model
def thinking() -> Reply:
    """A thought, and no text."""
    return _stream(_chunk({"reasoning": "Hm. "}), _END)


@_model
def usage_none() -> Reply:
    """Nothing is said of what it cost."""
    return _stream(_GOOD, _REST, _STOP, _DONE)


@_model
def usage_twice() -> Reply:
    """What it cost is said twice, and differently."""
    return _stream(_GOOD, _REST, _chunk({}, usage={**_COST, "cost": 9}), _END)


@_model
def usage_wrong() -> Reply:
    """What it cost is said in words."""
    usage = {"prompt_tokens": "many", "completion_tokens": -3, "total_tokens": None, "cost": "nothing"}
    return _stream(_GOOD, _REST, _chunk({}, "stop", usage=usage), _DONE)


# --- calls of tools ---------------------------------------------------------------------------------------------------


@_model
def calls() -> Reply:
    """Three calls of a tool, their fragments interleaved and repeated; after the tools' answers it says its text."""
    return _stream(
        _chunk({"tool_calls": [_fragment(0, "", "call_a"), _fragment(1, "", "call_b")]}),
        *_asking(
            _fragment(1, '{"text": "\\u65'),
            _fragment(0, '{"te'),
            _fragment(0, 'xt": "on', "call_a"),  # says again whose it is
            _fragment(1, 'e5"}'),
            _fragment(0, 'e"}'),
            _fragment(1, "", "call_b"),  # begins again, with nothing
            _fragment(0, '{"text": "one"}', "call_a"),  # says all of it again
            _fragment(0, '{"text": "three"}', "call_c"),  # is another one, with the index of the first
        ),
    )


@_model
def bad_arguments() -> Reply:
    """A call of a tool whose arguments are not JSON; after the tool's answer it says its text."""
    return _stream(*_asking(_fragment(0, '{"text": "on', "call_a")))


def _fragment(index: int, arguments: str, call_id: str | None = None) -> JsonObject:
    """A piece of a call; with an id, it has the call's head."""
    if call_id is None:
        return {"index": index, "function": {"arguments": arguments}}
    return {"index": index, "id": call_id, "type": "function", "function": {"name": TOOL, "arguments": arguments}}


def _asking(*fragments: JsonObject) -> Iterator[bytes]:
    for fragment in fragments:
        yield _chunk({"tool_calls": [fragment]})
    yield _chunk({}, "tool_calls", usage=_COST)
    yield _DONE
