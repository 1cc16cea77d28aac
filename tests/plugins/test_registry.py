"""What is contributed, by kind and name; the tools of a turn; the provider of a model."""

import asyncio
import logging
from datetime import timedelta

import attrs
import pytest

from chatcore.errors import (
    Conflict,
    DatabaseError,
    DuplicateName,
    PluginError,
    ProviderUnavailable,
    RequestError,
    SignInNeeded,
    ToolFailed,
)
from chatcore.plugins.registry import Contribution, Provenance, Registry
from chatcore.protocols import Blob, Credentials, GenerationLookup, Health
from chatcore.tools import Invocation, Tool, ToolCall, ToolResult
from chatcore.types import Finish, Model, ModelRequest, Principal, TextDelta

INVOCATION = Invocation(ToolCall("1", "x"), {}, "local", "c", "r")


@attrs.define
class FakeProvider:
    """A provider with a health of choice."""

    name: str
    open: bool = False
    default_model: str | None = "model"
    state: str = "ready"

    def health(self):
        if self.state == "raises":
            raise OSError("no idea")
        if self.state == "nothing":
            return None
        return Health(self.state)

    async def models(self):
        return [Model(f"{self.name}/model", "A model")]

    async def stream(self, request):
        yield [TextDelta(request.model)]
        yield [Finish("stop")]


@attrs.define
class Source:
    """A source whose tools can be changed."""

    name: str
    offered: object = ()

    def tools(self):
        if isinstance(self.offered, Exception):
            raise self.offered
        return self.offered


def tool(name, answer="ok"):
    async def run(invocation):
        return ToolResult(answer)

    return Tool(name=name, description="", parameters={}, run=run)


def contribution(kind, value, plugin="alpha", *, builtin=False):
    return Contribution(kind, value.name, value, Provenance(plugin, f"chatcore-{plugin}", "1.0", builtin))


def registry_of(*contributions, **defaults):
    registry = Registry(**defaults)
    for one in contributions:
        registry.add([one])
    return registry


# --- on a plugin's account --------------------------------------------------------------------------------------------


class Lookup(FakeProvider):
    """A provider that keeps records, and cannot tell its health without leaving."""

    def health(self):
        raise SystemExit(3)

    async def generation(self, generation_id):
        return {"id": generation_id}


@attrs.define
class Files:
    """A blob store with one file."""

    name: str = "files"

    async def put(self, blob, data):
        raise Conflict("it is taken")

    async def get(self, key):
        return b"data"

    async def url(self, key, expires):
        return f"/{key}"

    async def delete(self, key):
        raise SystemExit(3)


@attrs.define
class Door:
    """Knows whoever it is told to know."""

    principal: object
    name: str = "door"

    async def authenticate(self, credentials):
        return self.principal


def charged(registry):
    return {(c.what, c.calls, c.failures) for c in registry.calls.charges()}


async def test_all_that_a_provider_does_is_charged():
    """Also what is asked of it outside of turns. One that keeps no records has none to look in."""
    registry = registry_of(contribution("provider", Lookup("p")), contribution("provider", FakeProvider("q")))
    lookup, plain = registry.providers.values()
    assert await lookup.generation("gen-1") == {"id": "gen-1"}
    assert [model.id for model in await lookup.models()] == ["p/model"]
    assert registry.health(registry.find("provider", "p")).state == "failed"
    assert isinstance(lookup, GenerationLookup)
    assert not isinstance(plain, GenerationLookup)
    assert charged(registry) == {("generation of p", 1, 0), ("models of p", 1, 0), ("health of p", 1, 1)}


async def test_a_blob_store_is_charged_for_its_work():
    """It may refuse, and it may fail; it does not end the server."""
    registry = registry_of(contribution("blob store", Files()))
    store = registry.blob_stores["files"]
    assert store.name == "files"
    assert (await store.get("a"), await store.url("a", timedelta(1))) == (b"data", "/a")
    with pytest.raises(Conflict):
        await store.put(Blob(key="a", media_type="text/plain", filename="a"), b"")
    assert charged(registry) == {("blob store files", 3, 0)}
    with pytest.raises(PluginError, match=r"plugin alpha: blob store files called exit\(\)"):
        await store.delete("a")
    assert charged(registry) == {("blob store files", 4, 1)}


@pytest.mark.parametrize("principal", [None, Principal("ana"), Principal("ana", {"*"})])
async def test_an_authenticator_is_charged_for_its_work(principal):
    """Without an `active` of its own it always has something to ask for."""
    registry = registry_of(contribution("authenticator", Door(principal)))
    [door] = registry.authenticators
    assert door.name == "door"
    assert await door.active()
    assert await door.authenticate(Credentials({})) == principal
    assert charged(registry) == {("authenticator door", 1, 0)}


