"""What OpenRouter has beside the OpenAI chat format, against a fake of it on a real port."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from chatcore_openrouter.provider import OpenRouterProvider, make_provider
from chatcore_openrouter.settings import Settings

from chatcore.errors import ConfigError, PluginOff, ProviderError, ProviderRefused, ProviderUnavailable
from chatcore.protocols import GenerationLookup, Provider
from chatcore.secrets import Secret
from chatcore.testing.upstream import FakeUpstream, Reply
from chatcore.types import Finish, Message, ModelEvent, ModelRequest, TextDelta

HELLO = (
    b": OPENROUTER PROCESSING\n\n"
    b'data: {"id":"gen-1","model":"openai/gpt-4o-mini","provider":"OpenAI",'
    b'"choices":[{"delta":{"content":"Hello"}}]}\n\n'
    b'data: {"id":"gen-1","choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
Make = Callable[..., OpenRouterProvider]


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        upstream.answer(
            Reply.sse(HELLO, headers={"X-Generation-Id": "gen-1", "OpenRouter-Region": "eu", "Via": "1.1 x"})
        )
        yield upstream


@pytest_asyncio.fixture
async def make(upstream: FakeUpstream) -> AsyncIterator[Make]:
    """Makes providers from settings; they are closed after the test."""
    made = []

    def make(**settings: Any) -> OpenRouterProvider:
        made.append(make_provider(Settings(**{"api_key": Secret("sk-or-v1-x"), "base_url": upstream.url, **settings})))
        return made[-1]

    yield make
    for provider in made:
        await provider.aclose()


async def ask(provider: Provider, model: str = "openai/gpt-4o-mini", **fields: Any) -> list[ModelEvent]:
    request = ModelRequest(model=model, messages=(Message(role="user", content="Hi"),), **fields)
    return [event async for events in provider.stream(request) for event in events]


def test_without_a_key_it_is_off() -> None:
    """Its state is the remedy."""
    with pytest.raises(PluginOff, match=r"^set OPENROUTER_API_KEY$"):
        make_provider(Settings())


def test_what_it_is(make: Make) -> None:
    """A provider for every id that nobody claims, which can look up what a generation cost."""
    provider = make()
    assert isinstance(provider, Provider)
    assert isinstance(provider, GenerationLookup)
    assert (provider.name, provider.open, provider.default_model) == ("openrouter", True, "openrouter/auto")
    assert (provider.timeouts.connect, provider.timeouts.first_byte, provider.timeouts.idle) == (10, 120, 120)
    assert make(timeout=7).timeouts.idle == 7
    assert make(default_model="openai/gpt-5.2").default_model == "openai/gpt-5.2"


def test_a_key_that_cannot_be_sent(make: Make) -> None:
    """It is told when the plugin is loaded."""
    with pytest.raises(ConfigError, match="authorization"):
        make(api_key=Secret("sk-or-v1-x\n"))


async def test_an_answer(upstream: FakeUpstream, make: Make) -> None:
    """Text, and where it came from."""
    text, ended, finish = await ask(make())
    assert isinstance(text, TextDelta)
    assert isinstance(ended, TextDelta)
    assert (text.text, ended.text) == ("Hello", "")
    assert finish == Finish(
        "stop",
        model="openai/gpt-4o-mini",
        provider="OpenAI",
        generation_id="gen-1",
        routing={"openrouter-region": "eu", "via": "1.1 x"},
        raw=b"",
    )


async def test_the_request(upstream: FakeUpstream, make: Make) -> None:
    """Ids as they are, usage asked for, the conversation kept at one server; the request's own fields count more."""
    await ask(make(), "openrouter/auto", conversation_id="c" * 300, parameters={"provider": {"sort": "price"}})
    sent = upstream.requests[0]
    assert sent.headers["authorization"] == "Bearer sk-or-v1-x"
    assert sent.json == {
        "model": "openrouter/auto",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "usage": {"include": True},
        "session_id": "c" * 256,
        "provider": {"sort": "price"},
    }
    await ask(make(), conversation_id="c", parameters={"usage": {"include": False}, "session_id": "mine"})
    assert (upstream.requests[1].json["usage"], upstream.requests[1].json["session_id"]) == ({"include": False}, "mine")


async def test_the_name_of_the_provider_is_its_default_model(upstream: FakeUpstream, make: Make) -> None:
    """So that a client can choose OpenRouter without a model."""
    await ask(make(default_model="openai/gpt-5.2"), "openrouter")
    assert upstream.requests[0].json["model"] == "openai/gpt-5.2"


