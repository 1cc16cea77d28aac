"""The parser and the encoder of server-sent events, against the standard and against recorded streams."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore import sse
from chatcore.errors import StreamBroken
from chatcore.sse import Event, Parser

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "openrouter").glob("*.sse"))
BOM = b"\xef\xbb\xbf"


def parse(*pieces: bytes) -> list[Event]:
    """The events of a whole stream that comes in these pieces."""
    parser = Parser()
    return feed(parser, *pieces) + parser.close()


def feed(parser: Parser, *pieces: bytes) -> list[Event]:
    return [event for piece in pieces for event in parser.feed(piece)]


def data(*pieces: bytes) -> list[bytes]:
    return [event.data for event in parse(*pieces)]


def reference(stream: bytes) -> list[Event]:
    """The standard's algorithm, word by word and without any thought of speed."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, _unfinished = re.split("\r\n|\n|\r", text)
    events: list[Event] = []
    buffer: list[str] = []
    kind, last_id = "", None
    for line in lines:
        if not line:
            if buffer:
                events.append(Event("\n".join(buffer).encode(), kind or "message", last_id))
            buffer, kind = [], ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            buffer.append(value)
        elif name == "event":
            kind = value
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_recorded_streams_are_the_same_however_they_are_cut(fixture: Path, line_end: bytes) -> None:
    """Whole, byte by byte and at every single split point, with every line end: the same events."""
    recorded = fixture.read_bytes()
    expected = parse(recorded)
    stream = recorded.replace(b"\n", line_end)

    assert [json.loads(event.data) for event in expected if event.data != sse.DONE]
    assert parse(stream) == expected
    assert parse(*(stream[i : i + 1] for i in range(len(stream)))) == expected
    for i in range(len(stream)):
        assert parse(stream[:i], stream[i:]) == expected


FIELDS = [b"data", b"data: ", b"data:", b": hello", b"event: ping", b"event:", b"id: 7", b"id", b"id: \0", b"retry: 10"]
BREAKS = [b"\n", b"\r", b"\r\n", b"\n\n"]
BYTES = [b":", b" ", BOM, b"\xff", b"\xe2\x80", b"\0", b"x", b"[DONE]", "é日😀\u2028\x85\x0b\x0c\x1c".encode()]
TOKENS = st.sampled_from([*FIELDS, *BREAKS, *BYTES])


@given(st.lists(TOKENS, max_size=25).map(b"".join), st.data())
def test_it_agrees_with_the_standard(stream: bytes, draw: st.DataObject) -> None:
    """On any bytes, cut anywhere, it gives the events of the standard's own algorithm."""
    expected = reference(stream)
    parser = Parser()
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    assert feed(parser, *pieces) == expected


@given(st.lists(TOKENS, max_size=25).map(b"".join))
def test_cutting_changes_nothing(stream: bytes) -> None:
    """Byte by byte and whole give the same events, the end of the stream included."""
    assert parse(*(stream[i : i + 1] for i in range(len(stream)))) == parse(stream)


def test_one_byte_order_mark_is_dropped_also_when_it_is_cut() -> None:
    """Only the first is a mark; a second is data, here of the field's name."""
    assert data(BOM + b"data: x\n\n") == [b"x"]
    assert data(BOM[:1], BOM[1:2], BOM[2:] + b"data: x\n\n") == [b"x"]
    assert data(BOM + BOM + b"data: x\n\n") == []
    assert data(b"\xef", b"\xbb", b"data: x\n\n") == []


def test_characters_and_invalid_bytes() -> None:
    """A character may be cut anywhere; bytes that are no UTF-8 become U+FFFD and stop nothing."""
    snow = "data: ☃\n\n".encode()
    assert all(data(snow[:i], snow[i:]) == ["☃".encode()] for i in range(len(snow)))
    assert data(b"data: a\xffb\n\n", b"data: \xe2\x98\n\n") == ["a\ufffdb".encode(), "\ufffd".encode()]


def test_only_cr_and_lf_end_a_line() -> None:
    """What other libraries take for line ends is data."""
    line = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei"
    assert data(f"data: {line}\n\n".encode()) == [line.encode()]


def test_a_carriage_return_ends_its_line_at_once() -> None:
    """An event is there as soon as the CR of its blank line is; the LF after it begins nothing."""
    parser = Parser()
    assert parser.feed(b"data: x\r\n\r") == [Event(b"x")]
    assert parser.feed(b"\ndata: y\r\n\r\n") == [Event(b"y")]
    assert parser.feed(b"\n") == []
    assert parser.feed(b"data: z\n\n") == [Event(b"z")]


def test_comments_are_counted_and_give_no_event() -> None:
    """A comment is a sign of life, before an event, between two and inside one."""
    parser = Parser()
    assert parser.feed(b": OPENROUTER PROCESSING\n\n:\n\ndata: a\n: inside\ndata: b\n\n") == [Event(b"a\nb")]
    assert parser.comments == 3