@pytest.mark.parametrize("wrong", ["ana", Principal(None), Principal, True])
async def test_what_is_no_principal_lets_nobody_in(wrong):
    """It is told with the plugin, before a view breaks on it."""
    registry = registry_of(contribution("authenticator", Door(wrong)))
    with pytest.raises(PluginError, match="plugin alpha: the authenticator door gave"):
        await registry.authenticators[0].authenticate(Credentials({}))


# --- giving and taking back -------------------------------------------------------------------------------------------


def test_contributions_are_found_by_kind_and_name():
    """With the plugin that they are from."""
    registry = registry_of(contribution("tool", tool("a")), contribution("blob store", Source("disk"), "beta"))
    assert registry.find("tool", "a").provenance.plugin == "alpha"
    assert registry.find("tool", "b") is None
    assert registry.find("provider", "a") is None
    assert list(registry.blob_stores) == ["disk"]
    assert [c.name for c in registry.by("alpha")] == ["a"]


def test_what_is_removed_is_gone_at_the_next_look():
    """All of one plugin, and nothing of another."""
    registry = registry_of(
        contribution("tool", tool("a")),
        contribution("tool source", Source("s", [tool("b")])),
        contribution("provider", FakeProvider("p")),
        contribution("tool", tool("c"), "beta"),
    )
    registry.remove("alpha")
    assert list(registry.tools()) == ["c"]
    assert not registry.providers
    assert not registry.by("alpha")
    registry.add([contribution("tool", tool("a"), "gamma")])
    assert list(registry.tools()) == ["c", "a"]


def test_a_duplicate_names_both_plugins_and_what_to_write():
    """Nothing is chosen silently, and nothing of the second plugin is taken."""
    registry = registry_of(contribution("tool", tool("search")))
    new = [contribution("tool", tool("other"), "beta"), contribution("tool", tool("search"), "beta")]
    with pytest.raises(DuplicateName) as caught:
        registry.add(new)
    assert str(caught.value) == (
        "the tool 'search' is given by plugin alpha (chatcore-alpha 1.0) and by plugin beta (chatcore-beta 1.0); to go "
        'on with one of them, write disable = ["beta"] or disable = ["alpha"] in chatcore.toml'
    )
    assert list(registry.tools()) == ["search"]


def test_all_duplicates_are_said_at_once():
    """So that one look at the configuration is enough."""
    registry = registry_of(contribution("tool", tool("a")), contribution("tool", tool("b")))
    with pytest.raises(DuplicateName, match=r"(?s)the tool 'a'.*the tool 'b'"):
        registry.add([contribution("tool", tool("a"), "beta"), contribution("tool", tool("b"), "beta")])


def test_the_same_name_of_another_kind_is_no_duplicate():
    """A plugin's provider, source and store may all be called like it."""
    registry = registry_of(
        contribution("provider", FakeProvider("x")), contribution("tool source", Source("x"), "beta")
    )
    assert [registry.of(kind)[0].name for kind in ("provider", "tool source")] == ["x", "x"]


def test_a_plugin_that_contradicts_itself_is_its_own_fault():
    """It is broken, and there is no conflict that an operator could settle."""
    with pytest.raises(PluginError, match="gives the tool 'a' twice") as caught:
        Registry().add([contribution("tool", tool("a")), contribution("tool", tool("a"))])
    assert not isinstance(caught.value, DuplicateName)


# --- tools ------------------------------------------------------------------------------------------------------------


async def test_tools_are_a_snapshot():
    """Those of the plugins and those that the sources have now; a later change is seen by the next turn."""
    source = Source("remote", [tool("b")])
    registry = registry_of(contribution("tool", tool("a")), contribution("tool source", source))
    before = registry.tools()
    source.offered = [tool("b"), tool("c")]
    assert list(before) == ["a", "b"]
    assert list(registry.tools()) == ["a", "b", "c"]


async def test_tools_of_one_name_from_two_sources_are_both_prefixed(caplog):
    """Neither gets the plain name, in whatever order they come, and each name leads to its own tool; logged once."""
    registry = registry_of(
        contribution("tool source", Source("one", [tool("search", "from one"), tool("x")])),
        contribution("tool source", Source("two", [tool("search", "from two")]), "beta"),
    )
    tools = registry.tools()
    assert sorted(tools) == ["one__search", "two__search", "x"]
    assert (await tools["two__search"].run(INVOCATION)).text == "from two"
    assert all(name == tool.name for name, tool in tools.items())
    registry.tools()
    assert len(caplog.records) == 2
    assert "plugin beta (chatcore-beta 1.0): tool source two: its tool search is called two__search" in caplog.text


