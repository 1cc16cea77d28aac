"""The contract of a provider."""

# ruff: noqa: S101
# The contracts speak in assertions.

import asyncio
import inspect
import re
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

import attrs
import pytest
import pytest_asyncio

from chatcore import wire
from chatcore.errors import ProviderError
from chatcore.plugins.fit import misfit
from chatcore.protocols import Health, Provider
from chatcore.testing.contracts import watch
from chatcore.testing.contracts.watch import leaving_nothing, promptly, touching_nothing
from chatcore.tools import ToolCall
from chatcore.types import Finish, Message, Model, ModelEvent, ModelRequest, TextDelta, Usage

ANSWER = 60.0
"""Seconds that an answer may take."""

_HELLO = Message(role="user", content="Say hello.")
_ODD: Mapping[str, Mapping[str, Any]] = {
    "no messages": {"messages": ()},
    "no text": {"messages": (Message(role="user"),)},
    "unknown parts": {"messages": (Message(role="user", content=({"type": "hologram"},)),)},
    "an answer of a tool that was not called": {"messages": (Message(role="tool", content="7", tool_call_id="call"),)},
    "a call with broken arguments": {
        "messages": (
            _HELLO,
            Message(role="assistant", tool_calls=(ToolCall("call", "dice", '{"sid'),)),
            Message(role="tool", content="7", tool_call_id="call"),
        )
    },
    "parameters of wrong types": {"parameters": {"max_tokens": "many", "temperature": "hot", "seed": "dice"}},
    "unknown parameters": {"parameters": {"chatcore_contract": True}},
}


