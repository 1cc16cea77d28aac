"""What OpenAI-shaped servers say, as events: the recorded streams, and everything in which servers differ."""

import json
from pathlib import Path
from typing import Any

import pytest

from chatcore import sse
from chatcore.answer import Answer
from chatcore.openai.chunks import ChunkReader
from chatcore.tools import ToolCall
from chatcore.types import (
    Annotated,
    Attachment,
    Finish,
    ModelEvent,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "openrouter"
ALL_FIXTURES = sorted(FIXTURES.glob("*.sse"))


def read(*pieces: bytes, reader: ChunkReader | None = None) -> list[ModelEvent]:
    """The events of a stream in these pieces, with those of its end."""
    reader = reader or ChunkReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    reader.close()
    return events + reader.finish()


def stream(*chunks: Any, done: bool = True) -> bytes:
    blocks = [chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode() for chunk in chunks]
    return b"".join(b"data: %b\n\n" % block for block in [*blocks, *([b"[DONE]"] if done else [])])


def delta(*, finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "gen-1", "choices": [{"index": 0, "delta": fields, "finish_reason": finish_reason}]}


def say(*deltas: dict[str, Any], first_call: int = 0) -> list[ModelEvent]:
    """The events of some deltas, without their chunks."""
    events = read(stream(*(delta(**fields) for fields in deltas)), reader=ChunkReader(first_call=first_call))
    return [event for event in events if not isinstance(event, Finish) and event != TextDelta("", event.raw)]


def calls_of(*fragments: dict[str, Any] | list[dict[str, Any]], first_call: int = 0) -> tuple[ToolCall, ...]:
    """The calls that come of some fragments, each in a chunk of its own."""
    answer = Answer()
    lists = (fragment if isinstance(fragment, list) else [fragment] for fragment in fragments)
    answer.add(say(*({"tool_calls": fragments} for fragments in lists), first_call=first_call))
    return answer.tool_calls


def fragment(arguments: Any = None, *, name: str | None = None, **fields: Any) -> dict[str, Any]:
    return {**fields, "function": {"name": name, "arguments": arguments}}


# --- recorded streams ---


@pytest.mark.parametrize("fixture", ALL_FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_recorded_streams_mean_the_same_however_they_are_cut(fixture: Path, line_end: bytes) -> None:
    """Whole, byte by byte and at every split point, with every line end: the same events, chunks included."""
    expected = read(fixture.read_bytes())
    body = fixture.read_bytes().replace(b"\n", line_end)
    assert read(body) == expected
    assert read(*(body[i : i + 1] for i in range(len(body)))) == expected
    for i in range(len(body)):
        assert read(body[:i], body[i:]) == expected


@pytest.mark.parametrize("fixture", ALL_FIXTURES, ids=lambda path: path.stem)
def test_every_chunk_is_passed_on_once(fixture: Path) -> None:
    """The events' `raw`, in order, are the stream's chunks, except those that tell of an error."""
    chunks = [event.data for event in sse.Parser().feed(fixture.read_bytes() + b"\n\n")]
    passed = [event.raw for event in read(fixture.read_bytes()) if event.raw]
    assert passed == [chunk for chunk in chunks if chunk != sse.DONE and b'"error":{' not in chunk]


def test_plain_text() -> None:
    """Fixture A: text in four pieces, usage in a chunk without choices."""
    events = read((FIXTURES / "a_plain.sse").read_bytes())
    assert [event.text for event in events if isinstance(event, TextDelta)] == [
        "",
        "Hello",
        "! Café",
        " ☕ and 日本",
        " — ready.",
        "",
    ]
    assert isinstance(events[-2], Usage)
    assert events[-2].usage["total_tokens"] == 23
    assert events[-1] == Finish(
        "stop",
        model="openai/gpt-4o-mini",
        provider="OpenAI",
        generation_id="gen-1795230000-Qm3vT8sKpL1xWd0RzY4b",
        raw=b"",
    )


def test_reasoning() -> None:
    """Fixture B: the thought to show and its fragments to keep; a signature comes alone."""
    thoughts = [e for e in read((FIXTURES / "b_reasoning.sse").read_bytes()) if isinstance(e, ReasoningDelta)]
    assert [thought.text for thought in thoughts] == ["9.9 is 9.90", ", and 9.90 > 9.11.", ""]
    assert thoughts[2].details[0]["signature"].startswith("EqQB")


def test_parallel_tool_calls() -> None:
    """Fixture C: three interleaved calls; what was said to ask for them is told as it comes."""
    events = read((FIXTURES / "c_parallel_tools.sse").read_bytes())
    assert [(e.index, e.id, e.name) for e in events if isinstance(e, ToolCallStarted)] == [
        (0, "call_Kq1", "get_weather"),
        (1, "call_Kq2", "list_calendars"),
        (2, "call_Kq3", "get_weather"),
    ]
    assert [(e.index, e.arguments) for e in events if isinstance(e, ToolCallDelta)] == [
        (0, '{"ci'),
        (0, 'ty": "Zür'),
        (0, 'ich", "unit": "\\u00b0'),
        (2, '{"city":'),
        (2, ' "Oslo"}'),
        (0, 'C"}'),
    ]
    assert isinstance(events[-2], Usage)
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "tool_calls"


@pytest.mark.parametrize(
    ("name", "text", "status", "kind"),
    [
        ("d_midstream_error", "The first step is to", 502, "provider_unavailable"),
        ("d2_midstream_error_empty_choices", "Let me", 400, "invalid_request"),
    ],
)
def test_an_error_in_the_stream(name: str, text: str, status: int, kind: str) -> None:
    """Fixtures D: what came before stays, the answer is not complete, and nothing after the error is read."""
    reader = ChunkReader()
    events = read((FIXTURES / f"{name}.sse").read_bytes(), reader=reader)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
    assert not any(isinstance(event, Finish) for event in events)
    assert reader.failure is not None
    assert (reader.failure.status, reader.failure.kind, reader.done) == (status, kind, False)


def test_annotations_and_images() -> None:
    """Fixture E: a citation with a line break in it, and an image."""
    events = read((FIXTURES / "e_annotations_image.sse").read_bytes())
    [annotated] = [event for event in events if isinstance(event, Annotated)]
    [image] = [event for event in events if isinstance(event, Attachment)]
    assert annotated.annotations[0]["url_citation"]["content"] == "First excerpt.\n[...]\nSecond excerpt."
    assert image.part["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


# --- how an answer ends ---

USAGE = {"prompt_tokens": 1, "completion_tokens": 2}


@pytest.mark.parametrize(
    "chunks",
    [
        [delta(finish_reason="length"), {"choices": [], "usage": USAGE}],
        [{**delta(finish_reason="length", content=""), "usage": USAGE}],
        [delta(finish_reason="length"), {**delta(content=""), "usage": USAGE}],
        [{**delta(content="x"), "usage": None}, delta(finish_reason="length"), {"choices": None, "usage": USAGE}],
    ],
)
def test_usage_comes_in_three_shapes(chunks: list[dict[str, Any]]) -> None:
    """Alone, with the finish reason, or after it; a null that comes later does not undo the finish reason."""
    events = read(stream(*chunks))
    assert [event.usage for event in events if isinstance(event, Usage)] == [USAGE]
    assert [event.reason for event in events if isinstance(event, Finish)] == ["length"]
    assert isinstance(events[-1], Finish)
    assert [json.loads(event.raw) for event in events if event.raw] == chunks


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (stream(delta(content="x", finish_reason="stop")), "stop"),
        (stream(delta(content="x", finish_reason="stop"), done=False), "stop"),
        (stream(delta(content="x")), "stop"),
        (stream(), "stop"),
        (stream(delta(content="x"), done=False), None),
        (b"", None),
        (b": OPENROUTER PROCESSING\n\n", None),
    ],
)
def test_an_answer_is_complete_if_the_server_says_so(body: bytes, reason: str | None) -> None:
    """By a finish reason or by `[DONE]`; a stream that just ends was cut off."""
    assert [event.reason for event in read(body) if isinstance(event, Finish)] == ([reason] if reason else [])


def test_blanks_around_data_mean_nothing() -> None:
    """An event of blanks alone is a proxy's sign of life; `[DONE]` with one behind it ends the stream."""
    body = b"data:\n\ndata:   \n\n" + stream(delta(content="x")).replace(b"[DONE]", b" [DONE] ")
    assert read(body) == read(stream(delta(content="x")))


def test_nothing_is_read_after_done() -> None:
    """What follows `[DONE]` is no part of the answer."""
    assert read(stream(delta(content="x")) + stream(delta(content="y")))[:-1] == read(stream(delta(content="x")))[:-1]


def test_names_are_taken_from_the_first_chunk_that_has_them() -> None:
    """Some servers begin with a chunk whose id and model are empty."""
    first = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    second = {"id": "chat-7", "model": "m", "provider": "P", "choices": []}
    finish = read(stream(first, second, {"id": "x", "model": "y", "choices": []}))[-1]
    assert finish == Finish("stop", model="m", provider="P", generation_id="chat-7", raw=b"")


# --- errors ---


@pytest.mark.parametrize(
    ("chunk", "message", "status", "kind"),
    [
        ({"error": {"code": 502, "message": "gone"}, "choices": []}, "gone", 502, None),
        ({"error": {"code": "server_error", "message": "gone"}}, "gone", None, "server_error"),
        ({"error": {"code": "429", "message": "slow"}}, "slow", 429, None),
        ({"error": "gone"}, "gone", None, None),
        ({"error": {"message": "gone", "type": "overloaded"}}, "gone", None, "overloaded"),
        (
            {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 500, "message": "gone"}}]},
            "gone",
            500,
            None,
        ),
        ({"choices": [{"delta": {}, "finish_reason": "error"}]}, "the model's server failed", None, None),
    ],
)
def test_errors_in_a_stream(chunk: dict[str, Any], message: str, status: int | None, kind: str | None) -> None:
    """At the top or in the choice, with a code that is a number, a number as text, or a name."""
    reader = ChunkReader()
    events = read(stream(delta(content="x"), chunk, delta(content="y")), reader=reader)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["x"]
    assert reader.failure is not None
    assert (reader.failure.message, reader.failure.status, reader.failure.kind) == (message, status, kind)