def test_a_tool_knows_what_it_comes_from():
    """The source, or the part of it that the source names; a plugin's own tool comes from nowhere else."""
    part = attrs.evolve(tool("part"), source="many/one")
    registry = registry_of(
        contribution("tool source", Source("many", [tool("whole"), part])), contribution("tool", tool("own"))
    )
    assert {name: tool.source for name, tool in registry.tools().items()} == {
        "own": None,
        "whole": "many",
        "part": "many/one",
    }


async def test_a_plugins_own_tool_keeps_its_name_against_a_source():
    """Nobody who connects a server can take a tool's place."""
    registry = registry_of(
        contribution("tool", tool("search", "own")), contribution("tool source", Source("s", [tool("search")]))
    )
    tools = registry.tools()
    assert sorted(tools) == ["s__search", "search"]
    assert (await tools["search"].run(INVOCATION)).text == "own"


def test_prefixed_names_are_names():
    """Valid characters, at most 64 of them, and different for different tools."""
    long, longer = "l" * 64, "l" * 63 + "m"
    sources = [Source(f"my server/{n}", [tool(long), tool(longer)]) for n in (1, 2)]
    registry = registry_of(*(contribution("tool source", source, source.name) for source in sources))
    names = list(registry.tools())
    assert len(names) == len(set(names)) == 4
    assert names == list(registry.tools())
    assert all(name.startswith("my_server_") and len(name) == 64 for name in names)


def test_a_tool_is_left_out_if_even_its_prefixed_name_is_taken(caplog):
    """The turn goes on with what is clear."""
    registry = registry_of(
        contribution("tool", tool("a")),
        contribution("tool", tool("s__a")),
        contribution("tool source", Source("s", [tool("a"), tool("b"), tool("b")])),
    )
    assert list(registry.tools()) == ["a", "s__a", "b"]
    assert "its tool s__a is left out" in caplog.text
    assert "its tool b is left out" in caplog.text


@pytest.mark.parametrize("wrong", [OSError("gone"), None, 7, ["text"], [{"name": "dict"}], [tool("x"), None]])
def test_a_source_that_fails_gives_no_tools_and_breaks_no_turn(wrong, caplog):
    """The others are there; it is logged once, and counted."""
    registry = registry_of(
        contribution("tool", tool("a")), contribution("tool source", Source("broken", wrong), "beta")
    )
    assert list(registry.tools()) == ["a"]
    registry.tools()
    assert len(caplog.records) == 1
    assert "plugin beta (chatcore-beta 1.0): tool source broken: it gives no tools" in caplog.text
    (charge,) = registry.calls.charges()
    assert (charge.what, charge.calls, charge.failures) == ("tool source broken", 2, 2)


async def test_a_tools_time_is_charged_to_its_plugin():
    """Calls, failures and seconds."""

    async def run(invocation):
        await asyncio.sleep(0)
        if invocation.arguments:
            raise ToolFailed("no")
        return ToolResult("yes")

    registry = registry_of(contribution("tool", attrs.evolve(tool("a"), run=run), "beta"))
    own = registry.tools()["a"]
    await own.run(INVOCATION)
    with pytest.raises(ToolFailed):
        await own.run(attrs.evolve(INVOCATION, arguments={"fail": True}))
    (charge,) = registry.calls.charges()
    assert (charge.plugin, charge.what, charge.calls, charge.failures) == ("beta", "tool a", 2, 1)
    assert charge.seconds > 0


def test_a_tool_is_the_same_one_for_as_long_as_its_plugin_gives_the_same():
    """What is known of it need not be found out for every turn; it says which source it comes from."""
    source = Source("s", [tool("a")])
    registry = registry_of(contribution("tool source", source), contribution("tool", tool("b"), "beta"))
    first = registry.tools()
    assert {name: one.source for name, one in first.items()} == {"a": "s", "b": None}
    again = registry.tools()
    assert all(again[name] is one for name, one in first.items())
    source.offered = [tool("a", "other")]
    assert registry.tools()["a"] is not first["a"]
    registry.remove("alpha")
    registry.add([contribution("tool source", source)])
    assert registry.tools()["a"] is not again["a"]


def test_tools_that_are_gone_are_forgotten():
    """A source may come up with ever new names."""
    source = Source("s")
    registry = registry_of(contribution("tool source", source))
    for number in range(5):
        source.offered = [tool(f"a{number}")]
        registry.tools()
    assert len(registry._charged) == 1