def test_fields() -> None:
    """One space after the colon is dropped, a line without a colon is a field, names are case-sensitive."""
    assert data(b"data:x\n\ndata: x\n\ndata:  x\n\n") == [b"x", b"x", b" x"]
    assert data(b"data\n\ndata\ndata\n\ndata:\ndata:\n\n") == [b"", b"\n", b"\n"]
    assert data(b"Data: x\n\ndatum: x\n\n data: x\n\n") == []
    assert data(b"data: a:b: c\n\n") == [b"a:b: c"]


def test_event_and_id() -> None:
    """`event` is for its block, also for one without data; `id` stays; one with NUL in it is none."""
    stream = b"event: a\nid: 1\ndata: x\n\ndata: y\n\nevent: lost\nid: 2\n\ndata: z\nid: 3\0\n\nid\ndata: end\n\n"
    assert parse(stream) == [
        Event(b"x", "a", "1"),
        Event(b"y", "message", "1"),
        Event(b"z", "message", "2"),
        Event(b"end", "message", ""),
    ]


def test_an_error_may_be_a_field() -> None:
    """As llama.cpp had it; beside data it is a field like any other that nobody knows."""
    stream = b'error: {"code":400}\n\ndata: x\nerror: y\n\ndata: z\n\n'
    assert Parser().feed(stream) == [Event(b'{"code":400}', "error"), Event(b"x"), Event(b"z")]


def test_retry_is_a_number() -> None:
    """Anything but ASCII digits is ignored."""
    parser = Parser()
    parser.feed("retry: 1500\n\nretry: -1\n\nretry: 1.5\n\nretry: ٣\n\nretry:\n\n".encode())
    assert parser.retry == 1500


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_done_counts_without_its_blank_line(end: bytes) -> None:
    """OpenAI-shaped servers do not always end their last line."""
    assert data(b"data: {}\n\ndata: [DONE]" + end) == [b"{}", b"[DONE]"]


def test_any_other_block_must_be_ended() -> None:
    """What the end of the stream cut off is no event."""
    assert data(b"data: {}\n\ndata: {}\n") == [b"{}"]
    assert data(b"data: {}\ndata: [DONE]") == []


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_events_are_bounded(size: int) -> None:
    """An event over the limit is refused before it is put together, whether or not it ever ends."""
    parser = Parser(limit=1000)
    stream = b"data: ok\n\n" * 300 + b"data: " + b"x" * 1000 + b"\n\n"
    with pytest.raises(StreamBroken, match="more than 1000 bytes"):
        feed(parser, *(stream[i : i + size] for i in range(0, len(stream), size)))


def test_streams_are_bounded() -> None:
    """Comments count towards the size of the stream, so that nothing can go on for ever."""
    parser = Parser(total=100)
    with pytest.raises(StreamBroken, match="longer"):
        feed(parser, *[b":\n"] * 60)


def test_a_large_event_takes_time_in_proportion() -> None:
    """An event of 16 MiB in pieces of 4 KiB is put together once, not once a piece."""
    parser = Parser()
    piece = b"x" * 4096
    parser.feed(b"data: ")
    for _ in range(4096):
        assert parser.feed(piece) == []
    assert len(parser.feed(b"\n\n")[0].data) == 2**24


@given(
    st.lists(
        st.builds(
            Event,
            st.text(st.characters(blacklist_categories=["Cs"])).map(str.encode),
            st.sampled_from(["message", "tool", "metadata"]),
            st.sampled_from(["1", "run:7"]),
        ),
        max_size=5,
    )
)
def test_what_is_encoded_comes_back(events: list[Event]) -> None:
    """Data of any text, with line breaks of any kind in it; only the kind of a break is not kept."""
    stream = b"".join(sse.encode(event.data, event=event.event, id=event.id) for event in events)
    expected = [Event(re.sub(b"\r\n|\r", b"\n", event.data), event.event, event.id) for event in events]
    assert parse(sse.comment("hello") + stream) == expected == reference(stream)


def test_encoding() -> None:
    """One event, to the byte."""
    assert sse.encode(b"{}") == b"data: {}\n\n"
    assert sse.encode(b"{}", event="tool", id="r:1") == b"event: tool\nid: r:1\ndata: {}\n\n"
    assert sse.encode(b"a\r\nb\rc\nd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert sse.comment() == b": \n\n"
    assert sse.comment("ping") == b": ping\n\n"


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "x\n\ndata: injected"])
def test_fields_cannot_be_broken_out_of(bad: str) -> None:
    """A line break or NUL in a name, an id or a comment is refused."""
    with pytest.raises(ValueError, match="server-sent event"):
        sse.encode(b"{}", event=bad)
    with pytest.raises(ValueError, match="server-sent event"):
        sse.encode(b"{}", id=bad)
    with pytest.raises(ValueError, match="server-sent event"):
        sse.comment(bad)
