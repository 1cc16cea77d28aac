"""The base class of providers (chatcore/openai/provider.py), against a fake server on a real port."""

import asyncio
import gzip
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from chatcore.answer import Answer
from chatcore.errors import ConfigError, ProviderError, ProviderRefused, ProviderUnavailable, StreamBroken
from chatcore.http import make_client
from chatcore.openai import OpenAIProvider, Timeouts, supports_tools
from chatcore.protocols import Provider
from chatcore.secrets import Secret
from chatcore.testing.upstream import FakeUpstream, Reply
from chatcore.tools import Tool, ToolCall
from chatcore.types import Finish, Message, Model, ModelEvent, ModelRequest, TextDelta

FIXTURES = Path(__file__).parents[1] / "fixtures" / "openrouter"
ALL_FIXTURES = sorted(FIXTURES.glob("*.sse"))
PLAIN = FIXTURES / "a_plain.sse"
HELLO = (
    b'data: {"id":"gen-1","choices":[{"delta":{"content":"Hel"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"lo"}}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
ERROR_429 = {"error": {"code": 429, "message": "Rate limited", "metadata": {"error_type": "rate_limit_exceeded"}}}
USER = Message(role="user", content="Hi")
ASK = ModelRequest(model="fake/small", messages=(USER,))


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        upstream.answer(Reply.sse(HELLO))
        yield upstream


@pytest_asyncio.fixture
async def provider(upstream: FakeUpstream) -> AsyncIterator[OpenAIProvider]:
    async with OpenAIProvider(name="fake", base_url=upstream.url).session() as provider:
        yield provider


async def ask(provider: Provider, request: ModelRequest = ASK) -> list[Sequence[ModelEvent]]:
    return [events async for events in provider.stream(request)]


async def broken(provider: Provider, request: ModelRequest = ASK) -> tuple[Answer, ProviderError]:
    """What came of an answer, and the error with which it ended."""
    answer = Answer()
    try:
        async for events in provider.stream(request):
            answer.add(events)
    except ProviderError as error:
        return answer, error
    pytest.fail(f"no error: {answer.message()}")


def answer_of(lists: list[Sequence[ModelEvent]]) -> Answer:
    answer = Answer()
    for events in lists:
        answer.add(events)
    return answer


def text_of(lists: list[Sequence[ModelEvent]]) -> str:
    return answer_of(lists).message().text


# --- recorded streams ---


@pytest.mark.parametrize("chunks", [None, 1, 7, [100], [2540]], ids=str)
@pytest.mark.parametrize("fixture", ALL_FIXTURES, ids=lambda path: path.stem)
async def test_recorded_streams(
    upstream: FakeUpstream, provider: OpenAIProvider, fixture: Path, chunks: int | None
) -> None:
    """Over a real connection, however the server cuts them, they mean what they meant when they were recorded."""
    upstream.answer(Reply.sse(fixture, chunks=chunks))
    events: list[ModelEvent] = []
    failure = ""
    try:
        async for found in provider.stream(ASK):
            assert found, "a list without events"
            events.extend(found)
    except StreamBroken as error:
        failure = error.message
    answer = answer_of([events])
    message = answer.message()

    finishes = [index for index, event in enumerate(events) if isinstance(event, Finish)]
    assert finishes == ([] if failure else [len(events) - 1])
    assert (message.text, answer.finish_reason, failure) == {
        "a_plain": ("Hello! Café ☕ and 日本 — ready.", "stop", ""),
        "b_reasoning": ("**9.9** is bigger than 9.11.", "stop", ""),
        "c_parallel_tools": ("Checking both.", "tool_calls", ""),
        "d_midstream_error": ("The first step is to", None, "fake: Provider disconnected unexpectedly"),
        "d2_midstream_error_empty_choices": ("Let me", None, "fake: Server tool request failed"),
        "e_annotations_image": ("Per example.org, done.", "stop", ""),
    }[fixture.stem]
    assert len(message.annotations) == len(message.images) == (fixture.stem == "e_annotations_image")
    if fixture.stem == "b_reasoning":
        assert message.reasoning == "9.9 is 9.90, and 9.90 > 9.11."
        assert message.reasoning_details == (
            {
                "type": "reasoning.text",
                "text": "9.9 is 9.90, and 9.90 > 9.11.",
                "format": "anthropic-claude-v1",
                "index": 0,
                "signature": "EqQBCkgIARABGAIiQL9v-FIXTURE-SIGNATURE==",
            },
        )
    if fixture.stem == "c_parallel_tools":
        assert message.tool_calls == (
            ToolCall("call_Kq1", "get_weather", '{"city": "Zürich", "unit": "\\u00b0C"}'),
            ToolCall("call_Kq2", "list_calendars", "{}"),
            ToolCall("call_Kq3", "get_weather", '{"city": "Oslo"}'),
        )


async def test_a_list_for_each_read(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """What one read held is one list, and it is there before anything else comes."""
    gate = asyncio.Event()
    cut = HELLO.index(b"data: ", 10)
    upstream.answer(Reply.sse(HELLO, chunks=[cut], gates={1: gate}))
    async with aclosing(provider.stream(ASK)) as answer:
        [first] = await anext(answer)
        assert first == TextDelta("Hel", b'{"id":"gen-1","choices":[{"delta":{"content":"Hel"}}]}')
        gate.set()
        rest = [events async for events in answer]
    assert [len(events) for events in rest] == [2, 1]


# --- the request ---


async def test_what_is_sent(upstream: FakeUpstream) -> None:
    """Parameters as they are, tools after those of the parameters, nothing that only chatcore knows."""

    async def look(city: str) -> str:
        """Looks."""
        return city

    request = ModelRequest(
        model="fake/author/small:free",
        messages=(Message(role="system", content="Be brief."), USER),
        tools=(Tool.of(look),),
        parameters={"temperature": 0.5, "tools": [{"type": "web_search"}], "stop": None, "x_unknown": {"a": [1]}},
        conversation_id="c1",
    )
    provider = OpenAIProvider(
        name="fake", base_url=upstream.url, api_key=Secret("sk-1"), extra_headers={"X-Title": "Kiosk"}
    )
    async with provider.session():
        await ask(provider, request)
    sent = upstream.requests[0]
    assert (sent.method, sent.path) == ("POST", "/api/v1/chat/completions")
    assert sent.json == {
        "model": "author/small:free",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "tools": [
            {"type": "web_search"},
            {
                "type": "function",
                "function": {"name": "look", "description": "Looks.", "parameters": dict(request.tools[0].parameters)},
            },
        ],
        "temperature": 0.5,
        "stop": None,
        "x_unknown": {"a": [1]},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = sent.headers
    assert headers["authorization"] == "Bearer sk-1"
    assert (headers["accept"], headers["accept-encoding"]) == ("text/event-stream", "identity")
    assert (headers["content-type"], headers["x-title"]) == ("application/json", "Kiosk")


async def test_without_a_key_none_is_sent(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """Local servers need none."""
    await ask(provider)
    assert "authorization" not in upstream.requests[0].headers
    assert "tools" not in upstream.requests[0].json


@pytest.mark.parametrize(
    ("options", "model", "sent"),
    [
        ({}, "fake/a", "a"),
        ({}, "fake/fake/a", "fake/a"),
        ({}, "a", "a"),
        ({}, "fake", None),
        ({"default_model": "a"}, "fake", "a"),
        ({"default_model": "fake/a"}, "fake", "a"),
        ({"default_model": "a"}, "fake/b", "b"),
        ({"open": True}, "fake/a", "fake/a"),
        ({"open": True}, "author/a", "author/a"),
        ({"open": True, "default_model": "fake/auto"}, "fake", "fake/auto"),
    ],
)
async def test_model_ids(upstream: FakeUpstream, options: dict[str, Any], model: str, sent: str | None) -> None:
    """`NAME/x` is the server's `x`; an open provider keeps ids as they are; `NAME` is its default model."""
    provider = OpenAIProvider(name="fake", base_url=upstream.url, **options)
    async with provider.session():
        await ask(provider, ModelRequest(model=model, messages=(USER,)))
    assert upstream.requests[0].json.get("model") == sent


def test_the_default_model_is_a_public_id() -> None:
    """However it was written."""
    base: dict[str, Any] = {"name": "fake", "base_url": "http://127.0.0.1/v1"}
    assert OpenAIProvider(**base).default_model is None
    assert OpenAIProvider(**base, default_model="a").default_model == "fake/a"
    assert OpenAIProvider(**base, default_model="fake/a").default_model == "fake/a"
    assert OpenAIProvider(**base, default_model="a/b", open=True).default_model == "a/b"


async def test_a_large_request(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """Pictures in a message make it some megabytes: they arrive, also at the second try."""
    upstream.answer(Reply.json({}, status=503, headers={"retry-after": "0"}), Reply.sse(HELLO))
    url = "data:image/png;base64," + "A" * 3_000_000
    message = Message(role="user", content=({"type": "image_url", "image_url": {"url": url}},))
    assert text_of(await ask(provider, ModelRequest(model="fake/a", messages=(message,)))) == "Hello"
    assert [request.json["messages"][0]["content"][0]["image_url"]["url"] for request in upstream.requests] == [url] * 2


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000/v1",
        "ftp://h/v1",
        "http://",
        "http://u:p@h/v1",
        "http://h:x/v1",
        "http://[h/v1",
        "http://a b/v1",
        "http://h/v1?api-version=1",
        "http://h/v1 ",
    ],
)
def test_base_urls_are_checked(url: str) -> None:
    """At once, not with the first request."""
    with pytest.raises(ConfigError, match="the base URL of fake"):
        OpenAIProvider(name="fake", base_url=url)


@pytest.mark.parametrize("key", ["sk-1\n", "sk-1\r\nx: y", "sk-é", "sk\0"])
def test_keys_are_checked(key: str) -> None:
    """One that was copied with something else is told at once, without showing it."""
    with pytest.raises(ConfigError, match="the header authorization of fake cannot be sent") as caught:
        OpenAIProvider(name="fake", base_url="http://127.0.0.1/v1", api_key=Secret(key))
    assert "sk" not in str(caught.value)


async def test_a_slash_at_the_end_of_the_base_url_changes_nothing(upstream: FakeUpstream) -> None:
    """People write both."""
    async with OpenAIProvider(name="fake", base_url=upstream.url + "/").session() as provider:
        assert text_of(await ask(provider)) == "Hello"


# --- how an answer ends ---


async def test_the_connection_is_used_again(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """The body is read to its end, so that the next request needs no new connection."""
    for _ in range(3):
        await ask(provider)
    assert (upstream.connections, len(upstream.requests)) == (1, 3)


async def test_a_body_that_does_not_end_is_left(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """After `[DONE]` the answer is complete; the server has one second to end its body."""
    upstream.answer(Reply.sse(HELLO, gates={1: asyncio.Event()}))
    start = time.monotonic()
    answer = answer_of(await ask(provider))
    assert 0.9 < time.monotonic() - start < 5
    assert (answer.message().text, answer.finish_reason) == ("Hello", "stop")
    await asyncio.wait_for(upstream.requests[0].closed, 10)


@pytest.mark.parametrize(
    ("body", "finish_reason"),
    [
        (HELLO[: HELLO.index(b"data: [DONE]")], "stop"),
        (HELLO[: HELLO.index(b'data: {"choices":[{"delta":{},')], None),
        (HELLO[: HELLO.index(b"\n\ndata: [DONE]")], None),
        (HELLO.rstrip(), "stop"),
        (HELLO.replace(b'"finish_reason":"stop"', b'"finish_reason":null'), "stop"),
    ],
)
async def test_the_end_of_the_body(
    upstream: FakeUpstream, provider: OpenAIProvider, body: bytes, finish_reason: str | None
) -> None:
    """Without `[DONE]` and without a finish reason an answer was cut off: it has no `Finish`."""
    upstream.answer(Reply.sse(body))
    answer = answer_of(await ask(provider))
    assert (answer.message().text, answer.finish_reason) == ("Hello", finish_reason)


@pytest.mark.parametrize("body", [b"", b": OPENROUTER PROCESSING\n\n", b"data: ", b"no event at all"])
async def test_an_empty_body(upstream: FakeUpstream, body: bytes) -> None:
    """Nothing was said, not even that it ended: it is an error, and another try may help."""
    upstream.answer(Reply.sse(body))
    async with OpenAIProvider(name="fake", base_url=upstream.url, retries=0).session() as provider:
        _, error = await broken(provider)
        assert isinstance(error, ProviderUnavailable)
        assert (error.message, error.kind) == ("fake ended its answer before it had begun", "cut_off")
        upstream.answer(Reply.sse(b"data: [DONE]\n\n"))
        assert answer_of(await ask(provider)).finish_reason == "stop"


async def test_where_an_answer_came_from(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """Headers about its way, the generation's id, the model (by its public id) and provider that really answered."""
    headers = {"X-Request-Id": "r1", "Via": "1.1 proxy", "X-Generation-Id": "gen-9", "openrouter-x": "y"}
    upstream.answer(Reply.sse(PLAIN, headers=headers))
    [*_, [finish]] = await ask(provider)
    assert finish == Finish(
        "stop",
        model="fake/openai/gpt-4o-mini",
        provider="OpenAI",
        generation_id="gen-9",
        routing={"x-request-id": "r1", "via": "1.1 proxy"},
        raw=b"",
    )


async def test_a_dropped_connection(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """What came is kept, the rest is an error, and nothing is asked twice."""
    upstream.answer(Reply.sse(HELLO, drop_after=HELLO.index(b'data: {"choices":[{"delta":{},')))
    answer, error = await broken(provider)
    assert isinstance(error, StreamBroken)
    assert (answer.message().text, answer.finish, error.kind) == ("Hello", None, "cut_off")
    assert error.message == "fake: the answer broke off: the connection was closed"
    assert len(upstream.requests) == 1


async def test_a_connection_that_drops_after_the_finish_reason(
    upstream: FakeUpstream, provider: OpenAIProvider
) -> None:
    """All that mattered had come."""
    upstream.answer(Reply.sse(HELLO, drop_after=HELLO.index(b"data: [DONE]")))
    answer = answer_of(await ask(provider))
    assert (answer.message().text, answer.finish_reason) == ("Hello", "stop")


async def test_silence_in_the_middle(upstream: FakeUpstream) -> None:
    """It ends after the idle time-out; comments before it were signs of life."""
    gates = {number: asyncio.Event() for number in range(1, 6)}
    body = HELLO[: HELLO.index(b"\n\n") + 2] + b":\n\n" * 4
    for number in range(1, 5):
        asyncio.get_running_loop().call_later(0.15 * number, gates[number].set)
    upstream.answer(Reply.sse(body, chunks=[len(body) - 12, 3, 3, 3, 3], gates=gates))
    start = time.monotonic()
    async with OpenAIProvider(name="fake", base_url=upstream.url, timeouts=Timeouts(idle=0.5)).session() as provider:
        answer, error = await broken(provider)
    assert isinstance(error, StreamBroken)
    assert (answer.message().text, error.kind) == ("Hel", "timeout")
    assert time.monotonic() - start > 1


# --- errors ---


@pytest.mark.parametrize(
    ("status", "kind", "tries"),
    [
        (400, ProviderRefused, 1),
        (401, ProviderRefused, 1),
        (402, ProviderRefused, 1),
        (403, ProviderRefused, 1),
        (404, ProviderRefused, 1),
        (413, ProviderRefused, 1),
        (422, ProviderRefused, 1),
        (408, ProviderUnavailable, 3),
        (429, ProviderUnavailable, 3),
        (500, ProviderUnavailable, 3),
        (502, ProviderUnavailable, 3),
        (503, ProviderUnavailable, 3),
        (524, ProviderUnavailable, 3),
        (529, ProviderUnavailable, 3),
    ],
)
async def test_statuses(
    upstream: FakeUpstream, provider: OpenAIProvider, status: int, kind: type[ProviderError], tries: int
) -> None:
    """A refusal is told at once; what may pass is tried three times."""
    said = {"error": {"code": status, "message": "No.", "metadata": {"error_type": "its_kind", "reasons": ["x"]}}}
    upstream.answer(Reply.json(said, status=status, headers={"retry-after": "0"}))
    answer, error = await broken(provider)
    assert type(error) is kind
    assert answer.empty
    assert (error.message, error.upstream_status, error.kind) == ("fake: No.", status, "its_kind")
    assert error.details == {"metadata": {"error_type": "its_kind", "reasons": ["x"]}}
    assert error.retry_after == 0
    assert len(upstream.requests) == tries


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply(status=403, body=b"<html><title>Attention!</title>", headers={"content-type": "text/html"}),
            "fake: HTTP 403: Attention!",
        ),
        (Reply.json({"error": "model 'x' not found"}, status=404), "fake: model 'x' not found"),
        (Reply(status=401), "fake: HTTP 401"),
        (
            Reply(status=307, headers={"location": "https://example.org/v1"}),
            "fake: HTTP 307: redirected to https://example.org/v1",
        ),
        (Reply(status=400, body=b"x" * 10_000_000), "fake: HTTP 400: " + "x" * 990 + "…"),
        (Reply.json({"error": "no"}, status=400, drop_after=5), "fake: HTTP 400"),
    ],
)
async def test_error_pages(upstream: FakeUpstream, provider: OpenAIProvider, reply: Reply, message: str) -> None:
    """An error need not be JSON, and need not end."""
    upstream.answer(reply)
    _, error = await broken(provider)
    assert isinstance(error, ProviderRefused)
    assert (error.message, error.upstream_status) == (message, reply.status)


async def test_an_error_as_a_success(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """Status 200 and a JSON error instead of a stream: it is what its code says."""
    upstream.answer(Reply.json({"error": {"code": 402, "message": "Insufficient credits"}}))
    _, error = await broken(provider)
    assert isinstance(error, ProviderRefused)
    assert (error.upstream_status, error.message) == (402, "fake: Insufficient credits")
    assert error.hint is not None


async def test_a_completion_in_one_piece(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """From a server that cannot stream: the events of an answer, without chunks."""
    message = {"role": "assistant", "content": "Hello"}
    upstream.answer(Reply.json({"id": "c1", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}))
    assert await ask(provider) == [
        [TextDelta("Hello", None)],
        [Finish("stop", model="fake/m", generation_id="c1", raw=b"")],
    ]


async def test_a_completion_with_an_error_in_it(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """The part that was generated is kept."""
    choice = {"message": {"content": "Hel"}, "finish_reason": "error", "error": {"code": 502, "message": "gone"}}
    upstream.answer(Reply.json({"choices": [choice]}))
    answer, error = await broken(provider)
    assert isinstance(error, StreamBroken)
    assert (answer.message().text, error.upstream_status) == ("Hel", 502)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body=b"<html>Open WebUI</html>", headers={"content-type": "text/html"}), "text/html"),
        (Reply.json({"object": "list", "data": []}), r'"data":\[\]'),
        (Reply.json({"code": 401, "msg": "bad key", "data": None}), "bad key"),
        (Reply.json({"detail": "Not authenticated"}), "application/json .*: Not authenticated"),
        (Reply.json([]), "application/json"),
        (Reply(), "a body of no type"),
    ],
)
async def test_something_else_answers(
    upstream: FakeUpstream, provider: OpenAIProvider, reply: Reply, said: str
) -> None:
    """A wrong base URL is told as such; what JSON says instead of an answer is passed on."""
    upstream.answer(reply)
    _, error = await broken(provider)
    assert re.search(said, error.message)
    assert isinstance(error, ProviderRefused)
    assert error.hint is not None
    assert provider.base_url in error.hint


@pytest.mark.parametrize("said", [b"{oops", b"null", b"<html>"])
async def test_an_event_that_cannot_be_read(upstream: FakeUpstream, provider: OpenAIProvider, said: bytes) -> None:
    """It is an error, not a gap; what came before it is kept."""
    upstream.answer(Reply.sse(HELLO[: HELLO.index(b"\n\n") + 2] + b"data: " + said + b"\n\n" + HELLO))
    answer, error = await broken(provider)
    assert isinstance(error, StreamBroken)
    assert (answer.message().text, error.kind) == ("Hel", "unreadable")


async def test_compression_that_nobody_asked_for(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """Some proxies compress whatever they are told."""
    upstream.answer(Reply.sse(gzip.compress(HELLO), headers={"content-encoding": "gzip"}, chunks=9))
    assert text_of(await ask(provider)) == "Hello"


async def test_keys_do_not_show(upstream: FakeUpstream) -> None:
    """Neither in errors nor in the provider's own text."""
    upstream.answer(Reply.json({"error": {"message": "No auth"}}, status=401))
    async with OpenAIProvider(
        name="fake", base_url=upstream.url, api_key=Secret("sk-very-secret")
    ).session() as provider:
        _, error = await broken(provider)
        assert "sk-very-secret" not in f"{error!r} {vars(error)} {provider!r} {vars(provider)}"


# --- trying again ---


@pytest.mark.parametrize(
    "failing",
    [
        Reply.json(ERROR_429, status=429, headers={"retry-after": "0"}),
        Reply.json(ERROR_429, status=429, headers={"retry-after-ms": "1"}),
        Reply.sse(b'data: {"error": {"code": 503, "message": "overloaded", "availability": {"retry_after": 0}}}\n\n'),
        Reply.json({"error": {"code": 503, "message": "no", "availability": {"retry_after": 0}}}),
        Reply(hang_up=True),
        Reply.sse(HELLO, drop_after=0),
        Reply.sse(b": OPENROUTER PROCESSING\n\n"),
        Reply.sse(b": OPENROUTER PROCESSING\n\n" + HELLO, drop_after=30),
    ],
)
async def test_failures_before_the_answer_are_tried_again(
    upstream: FakeUpstream, provider: OpenAIProvider, failing: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """Too busy, overloaded in the first event, hung up, dropped before the first event."""
    upstream.answer(failing, Reply.sse(HELLO))
    with caplog.at_level(logging.WARNING, "chatcore"):
        assert text_of(await ask(provider)) == "Hello"
    assert len(upstream.requests) == 2
    assert "trying again in" in caplog.text


async def test_nothing_is_tried_again_once_the_answer_has_begun(
    upstream: FakeUpstream, provider: OpenAIProvider
) -> None:
    """Not even if its first event was empty: the client has it."""
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    error = b'data: {"error": {"code": 503, "message": "overloaded"}}\n\n'
    for reply in (Reply.sse(role + error), Reply.sse(role + HELLO, drop_after=len(role))):
        upstream.requests.clear()
        upstream.answer(reply)
        _, broke = await broken(provider)
        assert isinstance(broke, StreamBroken)
        assert len(upstream.requests) == 1


async def test_who_wants_a_long_pause_is_not_waited_for(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """The caller is told how long instead."""
    upstream.answer(Reply.json(ERROR_429, status=429, headers={"retry-after": "3600"}))
    _, error = await asyncio.wait_for(broken(provider), 20)
    assert (error.retry_after, len(upstream.requests)) == (3600, 1)


async def test_a_server_that_says_nothing_is_asked_once(upstream: FakeUpstream) -> None:
    """Whoever has waited that long is not to wait as long again."""
    upstream.answer(Reply.silence())
    timeouts = Timeouts(first_byte=0.1)
    async with OpenAIProvider(name="fake", base_url=upstream.url, timeouts=timeouts).session() as provider:
        _, error = await broken(provider)
    assert isinstance(error, ProviderUnavailable)
    assert (error.kind, error.message, len(upstream.requests)) == ("timeout", "fake did not answer in time", 1)


async def test_retries_may_be_none(upstream: FakeUpstream) -> None:
    """Then the first failure counts."""
    upstream.answer(Reply.json({}, status=503))
    async with OpenAIProvider(name="fake", base_url=upstream.url, retries=0).session() as provider:
        await broken(provider)
    assert len(upstream.requests) == 1


async def test_nobody_there(unused_tcp_port: int) -> None:
    """The error says where a server was looked for."""
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    async with OpenAIProvider(name="fake", base_url=url, retries=1).session() as provider:
        _, error = await broken(provider)
    assert isinstance(error, ProviderUnavailable)
    assert error.message.startswith("fake cannot be reached: ")
    assert (error.kind, error.hint) == ("unreachable", f"Is the server at {url} running?")


async def test_an_address_that_is_none() -> None:
    """What only the client finds wrong is an error of the provider, too."""
    url = "http://-é.example/v1"
    async with OpenAIProvider(name="fake", base_url=url, retries=0).session() as provider:
        _, error = await broken(provider)
    assert isinstance(error, ProviderUnavailable)
    assert error.hint == f"Is the server at {url} running?"


# --- stopping ---


async def least(measured: Callable[[], Awaitable[float]]) -> float:
    """The first of three times that is less than 200 ms, or the shortest: others may keep the machine busy."""
    taken: list[float] = []
    while len(taken) < 3 and min(taken, default=1) >= 0.2:
        taken.append(await measured())
    return min(taken)


async def test_closing_the_stream_closes_the_connection(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """The server sees it within 200 ms, so that it stops generating."""
    upstream.answer(Reply.sse(HELLO, chunks=[70], gates={1: asyncio.Event()}))

    async def close() -> float:
        stream = provider.stream(ASK)
        await anext(stream)
        start = asyncio.get_running_loop().time()
        await stream.aclose()
        return await asyncio.wait_for(upstream.requests[-1].closed, 5) - start

    assert await least(close) < 0.2


@pytest.mark.parametrize("reply", [Reply.silence(), Reply.sse(HELLO, chunks=[70], gates={0: asyncio.Event()})])
async def test_cancelling_before_the_answer_closes_the_connection(
    upstream: FakeUpstream, provider: OpenAIProvider, reply: Reply
) -> None:
    """While the head or the first event is awaited, too."""
    upstream.answer(reply)

    async def cancel() -> float:
        asking = asyncio.create_task(ask(provider))
        request = await upstream.request(len(upstream.requests))
        asking.cancel()
        start = asyncio.get_running_loop().time()
        closed = await asyncio.wait_for(request.closed, 5)
        with pytest.raises(asyncio.CancelledError):
            await asking
        return closed - start

    assert await least(cancel) < 0.2


async def test_closing_the_provider_ends_what_still_runs(upstream: FakeUpstream) -> None:
    """An answer that is coming breaks off; one that had not begun is not tried again."""
    never = asyncio.Event()
    upstream.answer(Reply.sse(HELLO, chunks=[70], gates={1: never}), Reply.silence())
    provider = OpenAIProvider(name="fake", base_url=upstream.url)
    async with provider.session():
        stream = provider.stream(ASK)
        await anext(stream)
        reading = asyncio.ensure_future(anext(stream))
        waiting = asyncio.create_task(broken(provider))
        await upstream.request(1)
    with pytest.raises(StreamBroken):
        await asyncio.wait_for(reading, 10)
    _, error = await asyncio.wait_for(waiting, 10)
    assert isinstance(error, ProviderUnavailable)
    assert len(upstream.requests) == 2
    async with provider.session():
        upstream.answer(Reply.sse(HELLO))
        assert text_of(await ask(provider)) == "Hello"


async def test_closing_the_provider_while_its_models_are_awaited(upstream: FakeUpstream) -> None:
    """Everybody who waits for the list gets an error with what to do, and nobody is cancelled."""
    upstream.route("/models", Reply.silence())
    provider = OpenAIProvider(name="fake", base_url=upstream.url)
    async with provider.session():
        asking = [asyncio.create_task(provider.models()) for _ in range(3)]
        await upstream.request(0)
    for error in await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 10):
        assert isinstance(error, ProviderUnavailable)
        assert (error.kind, bool(error.hint)) == ("closed", True)


async def test_closing_the_provider_while_it_connects_for_the_first_time(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client that was being made is closed as well: its connections would be left open."""
    made: list[httpx.AsyncClient] = []
    making, closed = threading.Event(), threading.Event()

    def make(**options: Any) -> httpx.AsyncClient:
        making.set()
        closed.wait(10)
        made.append(make_client(**options))
        return made[0]

    monkeypatch.setattr("chatcore.openai.provider.make_client", make)
    provider = OpenAIProvider(name="fake", base_url=upstream.url)
    asking = asyncio.create_task(broken(provider))
    await asyncio.to_thread(making.wait, 10)
    await provider.aclose()
    closed.set()
    _, error = await asyncio.wait_for(asking, 10)
    assert (error.kind, bool(error.hint)) == ("closed", True)
    assert made[0].is_closed
    assert not upstream.requests


async def test_it_works_without_a_session(upstream: FakeUpstream) -> None:
    """The client is made when it is first needed, once, whoever needs it first."""
    provider = OpenAIProvider(name="fake", base_url=upstream.url)
    answers = await asyncio.gather(*(ask(provider) for _ in range(20)))
    assert {text_of(answer) for answer in answers} == {"Hello"}
    await provider.aclose()
    await provider.aclose()


# --- the catalogue ---


async def test_models(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """Public ids, and the entries as the server gives them; entries without an id are none."""
    info = {"id": "a/b", "name": "A B", "context_length": 100, "supported_parameters": ["tools"]}
    vllm = {"id": "c", "max_model_len": 200}
    upstream.route("/models", Reply.json({"object": "list", "data": [info, vllm, {"name": "x"}, "y", {"id": 5}]}))
    assert await provider.models() == (
        Model("fake/a/b", "A B", 100, True, info),
        Model("fake/c", "c", 200, None, vllm),
    )


async def test_models_are_kept(upstream: FakeUpstream, provider: OpenAIProvider) -> None:
    """Fifty who ask at once cost one request, and so do those who ask later."""
    lists = await asyncio.gather(*(provider.models() for _ in range(50)))
    assert all(models is lists[0] for models in lists)
    assert await provider.models() is lists[0]
    assert len(upstream.requests) == 1


async def test_models_outlive_their_server(upstream: FakeUpstream, caplog: pytest.LogCaptureFixture) -> None:
    """While it is down the last list is given, and the log says so."""
    async with OpenAIProvider(name="fake", base_url=upstream.url, catalogue_ttl=0).session() as provider:
        models = await provider.models()
        upstream.route("/models", Reply(status=500))
        with caplog.at_level(logging.WARNING, "chatcore"):
            assert await provider.models() == models
    assert "the list of models of fake cannot be refreshed" in caplog.text


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=500), ProviderUnavailable),
        (Reply.json({"data": []}, drop_after=5), ProviderUnavailable),
        (Reply.json({"error": {"message": "no"}}, status=401), ProviderRefused),
        (Reply(body=b"<html>"), ProviderRefused),
        (Reply.json({"models": []}), ProviderRefused),
        (Reply.json([]), ProviderRefused),
    ],
)
async def test_models_that_never_came(
    upstream: FakeUpstream, provider: OpenAIProvider, reply: Reply, kind: type[ProviderError]
) -> None:
    """It is an error; the next who asks tries again."""
    upstream.route("/models", reply, Reply.json({"data": [{"id": "a"}]}))
    with pytest.raises(kind):
        await provider.models()
    assert [model.id for model in await provider.models()] == ["fake/a"]


@pytest.mark.parametrize(
    ("info", "supported"),
    [
        ({}, None),
        ({"supported_parameters": ["temperature", "tools"]}, True),
        ({"supported_parameters": ["tool_choice"]}, True),
        ({"supported_parameters": ["temperature"]}, False),
        ({"supported_parameters": []}, False),
        ({"supported_parameters": None}, None),
        ({"capabilities": {"function_calling": True}}, True),
        ({"capabilities": {"tools": False}}, False),
        ({"capabilities": {"vision": True}}, None),
        ({"capabilities": ["completion", "tools"]}, True),
        ({"capabilities": ["completion"]}, False),
        ({"supports_functions": True}, True),
        ({"tools": False, "supported_parameters": ["temperature"]}, False),
        ({"tools": False, "supported_parameters": ["tools"]}, True),
    ],
)
def test_supports_tools(info: dict[str, Any], supported: bool | None) -> None:
    """One yes is enough; None where nothing is said about it."""
    assert supports_tools(info) is supported


# --- subclasses ---


async def test_a_subclass_changes_what_is_different(upstream: FakeUpstream) -> None:
    """Payload, headers, errors, models, and the headers that tell of an answer's way."""

    class Gateway(OpenAIProvider):
        routing_headers = ("gateway-",)

        def payload(self, request: ModelRequest) -> dict[str, Any]:
            return super().payload(request) | {"safe_prompt": True}

        def headers(self) -> dict[str, str]:
            return super().headers() | {"x-tenant": "t"}

        def parse_error(self, status: int, headers: Any, body: bytes) -> ProviderError:
            return ProviderRefused(f"{status} {headers['X-Why']} {body.decode()}")

        def model_from(self, info: Any) -> Model:
            return Model(info["id"], "mine")

    upstream.answer(
        Reply.sse(HELLO, headers={"Gateway-Node": "n1"}), Reply(status=418, body=b"b", headers={"x-why": "w"})
    )
    async with Gateway(name="gw", base_url=upstream.url).session() as provider:
        [*_, [finish]] = await ask(provider)
        assert isinstance(finish, Finish)
        assert finish.routing == {"gateway-node": "n1"}
        assert upstream.requests[0].json["safe_prompt"] is True
        assert upstream.requests[0].headers["x-tenant"] == "t"
        assert await provider.models() == (Model("fake/model", "mine"),)
        _, error = await broken(provider)
        assert error.message == "418 w b"
        assert (await provider.get("key", {"q": "a b"}))["data"]["label"] == "fake"
        assert upstream.requests[-1].path == "/api/v1/key?q=a+b"


def test_it_is_a_provider() -> None:
    """By the protocol that the registry checks."""
    assert isinstance(OpenAIProvider(name="fake", base_url="http://127.0.0.1/v1"), Provider)