def test_a_source_that_fails_in_ever_new_words_is_told_of_once(caplog):
    """What is remembered of it is that it fails."""
    source = Source("s")
    registry = registry_of(contribution("tool source", source))
    for number in range(5):
        source.offered = OSError(f"request {number} failed")
        registry.tools()
    assert len(caplog.records) == 1
    assert "it gives no tools: OSError: request 0 failed" in caplog.text


# --- providers --------------------------------------------------------------------------------------------------------


def providers(*given, **defaults):
    return registry_of(
        *(contribution("provider", p, p.name, builtin=p.name in ("echo", "echo2")) for p in given), **defaults
    )


ECHO = FakeProvider("echo", default_model="echo/plain")
LOCAL = FakeProvider("local", default_model="local/small")
GATEWAY = FakeProvider("gateway", open=True, default_model="vendor/large")


@pytest.mark.parametrize(
    ("model", "provider", "given"),
    [
        ("local/other", "local", "local/other"),
        ("local", "local", "local/small"),
        ("gateway/auto", "gateway", "gateway/auto"),
        ("vendor/any:free", "gateway", "vendor/any:free"),
        ("plain", "gateway", "plain"),
        ("localhost/x", "gateway", "localhost/x"),
        (None, "gateway", "vendor/large"),
        ("", "gateway", "vendor/large"),
    ],
)
def test_a_model_is_its_providers_or_the_open_ones(model, provider, given):
    """By the part before the slash; the id goes on as it is, unless it is only a provider's name."""
    chosen, name = providers(ECHO, LOCAL, GATEWAY).provider_for(model)
    assert (chosen.name, name) == (provider, given)


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([ECHO, LOCAL, GATEWAY], "gateway"),
        ([ECHO, LOCAL], "local"),
        ([ECHO], "echo"),
        ([ECHO, LOCAL, attrs.evolve(GATEWAY, state="failed")], "local"),
        ([ECHO, attrs.evolve(LOCAL, state="starting")], "local"),
        ([ECHO, attrs.evolve(LOCAL, state="failed")], "echo"),
        ([ECHO, attrs.evolve(LOCAL, state="raises")], "echo"),
        ([attrs.evolve(ECHO, state="failed"), attrs.evolve(LOCAL, state="failed")], "local"),
    ],
)
def test_without_a_model_the_best_provider_answers(there, expected):
    """An open one, else an installed one, else a built-in one; failed ones only where nothing else is left."""
    assert providers(*there).provider_for(None)[0].name == expected


def test_a_named_provider_resolves_while_it_starts_or_has_failed():
    """The answer then says what is wrong with it; another provider would not be what was asked for."""
    for state in ("starting", "failed"):
        registry = providers(ECHO, attrs.evolve(LOCAL, state=state))
        assert registry.provider_for("local/x")[0].name == "local"


def test_the_default_model_is_used_where_none_is_named():
    """It goes the same way as a named one."""
    registry = providers(ECHO, LOCAL, GATEWAY, default_model="local/big")
    assert registry.provider_for(None)[1] == "local/big"
    assert registry.provider_for("echo/x")[1] == "echo/x"
    registry = providers(ECHO, LOCAL, GATEWAY, default_model="vendor/x", default_provider="echo")
    assert registry.provider_for(None)[0].name == "gateway"


def test_the_default_provider_answers_where_no_model_is_named():
    """And it is preferred among several open ones."""
    other = FakeProvider("other", open=True)
    assert providers(ECHO, GATEWAY, other, default_provider="echo").provider_for(None)[1] == "echo/plain"
    assert providers(ECHO, GATEWAY, other).provider_for("vendor/x")[0].name == "gateway"
    assert providers(ECHO, GATEWAY, other, default_provider="other").provider_for("vendor/x")[0].name == "other"


def test_a_model_that_nobody_serves_is_the_callers_error():
    """400, with what there is."""
    with pytest.raises(RequestError, match=r"no provider serves 'vendor/x'; there are: echo/…, local/…") as caught:
        providers(ECHO, LOCAL).provider_for("vendor/x")
    assert caught.value.status == 400
    assert "chatcore plugins" in caught.value.hint


def test_a_default_provider_that_is_not_there_is_told():
    """Nothing else answers instead."""
    with pytest.raises(RequestError, match="there is no provider 'gone'; there are: echo/…"):
        providers(ECHO, default_provider="gone").provider_for(None)


def test_a_provider_without_a_default_model_needs_one_to_be_named():
    """A model is not guessed."""
    registry = providers(attrs.evolve(GATEWAY, default_model=None))
    with pytest.raises(RequestError, match="no model is named, and the provider gateway has no default"):
        registry.provider_for(None)
    assert registry.provider_for("vendor/x")[1] == "vendor/x"