def test_text_beside_an_error_is_kept() -> None:
    """The text of the chunk that has the error is told without the chunk, whose error is told in another way."""
    chunk = {**delta(content="last words", finish_reason="error"), "error": {"message": "gone"}}
    assert read(stream(chunk)) == [TextDelta("last words", None)]


def test_an_event_named_error_is_an_error() -> None:
    """Whatever is in it."""
    for said in ('{"error": {"message": "gone", "code": 503}}', '{"message": "gone"}', "gone"):
        reader = ChunkReader()
        assert read(f"event: error\ndata: {said}\n\n".encode(), reader=reader) == []
        assert reader.failure is not None
        assert reader.failure.message == "gone"


def test_events_of_other_names_are_no_chunks() -> None:
    """Such as a ping."""
    assert read(b'event: ping\ndata: {"type": "ping"}\n\n') == []


@pytest.mark.parametrize(
    "said", [b"{", b"null", b"5", b'"text"', b"[]", b"Internal Server Error", b'{"choices": {}}', b"[" * 10_000]
)
def test_what_is_no_chunk_is_an_error(said: bytes) -> None:
    """It is never passed over in silence."""
    reader = ChunkReader()
    events = read(stream(delta(content="x"), said, delta(content="y"), done=False), reader=reader)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["x"]
    assert reader.failure is not None
    assert reader.failure.kind == "unreadable"