@pytest.mark.asyncio
class ProviderContract:
    """What every provider keeps. A subclass gives the fixture `provider`:

        class TestMine(ProviderContract):
            @pytest.fixture
            def provider(self):
                return MyProvider()

    It may also give `question`, what is asked, and `broken`, a provider of the same kind whose server fails.
    """

    @pytest.fixture
    def provider(self) -> Provider:
        """The provider to test, fresh for every rule."""
        raise NotImplementedError("write a fixture 'provider' that gives the provider to test")

    @pytest.fixture
    def broken(self) -> Provider | None:
        """A provider whose server cannot be reached, or fails."""
        return None

    @pytest_asyncio.fixture
    async def question(self, provider: Provider) -> ModelRequest:
        """A request that is answered in a few words."""
        model = provider.default_model or (await provider.models())[0].id
        return ModelRequest(model=model, messages=(_HELLO,))

    async def test_it_is_a_provider(self, provider: Provider) -> None:
        """It has every member of `Provider`, and a name without '/' and spaces, since ids are NAME/MODEL."""
        assert not (wrong := misfit(provider, Provider)), wrong
        assert re.fullmatch(r"[^/\s]+", provider.name), f"{provider.name!r} is not a name for a provider"
        assert isinstance(provider.open, bool), f"open is {provider.open!r}, wanted True or False"

    async def test_health_is_quick_and_does_no_io(self, provider: Provider) -> None:
        """Health is told at once, from what is known: it is asked for by every load balancer, every few seconds."""
        started = time.perf_counter()
        with touching_nothing("health"):
            health = provider.health()
        assert isinstance(health, Health), f"health() gave {health!r}, wanted a Health"
        assert time.perf_counter() - started < watch.QUICK, "health() takes too long"

    async def test_models_have_ids_of_their_own(self, provider: Provider) -> None:
        """Each model has an id that is not empty and that no other has, and a name."""
        models = await provider.models()
        assert all(isinstance(model, Model) for model in models), "models() gave something that is not a Model"
        ids = [model.id for model in models]
        assert all(isinstance(id_, str) and id_.strip() for id_ in ids), "a model has an empty id"
        assert len(ids) == len(set(ids)), f"an id is given twice: {sorted({i for i in ids if ids.count(i) > 1})}"
        assert all(model.name for model in models), "a model has an empty name"

    async def test_its_models_are_found_by_their_ids(self, provider: Provider) -> None:
        """A provider that is not open has ids NAME or NAME/MODEL: chatcore takes any other id to an open one."""
        if provider.open:
            return
        default = [provider.default_model] if provider.default_model else []
        for id_ in [*default, *(model.id for model in await provider.models())]:
            assert id_.partition("/")[0] == provider.name, (
                f"the model {id_!r} is never asked for: call it {provider.name}/{id_}"
            )

    async def test_an_answer_is_made_of_lists_of_events(self, provider: Provider, question: ModelRequest) -> None:
        """What a stream yields are lists, none of them empty, of the events that a provider may give."""
        for events in await read(provider, question):
            assert isinstance(events, Sequence), f"it yielded {events!r}, wanted a list of events"
            assert events, "it yielded an empty list: wait for the next event instead"
            wrong = [event for event in events if not isinstance(event, ModelEvent)]
            assert not wrong, f"it yielded {wrong[0]!r}, which is not an event of a model"

    async def test_an_answer_ends_with_one_finish(self, provider: Provider, question: ModelRequest) -> None:
        """A complete answer has exactly one Finish, after all of its text; only usage may follow."""
        events = [event for events in await read(provider, question) for event in events]
        places = [place for place, event in enumerate(events) if isinstance(event, Finish)]
        assert len(places) == 1, f"it has {len(places)} times Finish, wanted one"
        late = [e for e in events[places[0] + 1 :] if not isinstance(e, Usage) and e != TextDelta("", raw=_raw(e))]
        assert not late, f"{late[0]!r} comes after Finish"
        assert cast("Finish", events[places[0]]).reason, "Finish has no reason"

    async def test_raw_is_json_on_one_line(self, provider: Provider, question: ModelRequest) -> None:
        """Where an event has the bytes of its chunk they are a JSON object on one line, so that they fit in a frame."""
        chunks = [raw for events in await read(provider, question) for event in events if (raw := _raw(event))]
        for chunk in chunks:
            assert isinstance(chunk, bytes), f"raw is {type(chunk).__name__}, wanted bytes"
            assert not set(chunk) & set(b"\r\n"), f"raw has more than one line: {chunk[:80]!r}"
            assert isinstance(wire.loads(chunk), dict), f"raw is not a JSON object: {chunk[:80]!r}"

    async def test_a_closed_answer_ends(self, provider: Provider, question: ModelRequest) -> None:
        """Closing a stream, before or after its first events, ends it soon; no task goes on."""
        async with leaving_nothing():
            for reads in (0, 1):
                stream = provider.stream(question)
                assert inspect.isasyncgen(stream), "stream() is not an async generator: it cannot be closed"
                for _ in range(reads):
                    async with asyncio.timeout(ANSWER):
                        await anext(stream)
                await promptly(stream.aclose(), "a closed answer")

    async def test_a_cancelled_answer_ends(self, provider: Provider, question: ModelRequest) -> None:
        """A cancellation goes through a stream: it is not swallowed, not turned into an error, and no task goes on."""
        async with leaving_nothing():
            reader = asyncio.create_task(_cancelled_in_the_middle(provider, question))
            await asyncio.wait([reader], timeout=ANSWER + watch.PROMPT)
            assert reader.done(), "a cancelled answer goes on"
            if not reader.cancelling():
                await reader  # it did not come so far; this raises why
            assert reader.cancelled(), f"the cancellation became {reader.exception()!r}"

    async def test_two_answers_at_once(self, provider: Provider, question: ModelRequest) -> None:
        """Two questions at the same time are both answered: nothing of an answer is kept in the provider."""
        answers = await asyncio.gather(read(provider, question), read(provider, question))
        for batches in answers:
            finishes = [event for events in batches for event in events if isinstance(event, Finish)]
            assert len(finishes) == 1, f"one of two answers at once has {len(finishes)} times Finish"

    @pytest.mark.parametrize("odd", _ODD)
    async def test_it_answers_or_raises_a_provider_error(
        self, provider: Provider, question: ModelRequest, odd: str
    ) -> None:
        """Whatever is in a request, it is answered or refused with a ProviderError, which tells the client why."""
        await _answered_or_refused(provider, attrs.evolve(question, **_ODD[odd]), odd)

    async def test_an_unknown_model_is_a_provider_error(self, provider: Provider, question: ModelRequest) -> None:
        """A model that is not there is answered by another or refused with a ProviderError."""
        request = attrs.evolve(question, model=f"{provider.name}/chatcore-contract-none")
        await _answered_or_refused(provider, request, "an unknown model")

    async def test_a_broken_server_is_a_provider_error(self, broken: Provider | None, question: ModelRequest) -> None:
        """A server that cannot be reached, or fails, is a ProviderError."""
        if broken is None:
            pytest.skip("there is no fixture 'broken' that gives a provider whose server fails")
        with pytest.raises(ProviderError):
            await read(broken, question)


async def read(provider: Provider, request: ModelRequest) -> list[Sequence[ModelEvent]]:
    """A whole answer, list by list."""
    stream = cast("AsyncGenerator[Sequence[ModelEvent]]", provider.stream(request))
    async with asyncio.timeout(ANSWER), aclosing(stream):
        return [events async for events in stream]


async def _cancelled_in_the_middle(provider: Provider, request: ModelRequest) -> None:
    """Reads an answer that cancels its own reader, so that the provider gets it at its next suspension."""
    stream = cast("AsyncGenerator[Sequence[ModelEvent]]", provider.stream(request))
    async with asyncio.timeout(ANSWER), aclosing(stream):
        async for _ in stream:
            reader = asyncio.current_task()
            assert reader is not None
            if not reader.cancelling():
                reader.cancel()
    await asyncio.sleep(0)  # an answer without a suspension was not cancelled: its reader is, here
    raise AssertionError("it swallowed the cancellation")


async def _answered_or_refused(provider: Provider, request: ModelRequest, what: str) -> None:
    try:
        await read(provider, request)
    except ProviderError:
        return
    except Exception as error:  # noqa: BLE001  that is the rule
        pytest.fail(f"{what}: it raised {type(error).__name__} ({error}), wanted an answer or a ProviderError")


def _raw(event: ModelEvent) -> bytes | None:
    return event.raw