def test_without_providers_nothing_can_be_answered():
    """That is the server's fault, whatever was asked for by default."""
    with pytest.raises(ProviderUnavailable):
        Registry().provider_for(None)
    with pytest.raises(RequestError, match="there are: none"):
        Registry().provider_for("x")


@pytest.mark.parametrize("state", ["raises", "nothing"])
def test_a_provider_that_cannot_tell_its_health_is_told_of_once(state, caplog):
    """It counts as failed."""
    registry = providers(ECHO, attrs.evolve(LOCAL, state=state))
    registry.provider_for(None)
    registry.provider_for(None)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


async def test_what_a_provider_streams_is_charged_to_its_plugin():
    """From the first read to the close, which reaches the provider."""
    closed = asyncio.Event()

    class Streaming(FakeProvider):
        async def stream(self, request):
            try:
                yield [TextDelta("a")]
                yield [TextDelta("b")]
            finally:
                closed.set()

    registry = providers(Streaming("local"))
    provider, model = registry.provider_for("local/x")
    stream = provider.stream(ModelRequest(model=model, messages=()))
    assert await anext(stream) == [TextDelta("a")]
    assert registry.calls.charges()[0].running == 1
    await stream.aclose()
    assert closed.is_set()
    (charge,) = registry.calls.charges()
    assert (charge.plugin, charge.what, charge.calls, charge.running) == ("local", "provider local", 1, 0)


async def test_a_charged_provider_is_the_same_provider():
    """Name, health, models and stream are those of the provider."""
    provider, model = providers(GATEWAY).provider_for("vendor/x")
    assert (provider.name, provider.open, provider.default_model) == ("gateway", True, "vendor/large")
    assert provider.health() == Health()
    assert [m.id for m in await provider.models()] == ["gateway/model"]
    events = [events async for events in provider.stream(ModelRequest(model=model, messages=()))]
    assert events == [[TextDelta("vendor/x")], [Finish("stop")]]


@pytest.mark.parametrize(
    ("error", "is_fault"),
    [
        (KeyError("sunny"), True),
        (DatabaseError("no such table: notes"), True),
        (ToolFailed("there is no such day"), False),
        (SignInNeeded("sign in to Mail first"), False),
    ],
)
async def test_a_tool_that_fails_by_a_fault_is_logged(caplog, error, is_fault):
    """With its plugin, and with the place; what it tells the model on purpose is nobody else's."""

    async def run(invocation):
        raise error

    registry = Registry()
    broken = Tool(name="broken", description="", parameters={}, run=run)
    registry.add([Contribution("tool", "broken", broken, Provenance("weather", "chatcore-weather", "1.2"))])
    with pytest.raises(type(error)):
        await registry.tools()["broken"].run(INVOCATION)
    said = "plugin weather (chatcore-weather 1.2): the tool broken failed"
    assert [record.getMessage() for record in caplog.records] == [said] * is_fault
    assert ("in run\n    raise error" in caplog.text, str(error) in caplog.text) == (is_fault, is_fault)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("text", "it gave 'text', wanted a ToolResult with text"),
        (None, "it gave None, wanted a ToolResult with text"),
        (ToolResult(5), "it gave a ToolResult with text 5, wanted str"),
        (ToolResult("", parts=["image"]), r"it gave a ToolResult with parts \['image'\], wanted tuple"),
        (ToolResult("", parts=None), "it gave a ToolResult with parts None, wanted tuple"),
        (ToolResult("", parts=({"image": object()},)), "object"),
        (ToolResult("", reveals="dice"), "it gave a ToolResult with reveals 'dice', wanted tuple"),
    ],
)
async def test_what_is_no_answer_of_a_tool_is_its_fault(wrong, told):
    """It is told at the tool, not where the turn would break on it."""

    async def run(invocation):
        return wrong

    registry = Registry()
    broken = Tool(name="broken", description="", parameters={}, run=run)
    registry.add([Contribution("tool", "broken", broken, Provenance("weather", "chatcore-weather", "1.2"))])
    with pytest.raises(TypeError, match=told):
        await registry.tools()["broken"].run(INVOCATION)


async def test_an_answer_with_half_characters_can_be_kept():
    """Such as the name of a file that is no UTF-8. What is text stays as it is."""
    registry = Registry()
    listed = tool("listed", "caf\udce9 \N{PARTY POPPER}")
    registry.add([Contribution("tool", "listed", listed, Provenance("files", "chatcore-files", "1"))])
    assert await registry.tools()["listed"].run(INVOCATION) == ToolResult("caf? \N{PARTY POPPER}")