@pytest.mark.parametrize("said", [b"NaN", b"-Infinity", b"[1e999]", b'"\\ud83d"', b'"\\ude00"'])
def test_what_only_some_parsers_take_is_mended(said: bytes) -> None:
    """NaN in a field that nobody reads, half a surrogate pair: the chunk goes on as JSON that every parser takes."""
    chunk = b'{"choices": [{"delta": {"content": "x"}, "logprobs": %b}], "usage": {"odd": %b}}' % (said, said)
    [text, usage, _] = read(stream(chunk))
    assert (text, usage) == (TextDelta("x", text.raw), Usage(usage.usage, b""))  # type: ignore[union-attr]
    assert text.raw is not None
    assert json.loads(text.raw.decode("utf-8", "strict"), parse_constant=pytest.fail)


def test_chunks_on_several_lines_become_one_line() -> None:
    """Formats pass chunks on as one line of data."""
    pretty = json.dumps(delta(content="x\ny"), indent=2)
    body = "".join(f"data: {line}\n" for line in pretty.split("\n")) + "\n"
    [text, *_] = read(body.encode())
    assert text.raw is not None
    assert b"\n" not in text.raw
    assert json.loads(text.raw) == delta(content="x\ny")


# --- what a delta may hold ---


def test_a_chunk_that_says_nothing_is_passed_on() -> None:
    """A role, a debug object, a filter's result, another choice: clients may want what chatcore does not."""
    chunks = [
        delta(role="assistant"),
        {"choices": [], "debug": {"echo_upstream_body": {}}},
        {"choices": [{"index": 1, "delta": {"content": "another"}}]},
        {"choices": [{"index": 0}]},
        delta(audio={"data": "AAAA", "transcript": "hello"}),
        {},
    ]
    events = read(stream(*chunks))[:-1]
    assert events == [TextDelta("", json.dumps(chunk).encode()) for chunk in chunks]


