"""Things that break one rule of a contract each. `breaks` names the tests that must fail; all others must not.

Not collected by itself: `test_contracts.py` runs it.
"""

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import attrs
import pytest
from quart import Blueprint

from chatcore.access import public
from chatcore.builtin.echo import EchoProvider
from chatcore.errors import (
    Conflict,
    NotFound,
    ProviderError,
    ProviderUnavailable,
    RequestError,
    ToolFailed,
    Unauthenticated,
)
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.plugins import find
from chatcore.protocols import Credentials, Health, Lifespan
from chatcore.settings import option
from chatcore.testing.contracts import (
    AuthenticatorContract,
    BlobStoreContract,
    Installation,
    PluginContract,
    ProviderContract,
    ToolSourceContract,
    watch,
)
from chatcore.tools import Tool, ToolResult
from chatcore.types import Finish, Model, Principal, TextDelta, Usage


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What does not end, does not end sooner by waiting for it."""
    monkeypatch.setattr(watch, "PROMPT", 0.4)


# --- providers --------------------------------------------------------------------------------------------------------


class Good:
    """A provider that keeps the contract."""

    name = "good"
    open = False
    default_model = "good"

    def health(self):
        return Health()

    async def models(self):
        return [Model("good", "Good"), Model("good/better", "Better")]

    async def stream(self, request):
        await asyncio.sleep(0)
        yield [TextDelta("Hello", b'{"choices":[]}')]
        await asyncio.sleep(0)
        yield [TextDelta(" there", b""), Finish("stop"), Usage({"total_tokens": 1})]


class _Provider(ProviderContract):
    breaks = ()
    Made = Good

    @pytest.fixture
    def provider(self):
        return self.Made()

    @pytest.fixture
    def broken(self):
        return Down()


class Down(Good):
    async def stream(self, request):
        raise ProviderUnavailable("down")
        yield


class KeepsIt(_Provider):
    pass


class NoFinish(_Provider):
    breaks = (
        "test_an_answer_ends_with_one_finish",
        "test_two_answers_at_once",
    )

    class Made(Good):
        async def stream(self, request):
            yield [TextDelta("Hello")]
            await asyncio.sleep(0)


class TwoFinishes(_Provider):
    breaks = (
        "test_an_answer_ends_with_one_finish",
        "test_two_answers_at_once",
    )

    class Made(Good):
        async def stream(self, request):
            yield [Finish("stop"), Finish("stop")]
            await asyncio.sleep(0)


class TextAfterFinish(_Provider):
    breaks = ("test_an_answer_ends_with_one_finish",)

    class Made(Good):
        async def stream(self, request):
            yield [Finish("stop")]
            await asyncio.sleep(0)
            yield [TextDelta("P.S.")]


class EmptyList(_Provider):
    breaks = ("test_an_answer_is_made_of_lists_of_events",)

    class Made(Good):
        async def stream(self, request):
            yield []
            await asyncio.sleep(0)
            yield [Finish("stop")]


class RawOnTwoLines(_Provider):
    breaks = ("test_raw_is_json_on_one_line",)

    class Made(Good):
        async def stream(self, request):
            yield [TextDelta("Hello", b'{"choices":\n[]}'), Finish("stop")]
            await asyncio.sleep(0)


class RawIsNoJson(_Provider):
    breaks = ("test_raw_is_json_on_one_line",)

    class Made(Good):
        async def stream(self, request):
            yield [TextDelta("Hello", b"data: {}"), Finish("stop")]
            await asyncio.sleep(0)


class SwallowsCancellation(_Provider):
    breaks = ("test_a_cancelled_answer_ends",)

    class Made(Good):
        async def stream(self, request):
            try:
                async for events in Good.stream(self, request):
                    yield events
            except asyncio.CancelledError:
                yield [Finish("stop")]


class MakesCancellationAnError(_Provider):
    breaks = ("test_a_cancelled_answer_ends",)

    class Made(Good):
        async def stream(self, request):
            try:
                async for events in Good.stream(self, request):
                    yield events
            except asyncio.CancelledError:
                raise ProviderError("broken") from None


class LeavesATask(_Provider):
    breaks = (
        "test_a_closed_answer_ends",
        "test_a_cancelled_answer_ends",
    )

    class Made(Good):
        async def stream(self, request):
            self.task = asyncio.create_task(asyncio.sleep(60))
            yield [TextDelta("Hello")]
            await asyncio.sleep(0)
            yield [Finish("stop")]
            self.task.cancel()


class ClosesSlowly(_Provider):
    breaks = ("test_a_closed_answer_ends",)

    class Made(Good):
        async def stream(self, request):
            try:
                yield [Finish("stop")]
                await asyncio.sleep(0)
            except GeneratorExit:
                await asyncio.sleep(60)
                raise


class CannotBeClosed(_Provider):
    breaks = ("test_a_closed_answer_ends",)

    class Made(Good):
        def stream(self, request):
            answer = super().stream(request)

            class Iterator:
                __aiter__ = lambda self: self  # noqa: E731
                __anext__ = lambda self: anext(answer)  # noqa: E731
                aclose = lambda self: answer.aclose()  # noqa: E731

            return Iterator()


class HealthReadsAFile(_Provider):
    breaks = ("test_health_is_quick_and_does_no_io",)

    class Made(Good):
        def health(self):
            Path(__file__).read_text()
            return Health()


class HealthIsText(_Provider):
    breaks = ("test_health_is_quick_and_does_no_io",)

    class Made(Good):
        def health(self):
            return "fine"


class OneIdTwice(_Provider):
    breaks = ("test_models_have_ids_of_their_own",)

    class Made(Good):
        async def models(self):
            return [Model("good", "Good"), Model("good", "Better")]


class EmptyId(_Provider):
    breaks = ("test_models_have_ids_of_their_own",)

    class Made(Good):
        open = True

        async def models(self):
            return [Model("", "Nameless")]


class IdsOfSomebodyElse(_Provider):
    breaks = ("test_its_models_are_found_by_their_ids",)

    class Made(Good):
        async def models(self):
            return [Model("better/one", "One")]


class BadName(_Provider):
    breaks = ("test_it_is_a_provider",)

    class Made(Good):
        open = True
        name = "good/enough"


class KeepsTheAnswerInItself(_Provider):
    breaks = ("test_two_answers_at_once",)

    class Made(Good):
        async def stream(self, request):
            self.left = ["Hello", "there"]
            while self.left:
                await asyncio.sleep(0)
                yield [TextDelta(self.left.pop())]
                await asyncio.sleep(0)
            yield [Finish("stop")] if getattr(self, "asked", None) is not request else [TextDelta("")]
            self.asked = request


class TrustsParameters(_Provider):
    breaks = ("test_it_answers_or_raises_a_provider_error[parameters of wrong types]",)

    class Made(Good):
        async def stream(self, request):
            for _ in range(int(request.parameters.get("max_tokens", 1))):
                yield [TextDelta("Hello")]
                await asyncio.sleep(0)
            yield [Finish("stop")]


class TrustsMessages(_Provider):
    breaks = ("test_it_answers_or_raises_a_provider_error[no messages]",)

    class Made(Good):
        async def stream(self, request):
            yield [TextDelta(request.messages[-1].text), Finish("stop")]
            await asyncio.sleep(0)


class TrustsTheModel(_Provider):
    breaks = ("test_an_unknown_model_is_a_provider_error",)

    class Made(Good):
        async def stream(self, request):
            yield [TextDelta({"good": "Hello"}[request.model]), Finish("stop")]
            await asyncio.sleep(0)


class ErrorsOfTheNetwork(_Provider):
    breaks = ("test_a_broken_server_is_a_provider_error",)

    @pytest.fixture
    def broken(self):
        class Refused(Good):
            async def stream(self, request):
                raise ConnectionRefusedError
                yield

        return Refused()


# --- tools ------------------------------------------------------------------------------------------------------------

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def forecast(invocation):
    if "city" not in invocation.arguments:
        raise ToolFailed("which city?")
    await asyncio.sleep(0)
    return ToolResult("Sunny.")


def tool(**changed):
    return Tool(**{"name": "forecast", "description": "Looks.", "parameters": CITY, "run": forecast, **changed})


class _Tools(ToolSourceContract):
    breaks = ()
    given = (tool(),)

    @pytest.fixture
    def source(self):
        @attrs.frozen
        class Source:
            tools: object
            name: str = "source"

        return Source(self.tools)

    @pytest.fixture
    def calls(self):
        return {"forecast": {"city": "Rome"}}

    def tools(self):
        return self.given


class KeepsTheToolRules(_Tools):
    pass


class LooksForTools(_Tools):
    breaks = ("test_tools_are_told_at_once",)

    def tools(self):
        Path(__file__).read_text()
        return self.given


class NamesChange(_Tools):
    breaks = ("test_names_are_unique_and_stay",)
    count = 0

    def tools(self):
        self.count += 1
        return [tool(), tool(name=f"forecast{self.count}")]


class OneNameTwice(_Tools):
    breaks = ("test_names_are_unique_and_stay",)
    given = (tool(), tool())


class NotATool(_Tools):
    breaks = (
        "test_it_is_a_tool_source",
        "test_names_are_unique_and_stay",
        "test_a_tool_says_what_it_does",
        "test_parameters_are_a_json_schema_of_an_object",
        "test_a_call_is_answered",
        "test_missing_arguments_are_a_failure_that_the_model_reads",
        "test_a_cancelled_call_ends",
    )
    given = ({"name": "forecast"},)


class SaysNothing(_Tools):
    breaks = ("test_a_tool_says_what_it_does",)
    given = (tool(description=" "),)


SCHEMA = "test_parameters_are_a_json_schema_of_an_object"


class ParametersAreAList(_Tools):
    breaks = (SCHEMA,)
    given = (tool(parameters={"type": "array"}),)


class UnknownType(_Tools):
    breaks = (SCHEMA,)
    given = (tool(parameters={"type": "object", "properties": {"city": {"type": "text"}}}),)


class RequiresTheUnknown(_Tools):
    breaks = (SCHEMA,)
    given = (tool(parameters={"type": "object", "properties": {}, "required": ["city"]}),)


class LeadsNowhere(_Tools):
    breaks = (SCHEMA,)
    given = (tool(parameters={"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}}),)


class ChoiceAtTheTop(_Tools):
    breaks = (SCHEMA,)
    given = (tool(parameters={"type": "object", "anyOf": [CITY]}),)


async def answers_text(invocation):
    await asyncio.sleep(0)
    return "Sunny."


async def breaks_down(invocation):
    await asyncio.sleep(0)
    raise KeyError("weather")


async def trusts_arguments(invocation):
    await asyncio.sleep(0)
    return ToolResult(invocation.arguments["city"])


async def cannot_be_stopped(invocation):
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return ToolResult("Sunny.")
    return await forecast(invocation)


class AnswersText(_Tools):
    breaks = ("test_a_call_is_answered",)
    given = (tool(run=answers_text),)


class BreaksDown(_Tools):
    breaks = (
        "test_a_call_is_answered",
        "test_missing_arguments_are_a_failure_that_the_model_reads",
    )
    given = (tool(run=breaks_down),)


class TrustsArguments(_Tools):
    breaks = ("test_missing_arguments_are_a_failure_that_the_model_reads",)
    given = (tool(run=trusts_arguments),)


class CannotBeStopped(_Tools):
    breaks = ("test_a_cancelled_call_ends",)
    given = (tool(run=cannot_be_stopped),)


# --- blob stores ------------------------------------------------------------------------------------------------------


def is_key(key):
    return (
        key.isascii()
        and key.isprintable()
        and len(key) < 500
        and all(p not in ("", ".", "..") for p in key.split("/"))
        and "\\" not in key
    )


class Memory:
    """A store that keeps the contract."""

    name = "memory"

    def __init__(self):
        self.files = {}

    async def put(self, blob, data):
        if not is_key(blob.key):
            raise RequestError("no key")
        await asyncio.sleep(0)
        if blob.key in self.files:
            raise Conflict("taken")
        self.files[blob.key] = data

    async def get(self, key):
        if key not in self.files:
            raise NotFound("no such file")
        return self.files[key]

    async def url(self, key, expires):
        await self.get(key)
        return f"/files/{key}"

    async def delete(self, key):
        self.files.pop(key, None)


class _Store(BlobStoreContract):
    breaks = ()
    Made = Memory

    @pytest.fixture
    def store(self):
        return self.Made()


class KeepsTheFiles(_Store):
    pass


class Overwrites(_Store):
    breaks = (
        "test_a_key_is_used_once",
        "test_of_many_at_once_one_wins",
    )

    class Made(Memory):
        async def put(self, blob, data):
            if not is_key(blob.key):
                raise RequestError("no key")
            self.files[blob.key] = data


class LooksBeforeItLeaps(_Store):
    breaks = ("test_of_many_at_once_one_wins",)

    class Made(Memory):
        async def put(self, blob, data):
            if blob.key in self.files:
                raise Conflict("taken")
            if not is_key(blob.key):
                raise RequestError("no key")
            await asyncio.sleep(0)
            self.files[blob.key] = data


class TakesAnyKey(_Store):
    breaks = ("test_a_hostile_key_is_no_file",)

    class Made(Memory):
        async def put(self, blob, data):
            self.files.setdefault(blob.key, data) is data or await super().put(blob, data)


class RaisesKeyError(_Store):
    breaks = (
        "test_what_is_not_there_is_not_found",
        "test_what_was_deleted_is_gone",
        "test_a_hostile_key_is_no_file",
    )

    class Made(Memory):
        async def get(self, key):
            return self.files[key]


class CannotDeleteNothing(_Store):
    breaks = ("test_what_was_deleted_is_gone", "test_what_is_not_there_is_not_found")

    class Made(Memory):
        async def delete(self, key):
            if key not in self.files:
                raise NotFound("no such file")
            del self.files[key]


class LosesTheEmpty(_Store):
    breaks = ("test_files_of_any_size",)

    class Made(Memory):
        async def get(self, key):
            return await super().get(key) or b"?"


class KeysWithoutCase(_Store):
    breaks = ("test_one_key_may_begin_like_another",)

    class Made(Memory):
        async def put(self, blob, data):
            await super().put(attrs.evolve(blob, key=blob.key.lower()), data)

        async def get(self, key):
            return await super().get(key.lower())

        async def delete(self, key):
            await super().delete(key.lower())


class UrlOfAFile(_Store):
    breaks = ("test_a_url_is_one_that_a_browser_can_use",)

    class Made(Memory):
        async def url(self, key, expires):
            await self.get(key)
            return f"file:///{key}"


# --- authenticators ---------------------------------------------------------------------------------------------------


class Sesame:
    """An authenticator that keeps the contract."""

    name = "sesame"

    async def authenticate(self, credentials):
        scheme, _, word = credentials.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        if word != "open-sesame":
            raise Unauthenticated("that is not the word")
        return Principal("ali")


class _Auth(AuthenticatorContract):
    breaks = ()
    Made = Sesame

    @pytest.fixture
    def authenticator(self):
        return self.Made()

    @pytest.fixture
    def right(self):
        return Credentials({"authorization": "Bearer open-sesame"})

    @pytest.fixture
    def wrong(self):
        return Credentials({"authorization": "Bearer open-barley"})


class KeepsTheDoor(_Auth):
    pass


class CannotBeAsked(_Auth):
    breaks = ("test_it_is_an_authenticator",)

    class Made(Sesame):
        active = True


class RefusesStrangers(_Auth):
    breaks = ("test_foreign_credentials_are_left_to_others",)

    class Made(Sesame):
        async def authenticate(self, credentials):
            principal = await super().authenticate(credentials)
            if principal is None:
                raise Unauthenticated("who are you?")
            return principal


class ShrugsAtTheWrong(_Auth):
    breaks = (
        "test_wrong_credentials_are_refused",
        "test_right_credentials_of_somebody_else_do_not_help",
    )

    class Made(Sesame):
        async def authenticate(self, credentials):
            try:
                return await super().authenticate(credentials)
            except Unauthenticated:
                return None


class RepeatsTheWord(_Auth):
    breaks = ("test_wrong_credentials_are_refused",)

    class Made(Sesame):
        async def authenticate(self, credentials):
            try:
                return await super().authenticate(credentials)
            except Unauthenticated:
                raise Unauthenticated(f"{credentials.headers} will not do") from None


class MindsTheCase(_Auth):
    breaks = ("test_the_case_of_the_scheme_does_not_matter",)

    class Made(Sesame):
        async def authenticate(self, credentials):
            if credentials.headers.get("authorization", "Bearer").startswith("Bearer"):
                return await super().authenticate(credentials)
            return None


class StumblesOverGarbage(_Auth):
    breaks = ("test_garbage_breaks_nothing",)

    class Made(Sesame):
        async def authenticate(self, credentials):
            credentials.headers.get("cookie", "").encode("ascii")
            return await super().authenticate(credentials)


class RemembersTheLast(_Auth):
    breaks = ("test_right_credentials_of_somebody_else_do_not_help",)

    class Made(Sesame):
        last = None

        async def authenticate(self, credentials):
            self.last = self.last or await super().authenticate(credentials)
            return self.last


class GivesAName(_Auth):
    breaks = ("test_right_credentials_give_a_principal",)

    class Made(Sesame):
        async def authenticate(self, credentials):
            return await super().authenticate(credentials) and "ali"


# --- plugins ----------------------------------------------------------------------------------------------------------
#
# The loader's own tests have the files of plugins_bad; here is what only the contract sees.


class _Plugin(PluginContract):
    breaks = ()

    @pytest.fixture
    def installation(self):
        return Installation(self.plugin if hasattr(self, "plugin") else self.Broken)


def from_file(name):
    """The class in a file of plugins_bad."""
    file = Path(__file__).parents[1] / "plugins_bad" / f"{name}.py"
    [found] = [one for one in find(discover=True, plugins_dir=file.parent) if one.name == name]
    return found.load()


class Well(Plugin[NoSettings]):
    """Keeps the contract, and does something of everything."""

    @hookimpl
    def register_providers(self):
        yield Good()

    @hookimpl
    def register_tools(self):
        yield tool(name="well_forecast")

    @hookimpl
    def register_routes(self):
        routes = Blueprint("well", __name__)
        routes.add_url_rule("/well", view_func=well)
        yield routes

    @hookimpl
    def register_lifespans(self):
        yield Lifespan("ticking", ticking)

    @hookimpl
    async def prepare_turn(self, turn):
        return turn

    @hookimpl
    async def finish_turn(self, turn, result):
        pass


@public
async def well():
    return "well"


@asynccontextmanager
async def ticking():
    task = asyncio.create_task(asyncio.sleep(3600))
    yield
    task.cancel()


class KeepsThePluginRules(_Plugin):
    plugin = Well


class Misspelt(_Plugin):
    breaks = ("test_its_hooks_are_chatcores", "test_it_loads")
    plugin = from_file("misspelt_hook")


class WrongColour(_Plugin):
    breaks = ("test_its_hooks_are_chatcores", "test_it_loads")
    plugin = from_file("sync_turn_hook")


class FromTheFuture(_Plugin):
    breaks = ("test_it_is_for_hooks_that_are_known", "test_it_loads")
    plugin = from_file("future")


class GivesATwice(_Plugin):
    breaks = ("test_it_loads",)
    plugin = from_file("twice")


class LeavesADoorOpen(_Plugin):
    breaks = ("test_it_loads",)
    plugin = from_file("open_route")


class WantsAKey(_Plugin):
    breaks = ("test_it_loads",)
    plugin = from_file("off")


class RaisesInTurns(_Plugin):
    breaks = ("test_a_turn_goes_through_it",)
    plugin = from_file("fails_in_turns")


class HasTheNameOfEcho(_Plugin):
    breaks = ("test_it_loads",)

    class Broken(Plugin[NoSettings]):
        """Takes a name that is built in."""

        @hookimpl
        def register_providers(self):
            yield EchoProvider()


class ShiftsItsNames(_Plugin):
    breaks = ("test_its_names_stay",)

    class Broken(Plugin[NoSettings]):
        """Counts its tools."""

        numbers = count()

        @hookimpl
        def register_tools(self):
            yield tool(name=f"forecast_{next(self.numbers)}")


class SaysNothingOfItself(_Plugin):
    breaks = ("test_it_says_what_it_is",)

    class Broken(Plugin[NoSettings]):
        pass


@attrs.define
class Loose:
    place: str = option("Rome", help="Where.")


@attrs.frozen
class Unexplained:
    place: str = option("Rome")


class SettingsThatChange(_Plugin):
    breaks = ("test_its_settings_are_frozen_and_explained",)

    class Broken(Plugin[Loose]):
        """Has settings that can be changed."""

        settings_class = Loose


class SettingsThatNobodyKnows(_Plugin):
    breaks = ("test_its_settings_are_frozen_and_explained",)

    class Broken(Plugin[Unexplained]):
        """Has settings that nobody explains."""

        settings_class = Unexplained


class DoesNotOpen(_Plugin):
    breaks = ("test_it_loads",)

    class Broken(Plugin[NoSettings]):
        """Has a lifespan that fails."""

        @hookimpl
        def register_lifespans(self):
            yield Lifespan("failing", self.failing)

        @asynccontextmanager
        async def failing(self):
            raise OSError("no such thing")
            yield


class LeavesATaskBehind(_Plugin):
    breaks = ("test_it_goes_without_a_trace",)

    class Broken(Plugin[NoSettings]):
        """Begins a task that nobody ends."""

        @hookimpl
        def register_lifespans(self):
            yield Lifespan("careless", self.careless)

        @asynccontextmanager
        async def careless(self):
            self.task = asyncio.create_task(asyncio.sleep(3600))
            yield


class LeavesAThreadBehind(_Plugin):
    breaks = ("test_it_goes_without_a_trace",)

    class Broken(Plugin[NoSettings]):
        """Begins a thread that nobody ends."""

        @hookimpl
        def register_tools(self):
            threading.Thread(target=time.sleep, args=(10,), daemon=True).start()
            return ()
