"""Whole conversations over servers that each have their own way with the OpenAI format."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Any

import attrs
import pytest
import pytest_asyncio

from chatcore.answer import Answer
from chatcore.errors import ProviderError, ProviderRefused, ProviderUnavailable, StreamBroken
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openai import OpenAIProvider
from chatcore.openai.payload import message_json
from chatcore.testing.chat import Chat
from chatcore.testing.upstream import FakeUpstream, Reply
from chatcore.tools import Tool, ToolCall
from chatcore.types import Message, ModelEvent, ModelRequest

MakeServer = Callable[..., Awaitable[tuple[Chat, FakeUpstream]]]


async def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}"


class Weather(Plugin[NoSettings]):
    """One tool."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [Tool.of(weather)]


@pytest_asyncio.fixture
async def server(make_chat: Callable[..., Awaitable[Chat]]) -> AsyncIterator[MakeServer]:
    """A chat with a provider of some name, whose server gives these bodies one after the other."""
    async with AsyncExitStack() as stack:

        async def make(
            name: str, *bodies: bytes, plugins: Sequence[type[Plugin[Any]]] = ()
        ) -> tuple[Chat, FakeUpstream]:
            upstream = await stack.enter_async_context(FakeUpstream())
            upstream.answer(*map(Reply.sse, bodies))
            provider = await stack.enter_async_context(OpenAIProvider(name=name, base_url=upstream.url).session())
            config = {"default_model": f"{name}/m"}
            return await make_chat(Weather, *plugins, provider=provider, config=config), upstream

        yield make


def sent(upstream: FakeUpstream) -> list[list[dict[str, Any]]]:
    """The messages of each call, without the system's and the model's."""
    calls = [request.json for request in upstream.requests if request.path.endswith("/chat/completions")]
    return [call["messages"][1:] for call in calls]