def test_one_chunk_with_everything() -> None:
    """Its events come in the order in which a reader wants them; the first has the chunk, the others know of it."""
    chunk = {
        **delta(
            content="text",
            reasoning="thought",
            tool_calls=[fragment("{}", name="f", index=0, id="a")],
            annotations=[{"type": "url_citation"}],
            images=[{"type": "image_url"}],
        ),
        "usage": USAGE,
    }
    raw = json.dumps(chunk).encode()
    assert read(stream(chunk))[:-1] == [
        ReasoningDelta("thought", [], raw),
        TextDelta("text", b""),
        ToolCallStarted(0, "a", "f", b""),
        ToolCallDelta(0, "{}", b""),
        Annotated([{"type": "url_citation"}], b""),
        Attachment({"type": "image_url"}, b""),
        Usage(USAGE, b""),
    ]


@pytest.mark.parametrize(
    ("fields", "thought"),
    [
        ({"reasoning": "a"}, "a"),
        ({"reasoning_content": "a"}, "a"),
        ({"reasoning": "a", "reasoning_content": "a"}, "a"),
        ({"reasoning": ["a", {"text": "b"}, {"content": [{"text": "c"}]}]}, "abc"),
        ({"reasoning": {"summary": "a"}}, "a"),
        ({"reasoning_details": [{"type": "reasoning.summary", "summary": "a"}]}, "a"),
        ({"reasoning": "a", "reasoning_details": [{"type": "reasoning.text", "text": "a"}]}, "a"),
        ({"reasoning": None, "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, ""),
    ],
)
def test_reasoning_comes_in_many_shapes(fields: dict[str, Any], thought: str) -> None:
    """Shown once, although servers say it twice; the fragments are kept as they are."""
    [event] = say({"content": "", **fields})
    assert isinstance(event, ReasoningDelta)
    assert (event.text, event.details) == (thought, fields.get("reasoning_details", []))


@pytest.mark.parametrize(
    "sign", [{"error": None}, {"type": "ping"}, {"object": "ping", "message": "hm"}, {"choices": None}]
)
def test_events_without_choices_are_no_errors(sign: dict[str, Any]) -> None:
    """Unless they say so."""
    reader = ChunkReader()
    events = read(stream(sign, delta(content="a", finish_reason="stop")), reader=reader)
    assert (reader.failure, [event.text for event in events if isinstance(event, TextDelta)]) == (None, ["", "a"])


@pytest.mark.parametrize(
    ("deltas", "marks"),
    [
        ([{"reasoning": "a"}, {"reasoning": "b", "reasoning_content": "b"}], ["", ""]),
        ([{"reasoning_content": "a"}, {"reasoning_content": None, "content": "b"}], ["deep/reasoning_content"]),
        ([{"reasoning_content": ""}, {"reasoning_content": "", "content": "b"}], ["deep/reasoning_content"]),
        ([{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "a"}]}]}], ["deep/thinking"]),
        ([{"content": [{"type": "thinking", "thinking": "a"}]}], ["deep/thinking"]),
    ],
)
def test_reasoning_is_marked_that_is_wanted_back_in_another_place(deltas: list[Any], marks: list[str]) -> None:
    """With the provider's name, as nobody else is to be given it; an empty one is told of once."""
    events = read(stream(*(delta(**fields) for fields in deltas)), reader=ChunkReader(provider="deep"))
    assert [event.mark for event in events if isinstance(event, ReasoningDelta)] == marks
    answer = Answer()
    answer.add(events)
    assert answer.message().reasoning_mark == marks[-1]