async def test_attribution(upstream: FakeUpstream, make: Make) -> None:
    """Both spellings of both headers; what a header cannot hold is left out of them."""
    await ask(make(app_url="https://chat.example/", app_title="Café\n☕ Kiosk"))
    await ask(make())
    named, unnamed = (request.headers for request in upstream.requests)
    assert named["http-referer"] == named["referer"] == "https://chat.example/"
    assert named["x-openrouter-title"] == named["x-title"] == "Cafe Kiosk"
    assert not {"http-referer", "referer", "x-openrouter-title", "x-title"} & set(unnamed)


async def test_models(upstream: FakeUpstream, make: Make) -> None:
    """Ids as they are; an entry that says nothing about tools has none."""
    entries = [
        {"id": "a/tools", "name": "T", "context_length": 10, "supported_parameters": ["tools"]},
        {"id": "a/none", "supported_parameters": ["seed"]},
        {"id": "a/silent"},
    ]
    upstream.route("/models", Reply.json({"data": entries}))
    models = await make().models()
    assert [(model.id, model.supports_tools) for model in models] == [
        ("a/tools", True),
        ("a/none", False),
        ("a/silent", False),
    ]
    assert [model.info for model in models] == entries


async def test_a_generation(upstream: FakeUpstream, make: Make) -> None:
    """Its record as OpenRouter gives it, also if it is not there at once."""
    record = {"data": {"id": "gen-1", "total_cost": 0.1}}
    missing = Reply.json({"error": {"code": 404, "message": "Generation gen-1 not found"}}, status=404)
    upstream.route("/generation", missing, Reply.json(record))
    assert await make().generation("gen-1 &x") == record
    assert [request.path for request in upstream.requests] == ["/api/v1/generation?id=gen-1+%26x"] * 2


@pytest.mark.parametrize(
    ("status", "kind", "tries"), [(404, ProviderRefused, 4), (401, ProviderRefused, 1), (500, ProviderUnavailable, 1)]
)
async def test_no_generation(
    upstream: FakeUpstream, make: Make, status: int, kind: type[ProviderError], tries: int
) -> None:
    """Only a record that is not there is asked for again, and not for long."""
    upstream.route("/generation", Reply.json({"error": {"code": status, "message": "no"}}, status=status))
    with pytest.raises(kind) as caught:
        await make().generation("gen-1")
    assert caught.value.upstream_status == status
    assert len(upstream.requests) == tries


async def test_endpoints(upstream: FakeUpstream, make: Make) -> None:
    """The servers of a model, by its id."""
    endpoints = [{"provider_name": "Azure", "pricing": {"prompt": "0.1"}}]
    upstream.route("/models/openai/gpt-4o:free/endpoints", Reply.json({"data": {"id": "x", "endpoints": endpoints}}))
    assert await make().endpoints("openai/gpt-4o:free") == endpoints
    with pytest.raises(ProviderRefused) as caught:
        await make().endpoints("no/such")
    assert caught.value.upstream_status == 404


@pytest.mark.parametrize("route", ["/key", "/models/a/b/endpoints"])
@pytest.mark.parametrize("said", [{}, {"data": None}, {"data": []}])
async def test_documents_of_another_shape(upstream: FakeUpstream, make: Make, route: str, said: object) -> None:
    """They are an error of the upstream, not of the program."""
    upstream.route(route, Reply.json(said))
    provider = make()
    with pytest.raises(ProviderError):
        await (provider.key() if route == "/key" else provider.endpoints("a/b"))


async def test_the_key(upstream: FakeUpstream, make: Make) -> None:
    """What OpenRouter knows of it."""
    assert (await make().key())["label"] == "fake"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (400, "acme/fake-1.0 is not a valid model ID", ProviderRefused),
        (401, "Missing Authentication header", ProviderRefused),
        (402, "Insufficient credits", ProviderRefused),
        (404, "No endpoints found that support tool use", ProviderRefused),
        (503, "No provider available", ProviderUnavailable),
    ],
)
async def test_errors(upstream: FakeUpstream, make: Make, status: int, message: str, kind: type[ProviderError]) -> None:
    """By their status, with OpenRouter's words."""
    error = {"error": {"code": status, "message": message}}
    upstream.answer(Reply.json(error, status=status, headers={"retry-after": "0"}))
    with pytest.raises(kind) as caught:
        await ask(make())
    assert (caught.value.upstream_status, caught.value.message) == (status, f"openrouter: {message}")