def lines(*deltas: dict[str, Any], finish: str = "stop", **fields: Any) -> bytes:
    """A stream of deltas, as most servers send it."""
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": finish})
    chunks = [{"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [c], **fields} for c in choices]
    return b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"


BEGUN = b'data: {"id":"gen-1","choices":[{"delta":{"content":"Hel"}}]}\n\n'
HELLO = BEGUN + (b'data: {"choices":[{"delta":{"content":"lo"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n')
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
ASK = ModelRequest(model="fake/m", messages=(Message(role="user", content="Hi"),))


DRAWN = attrs.evolve(ASK, messages=(Message(role="assistant", content="See.", images=(IMAGE,)), *ASK.messages))


def answer_of(*lists: Sequence[ModelEvent]) -> Answer:
    answer = Answer()
    for events in lists:
        answer.add(events)
    return answer


async def said(provider: OpenAIProvider, **parameters: Any) -> str:
    """The text of an answer."""
    request = attrs.evolve(ASK, parameters=parameters)
    return answer_of(*[events async for events in provider.stream(request)]).message().text


# --- reasoning, and giving it back ------------------------------------------------------------------------------------

DEEPSEEK_CALL = (
    b'data: {"id":"7","object":"chat.completion.chunk","created":1795000000,"model":"m","system_fingerprint":"fp_1",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":null,"reasoning_content":""},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"7","choices":[{"index":0,"delta":{"content":null,"reasoning_content":"Look it"},'
    b'"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"7","choices":[{"index":0,"delta":{"content":null,"reasoning_content":" up."},'
    b'"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"7","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_00_x","type":"function",'
    b'"function":{"name":"weather","arguments":""}}]},"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"7","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":'
    b'"{\\"city\\": \\"Oslo\\"}"}}]},"finish_reason":null}],"usage":null}\n\n'
    b'data: {"id":"7","choices":[{"index":0,"delta":{"content":"","reasoning_content":null},"logprobs":null,'
    b'"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}\n\n'
    b"data: [DONE]\n\n"
)


async def test_deepseek_gets_its_reasoning_back(server: MakeServer) -> None:
    """Under the name that it gave it, beside the calls, and in every later request: it refuses any without."""
    answer = lines({"role": "assistant", "reasoning_content": ""}, {"content": "It rains."})
    chat, upstream = await server("deepseek", DEEPSEEK_CALL, answer)
    reply = await chat.say("Oslo?")
    assert (reply.text, reply.results) == ("It rains.", ["Rain in Oslo"])
    assert [part["text"] for frame in reply.named("metadata") for part in frame.data["reasoning"] or ()] == [
        "Look it up."
    ]
    _, asking, _ = sent(upstream)[1]
    assert (asking["reasoning_content"], asking["content"]) == ("Look it up.", None)
    assert "reasoning" not in asking

    await chat.say("And now?", session_id=reply.session_id)
    _, asking, _, said, _ = sent(upstream)[2]
    assert (asking["reasoning_content"], said["content"], said["reasoning_content"]) == ("Look it up.", "It rains.", "")


async def test_mistral_gets_its_thoughts_back(server: MakeServer) -> None:
    """They are parts of the content, and no files; that is also where it wants them."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Look it up."}]}
    called = {"id": "a1b2c3d4e", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}, "index": 0}
    asking = lines({"role": "assistant", "content": ""}, {"content": [thought]}, {"tool_calls": [called]})
    answer = lines({"content": [thought]}, {"content": [{"type": "text", "text": "It "}]}, {"content": "rains."})
    chat, upstream = await server("mistral", asking, answer)
    reply = await chat.say("Oslo?")
    await chat.say("And now?", session_id=reply.session_id)
    assert [frame.data["reasoning"][0]["text"] for frame in reply.named("metadata")] == ["Look it up."] * 2
    _, first, _, second, _ = sent(upstream)[2]
    assert first["content"] == [thought]
    assert second == {"role": "assistant", "content": [thought, {"type": "text", "text": "It rains."}]}


async def test_reasoning_is_not_given_to_another_server(server: MakeServer) -> None:
    """Some refuse every field that they do not know, and the conversation with it."""
    async with FakeUpstream() as other:
        other.answer(Reply.sse(lines({"content": "No."})))
        groq = OpenAIProvider(name="groq", base_url=other.url)

        class Groq(Plugin[NoSettings]):
            """Another server."""

            @hookimpl
            def register_providers(self) -> list[OpenAIProvider]:
                return [groq]

        chat, _ = await server(
            "deepseek", DEEPSEEK_CALL, lines({"reasoning_content": "Hm."}, {"content": "Rain."}), plugins=(Groq,)
        )
        reply = await chat.say("Oslo?")
        await chat.say("Sure?", session_id=reply.session_id, model="groq/m")
        await groq.aclose()
    assert [sorted(message) for message in sent(other)[0]] == [
        ["content", "role"],
        ["content", "role", "tool_calls"],
        ["content", "role", "tool_call_id"],
        ["content", "role"],
        ["content", "role"],
    ]


async def test_gemini_gets_its_signatures_back(server: MakeServer) -> None:
    """They come with a call, or after it, without an index, and it ends with "stop". Others are not given them."""
    signed = {"extra_content": {"google": {"thought_signature": "c2ln"}}}
    called = {"type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    again = {**called, "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    asking = lines({"tool_calls": [{**signed, **called, "id": "a"}]}, {"tool_calls": [{**again, "id": "b"}]})
    late = lines({"tool_calls": [{**called, "id": "c"}]}, {"tool_calls": [{**signed, "id": "c"}]})
    chat, upstream = await server("gemini", asking, late, lines({"content": "Rain."}))
    reply = await chat.say("Oslo?")
    assert (reply.text, reply.results) == ("Rain.", ["Rain in Oslo", "Rain in Rome", "Rain in Oslo"])
    await chat.say("And now?", session_id=reply.session_id)
    for messages in (sent(upstream)[2], sent(upstream)[3]):
        calls = [call for message in messages for call in message.get("tool_calls", ())]
        assert calls == [{**signed, **called, "id": "a"}, {**again, "id": "b"}, {**signed, **called, "id": "c"}]
    call = ToolCall("a", "weather", "{}", 'gemini/{"google":{}}')
    assert "extra_content" not in message_json(Message(role="assistant", tool_calls=(call,)), "groq")["tool_calls"][0]


# --- what one of them does not take, or does not say ------------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        Reply.json(
            {
                "object": "error",
                "message": {
                    "detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options", "include_usage"]}]
                },
                "type": "invalid_request_error",
                "code": None,
            },
            status=422,
        ),
        Reply.json({"error": {"message": "Unrecognized request argument supplied: stream_options"}}, status=400),
    ],
    ids=["mistral", "azure"],
)
async def test_a_server_that_does_not_take_stream_options(refusal: Reply) -> None:
    """It is asked again without, at once, and from then on never with it; also where two calls were refused together.
    What a request has itself asked for is the request's fault."""
    async with FakeUpstream() as upstream:
        upstream.answer(lambda request: refusal if "stream_options" in request.json else Reply.sse(HELLO))
        async with OpenAIProvider(name="fake", base_url=upstream.url, retries=0).session() as provider:
            assert await asyncio.gather(*(said(provider) for _ in range(3))) == ["Hello"] * 3
            assert await said(provider) == "Hello"
            assert len(upstream.requests) == 7
            with pytest.raises(ProviderRefused, match="stream_options"):
                await said(provider, stream_options={"include_usage": False})


GROQ = "for 'role:assistant' the following must be satisfied[('messages.1' : property 'images' is unsupported)]"
MISTRAL = [{"type": "extra_forbidden", "loc": ["body", "messages", 1, "assistant", "images"], "msg": "Extra inputs"}]


@pytest.mark.parametrize(
    "refusal",
    [Reply.json({"error": {"message": GROQ}}, status=400), Reply.json({"detail": MISTRAL}, status=422)],
    ids=["groq", "mistral"],
)
async def test_a_server_that_does_not_take_images_of_answers(refusal: Reply) -> None:
    """The conversation goes on without them: those of a tool would otherwise end it."""
    async with FakeUpstream() as upstream:
        upstream.answer(lambda request: refusal if b'"images"' in request.body else Reply.sse(HELLO))
        async with OpenAIProvider(name="fake", base_url=upstream.url, retries=0).session() as provider:
            assert answer_of(*[events async for events in provider.stream(DRAWN)]).message().text == "Hello"
    assert [message["content"] for message in upstream.requests[1].json["messages"]] == ["See.", "Hi"]


@pytest.mark.parametrize(
    ("message", "tries"),
    [
        ("images are unsupported by this model", 1),
        ("The `reasoning_content` in the thinking mode must be passed back to the API.", 1),
        ("unknown field 'images'", 7),
    ],
)
async def test_what_is_refused_for_another_reason_stays(message: str, tries: int) -> None:
    """A word is no field. What a plugin insists on is not sent for ever."""

    class Insistent(OpenAIProvider):
        def payload(self, request: ModelRequest) -> dict[str, Any]:
            return {**super().payload(request), "images": []}

    async with FakeUpstream() as upstream:
        upstream.answer(Reply.json({"error": {"message": message}}, status=400))
        async with Insistent(name="fake", base_url=upstream.url).session() as provider:
            with pytest.raises(ProviderRefused):
                answer_of(*[events async for events in provider.stream(DRAWN)])
            assert ("images" in message_json(DRAWN.messages[0], "fake", provider._refused)) == (tries == 1)
    assert len(upstream.requests) == tries


@pytest.mark.parametrize("kind", [None, "text/plain", "application/json"])
@pytest.mark.parametrize("begin", [b"", b": hello\n\n", b"\n\nevent: message\n"])
async def test_a_stream_that_is_not_called_one(kind: str | None, begin: bytes) -> None:
    """It is known by how it begins, and read as it comes; a piece that is no chunk breaks it off."""
    gate = asyncio.Event()
    headers = {} if kind is None else {"content-type": kind}
    async with FakeUpstream() as upstream:
        body = begin + HELLO
        upstream.answer(Reply(body=body, headers=headers, chunks=[len(begin + BEGUN)], gates={1: gate}))
        async with OpenAIProvider(name="fake", base_url=upstream.url).session() as provider:
            async with aclosing(provider.stream(ASK)) as answer:
                [first] = await anext(answer)
                gate.set()
                assert answer_of([first], *[events async for events in answer]).message().text == "Hello"
            upstream.answer(Reply(body=BEGUN + b"data: <html>\n\n", headers=headers))
            with pytest.raises(StreamBroken, match="not a chat chunk"):
                await said(provider)


@pytest.mark.parametrize(
    ("data", "kind", "message", "status"),
    [
        (
            b'data: {"object":"error","message":"too long","type":"BadRequestError","code":400}',
            ProviderRefused,
            "too long",
            400,
        ),
        (
            b'data: [{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}]',
            ProviderUnavailable,
            "overloaded",
            503,
        ),
        (b'data: {"code":"429","message":"slow down","request_id":"x"}', ProviderUnavailable, "slow down", 429),
        (b'data: {"detail":"no such model"}', StreamBroken, "no such model", None),
        (b'error: {"code":400,"message":"too long","type":"invalid_request_error"}', ProviderRefused, "too long", 400),
        (b'event: error\ndata: {"error":{"message":"crashed"}}', StreamBroken, "crashed", None),
    ],
    ids=["vllm", "gemini", "dashscope", "fastapi", "llama.cpp", "lmstudio"],
)
async def test_errors_in_a_stream(data: bytes, kind: type[ProviderError], message: str, status: int | None) -> None:
    """However they are told, before the answer or within it, and although `[DONE]` follows."""
    async with FakeUpstream() as upstream:
        upstream.answer(Reply.sse(data + b"\n\ndata: [DONE]\n\n"), Reply.sse(BEGUN + data + b"\n\ndata: [DONE]\n\n"))
        async with OpenAIProvider(name="fake", base_url=upstream.url, retries=0).session() as provider:
            for expected in (kind, StreamBroken):
                with pytest.raises(expected) as raised:
                    await said(provider)
                assert (raised.value.message, raised.value.upstream_status) == (f"fake: {message}", status)


async def test_an_error_that_is_called_a_stream() -> None:
    """It is told, and not tried again as an answer that broke off would be."""
    async with FakeUpstream() as upstream:
        upstream.answer(Reply.sse(b'{"error":{"message":"wrong key",\n\n"code":401}}', chunks=[20]))
        async with OpenAIProvider(name="fake", base_url=upstream.url).session() as provider:
            with pytest.raises(ProviderRefused, match="wrong key") as raised:
                await said(provider)
    assert (raised.value.upstream_status, len(upstream.requests)) == (401, 1)


async def test_chunks_in_events_with_a_name() -> None:
    """What is a chunk is one, whatever its event is called; other events are not for us."""
    async with FakeUpstream() as upstream:
        body = HELLO.replace(b"data: {", b"event: chat.completion.chunk\ndata: {")
        upstream.answer(Reply.sse(b'event: ping\ndata: {"type":"ping"}\n\n' + body))
        async with OpenAIProvider(name="fake", base_url=upstream.url).session() as provider:
            assert await said(provider) == "Hello"


async def test_arguments_after_a_placeholder(server: MakeServer) -> None:
    """Some gateways begin them with an empty object."""
    begun = {"index": 0, "id": "a", "function": {"name": "weather", "arguments": "{}"}}
    asking = lines(
        {"tool_calls": [begun]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '"Oslo"}'}}]},
        finish="tool_calls",
    )
    chat, upstream = await server("gateway", asking, lines({"content": "Rain."}))
    assert (await chat.say("Oslo?")).results == ["Rain in Oslo"]
    assert sent(upstream)[1][1]["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo"}'


async def test_references_are_no_images(server: MakeServer) -> None:
    """Mistral puts them between the text, as parts of the content."""
    reference = {"type": "reference", "reference_ids": [1]}
    chat, upstream = await server("mistral", lines({"content": [{"type": "text", "text": "Rain."}, reference]}))
    reply = await chat.say("Oslo?")
    await chat.say("Sure?", session_id=reply.session_id)
    assert sent(upstream)[1][1] == {"role": "assistant", "content": "Rain."}