def test_content_may_be_parts() -> None:
    """Text parts are text; all others are attachments."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [{"type": "text", "text": "a"}, "b", image, {"text": "c"}, {"type": "text"}, 5]
    events = say({"content": parts})
    assert [getattr(event, "text", None) or getattr(event, "part", None) for event in events] == ["a", "b", image, "c"]
    assert [bool(event.raw) for event in events] == [True, False, False, False]


def test_a_refusal_is_text() -> None:
    """It is what the model answered."""
    assert [event.text for event in say({"content": None, "refusal": "No."}) if isinstance(event, TextDelta)] == ["No."]


# --- tool calls ---


def test_a_call_in_one_fragment() -> None:
    """And two in one chunk."""
    pair = [fragment('{"a":1}', name="f", index=0, id="x"), fragment("{}", name="g", index=1, id="y")]
    assert calls_of(pair) == (ToolCall("x", "f", '{"a":1}'), ToolCall("y", "g", "{}"))


def test_id_and_name_may_be_repeated() -> None:
    """They are not put together."""
    pieces = ['{"a"', ":", "1}"]
    assert calls_of(*(fragment(piece, name="f", index=0, id="x") for piece in pieces)) == (
        ToolCall("x", "f", '{"a":1}'),
    )


def test_a_call_may_be_repeated_whole() -> None:
    """Some servers say it all again at the end; arguments that only look alike are not taken for that."""
    assert calls_of(
        fragment('{"a":', name="f", index=0, id="x"),
        fragment('{"b":1}}', index=0),
        fragment('{"a":{"b":1}}', name="f", index=0, id="x"),
    ) == (ToolCall("x", "f", '{"a":{"b":1}}'),)
    assert calls_of(
        fragment('{"a":', name="f", index=0, id="x"),
        fragment('{"a":', name="f", index=0, id="x"),
        fragment("1}}", name="f", index=0, id="x"),
    ) == (ToolCall("x", "f", '{"a":{"a":1}}'),)


def test_ids_that_change_are_one_call() -> None:
    """Some servers make up an id for each fragment; only the first has a name."""
    assert calls_of(fragment('{"a"', name="f", index=0, id="x"), fragment(":1}", index=0, id="y")) == (
        ToolCall("x", "f", '{"a":1}'),
    )


def test_one_index_for_all_calls() -> None:
    """Another id with a name is another call."""
    first, second = fragment("{}", name="f", index=0, id="x"), fragment('{"a":1}', name="g", index=0, id="y")
    assert calls_of([first, second], fragment("", index=0)) == (ToolCall("x", "f", "{}"), ToolCall("y", "g", '{"a":1}'))


@pytest.mark.parametrize("fields", [{"index": 0}, {"index": 0, "id": ""}, {"index": 0, "id": "x"}, {"id": "x"}])
def test_calls_that_nothing_tells_apart(fields: dict[str, Any]) -> None:
    """With one index and no ids, or all the same: another name is another call; so is what follows whole arguments."""
    calls = calls_of(
        [fragment('{"a":1}', name="f", **fields), fragment('{"a":2}', name="f", **fields)],
        fragment('{"b"', name="g", **fields),
        fragment(":3}", name="g", **fields),
    )
    assert [(call.name, call.arguments) for call in calls] == [("f", '{"a":1}'), ("f", '{"a":2}'), ("g", '{"b":3}')]
    assert len({call.id for call in calls}) == 3


def test_no_index() -> None:
    """Fragments belong to the call with their id, those without one to the last call; a name alone begins a call."""
    assert calls_of(
        [fragment('{"a"', name="f", id="x"), fragment('{"b"', name="g", id="y")],
        fragment(":1}", id="x"),
        fragment(":2}"),
        [fragment("{}", name="h"), fragment("{}", name="h")],
        first_call=10,
    ) == (
        ToolCall("x", "f", '{"a":1}'),
        ToolCall("y", "g", '{"b":2}'),
        ToolCall("call_12", "h", "{}"),
        ToolCall("call_13", "h", "{}"),
    )


def test_no_id() -> None:
    """It gets one that no earlier call of the conversation has; two calls never share one."""
    assert [call.id for call in calls_of(*(fragment("{}", name="f", index=i) for i in (0, 1)), first_call=3)] == [
        "call_3",
        "call_4",
    ]
    same = [fragment("{}", name="f", index=i, id="call_1") for i in (0, 1)]
    assert [call.id for call in calls_of(same)] == ["call_1", "call_2"]


def test_a_name_may_come_late_or_never() -> None:
    """The call is told of when its name is known, with all that has come of its arguments; at the latest at the end."""
    assert say(
        {"tool_calls": [fragment('{"a"', index=0, id="x")]}, {"tool_calls": [fragment(":1}", name="f", index=0)]}
    )[0] == ToolCallStarted(0, "x", "f", json.dumps(delta(tool_calls=[fragment(":1}", name="f", index=0)])).encode())
    assert calls_of(fragment('{"a"', index=0, id="x"), fragment(":1}", name="f", index=0)) == (
        ToolCall("x", "f", '{"a":1}'),
    )
    assert calls_of(fragment("{}", index=0, id="x")) == (ToolCall("x", "", "{}"),)


@pytest.mark.parametrize(
    ("arguments", "text"), [({"a": 1}, '{"a":1}'), ({}, "{}"), (None, "{}"), ("", "{}"), ("not JSON", "not JSON")]
)
def test_arguments_may_be_an_object(arguments: object, text: str) -> None:
    """They become text; none are the empty object; what the model wrote stays as it is."""
    assert calls_of(fragment(arguments, name="f", index=0, id="x")) == (ToolCall("x", "f", text),)


def test_indexes_need_not_begin_at_zero_or_be_in_order() -> None:
    """The calls are in the order of their indexes."""
    assert [call.name for call in calls_of(*(fragment("{}", name=str(i), index=i, id=str(i)) for i in (7, 3)))] == [
        "3",
        "7",
    ]


def test_a_fragment_with_nothing_in_it() -> None:
    """No function, a null function, no fragments: nothing happens."""
    answer = Answer()
    answer.add(
        say({"tool_calls": [{"index": 0, "id": "x", "function": None}]}, {"tool_calls": []}, {"tool_calls": None})
    )
    assert answer.empty is False
    assert answer.tool_calls == (ToolCall("x", "", "{}"),)


# --- a completion in one piece ---


def test_a_whole_completion() -> None:
    """It gives the events that its stream would have given, but there is no chunk to pass on."""
    message = {
        "role": "assistant",
        "content": "Hello",
        "reasoning": "hm",
        "tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    body = {"id": "gen-1", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    reader = ChunkReader()
    assert reader.read_whole(json.dumps(body).encode()) + reader.finish() == [
        ReasoningDelta("hm", []),
        TextDelta("Hello"),
        ToolCallStarted(0, "x", "f"),
        ToolCallDelta(0, "{}"),
        Usage(USAGE),
        Finish("tool_calls", generation_id="gen-1", raw=b""),
    ]


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"choices": []}', b"[]", b"null"])
def test_what_is_no_completion(body: bytes) -> None:
    """It is an error, not an empty answer."""
    reader = ChunkReader()
    assert reader.read_whole(body) + reader.finish() == []
    assert reader.failure is not None
    assert reader.failure.kind == "unreadable"
