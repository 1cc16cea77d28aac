"""What plugins give is compared with its protocol: what certainly cannot work is refused, nothing else."""

import asyncio
import functools
import re
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from chatcore.config import Config, Loaded
from chatcore.database import Database
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.plugins import Plugins
from chatcore.plugins.fit import misfit
from chatcore.protocols import (
    Account,
    Authenticator,
    BlobStore,
    Form,
    Health,
    Lifespan,
    OAuth,
    Provider,
    SignedIn,
    ToolSource,
)
from chatcore.tools import Tool, ToolResult
from chatcore.types import Finish, Principal, TextDelta

ANA = Principal("ana")


class Door:
    """A good authenticator."""

    name = "door"

    async def authenticate(self, credentials):
        return ANA


class Model:
    """A good provider."""

    name = "model"
    open = False
    default_model = "model"

    def health(self):
        return Health()

    async def models(self):
        return []

    async def stream(self, request):
        yield [TextDelta("hello"), Finish("stop")]


class Files:
    """A good blob store."""

    name = "files"

    async def put(self, blob, data): ...

    async def get(self, key): ...

    async def url(self, key, expires): ...

    async def delete(self, key): ...


class Source:
    """A good tool source."""

    name = "source"

    def tools(self):
        return []


def made(base, **members):
    """A value like one of those, with other members."""
    return type(base.__name__, (base,), members)()


def plain(function):
    """A decorator that says nothing of what it decorates."""

    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def named(function):
    """A decorator whose result has the name and the annotations of what it decorates."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


# --- what cannot work -------------------------------------------------------------------------------------------------


def gives_a_principal(self, credentials) -> Principal:
    return Principal("ana")


def is_annotated(self, credentials) -> Principal | None:
    return self.principal


def yields(self, credentials):
    yield ANA


async def yields_and_is_async(self, credentials):
    yield ANA


async def is_a_coroutine(self, *_):
    return []


def yields_lists(self, request):
    yield []


def takes_a_name(self):
    return "name"


async def two_keys(self, one, two): ...


AWAITED = "it is awaited: write 'async def {}', without 'yield'"
ITERATED = "it is to give an async iterator: write 'async def {}' with 'yield' in it"


@pytest.mark.parametrize(
    ("wanted", "base", "member", "value", "told"),
    [
        (Authenticator, Door, "authenticate", is_annotated, AWAITED),
        (Authenticator, Door, "authenticate", yields, AWAITED),
        (Authenticator, Door, "authenticate", yields_and_is_async, AWAITED),
        (Authenticator, Door, "authenticate", two_keys, "its arguments are (one, two), wanted (credentials)"),
        (Authenticator, Door, "authenticate", "ana", "it is 'ana', wanted a method"),
        (Authenticator, Door, "authenticate", None, "it is None, wanted a method"),
        (Authenticator, Door, "active", True, "it is True, wanted a method"),
        (Provider, Model, "models", two_keys, "its arguments are (one, two), wanted ()"),
        (Provider, Model, "health", is_a_coroutine, "it is not awaited: write 'def {}'"),
        (Provider, Model, "stream", is_a_coroutine, ITERATED),
        (Provider, Model, "stream", yields_lists, ITERATED),
        (Provider, Model, "open", takes_a_name, "it is a value, not a method: write @property above it"),
        (BlobStore, Files, "delete", yields, AWAITED),
        (ToolSource, Source, "tools", is_a_coroutine, "it is not awaited: write 'def {}'"),
    ],
)
def test_what_cannot_work_is_refused(wanted, base, member, value, told):
    """With class, method, file and remedy."""
    place, name = "", ""
    if callable(value):
        place, name = f", {__file__}:{value.__code__.co_firstlineno}", value.__name__
    assert misfit(made(base, **{member: value}), wanted) == f"{base.__name__}.{member}{place}: {told.format(name)}"


class Inherits(BlobStore):
    """Forgets nearly everything; the protocol itself does nothing."""

    name = "inherits"
    url = None


class Empty:
    """Has some of a provider."""

    name = "empty"

    def health(self):
        return Health()


def test_what_is_missing_is_named():
    """Of what has something of it; a class is none of its own objects."""
    assert misfit(Empty(), Provider) == "Empty is no Provider: it has no open, default_model, models, stream"
    assert misfit(Inherits(), BlobStore) == "Inherits.url: it is None, wanted a method"
    assert misfit(5, Provider) == "int is no Provider"
    assert misfit(Door, Authenticator) == "type is no Authenticator"


# --- what may work ----------------------------------------------------------------------------------------------------


class Proxy:
    """Hands everything on."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


class Anything:
    """Says yes to every question, also to those that Python asks."""

    def __getattr__(self, name):
        return Anything()

    def __call__(self, *args, **kwargs):
        return Anything()


class Asks:
    """An object that can be called, and gives something to be awaited."""

    async def __call__(self, credentials):
        return ANA


def hands_on(self, credentials):
    return Door().authenticate(credentials)


def hands_on_or_raises(self, credentials):
    if not credentials:
        raise LookupError
    else:
        with self.span:
            return hands_on(self, credentials)


def raises(self, credentials):
    raise LookupError


def gives_a_future(self, credentials):
    def inner():
        return 5

    return asyncio.ensure_future(Door().authenticate(inner()))


def is_annotated_well(self, credentials) -> Awaitable[Principal | None]:
    return self.asked


def is_annotated_oddly(self, credentials) -> "Nowhere":  # noqa: F821
    return self.asked


@types.coroutine
def is_of_old(self, credentials):
    yield


@named
async def keeps_its_annotation(self, credentials) -> Principal | None:
    return ANA


def hands_on_a_stream(self, request) -> AsyncIterator[list]:
    return self.upstream(request)


def hands_on_a_generator(self, request) -> AsyncGenerator[list, None]:
    return self.upstream(request)


class Lazy(Model):
    """Knows its default model only later."""

    @functools.cached_property
    def default_model(self):
        raise AssertionError("nobody is to ask for it yet")


@pytest.mark.parametrize(
    ("wanted", "value"),
    [
        (Authenticator, Door()),
        (Authenticator, Proxy(Door())),
        (Authenticator, Anything()),
        (Authenticator, Mock(spec=Door())),
        (Authenticator, MagicMock()),
        (Authenticator, AsyncMock(name="door")),
        *(
            (Authenticator, made(Door, authenticate=function))
            for function in (
                hands_on,
                hands_on_or_raises,
                raises,
                gives_a_future,
                is_annotated_well,
                is_annotated_oddly,
                is_of_old,
                keeps_its_annotation,
                plain(Door.authenticate),
                staticmethod(functools.partial(gives_a_principal, None)),
                Asks(),
                lambda self, credentials: Door().authenticate(credentials),
            )
        ),
        (Authenticator, made(Door, active=None)),
        (Provider, Model()),
        (Provider, Proxy(Model())),
        (Provider, Lazy()),
        (Provider, made(Model, generation=None)),
        (Provider, made(Model, stream=hands_on_a_stream)),
        (Provider, made(Model, stream=hands_on_a_generator)),
        (BlobStore, Files()),
        (ToolSource, Source()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_work_is_taken(wanted, value):
    """Whatever it is: only a call would tell."""
    assert misfit(value, wanted) == ""


# --- values with functions in them ------------------------------------------------------------------------------------


@asynccontextmanager
async def opened():
    yield


async def not_decorated():
    yield


def answers(invocation) -> ToolResult:
    return ToolResult("7")


async def subject(token):
    return "ana"


async def signs_in(typed):
    return SignedIn(document={})


def oauth(**fields):
    url = "https://mail.example"
    return OAuth(authorize_url=url, token_url=url, client_id="c", **fields)


def account(way):
    return Account(name="mail", title="Mail", sign_in=way)


CONTEXT = "it is to give an async context manager: write @asynccontextmanager above 'async def {}'"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Lifespan("open", opened), ""),
        (Lifespan("open", functools.partial(opened)), ""),
        (Lifespan("open", asyncio.Lock), ""),
        (Lifespan("open", not_decorated), CONTEXT.format("not_decorated")),
        (Lifespan("open", Door), CONTEXT.format("Door")),
        (Lifespan("open", opened()), r"its arguments are \(func\), wanted \(\)"),
        (Lifespan("open", None), "Lifespan.run: it is None, wanted a method"),
        (Tool("dice", "Rolls.", {}, answers), "Tool.run, .*: it is awaited: write 'async def answers'"),
        (account(oauth()), ""),
        (account(oauth(subject=subject)), ""),
        (account(oauth(subject=answers)), "Account.sign_in.subject, .*: it is awaited: write 'async def answers'"),
        (account(Form(fields=(), sign_in=signs_in)), ""),
        (
            account(Form(fields=(), sign_in=not_decorated)),
            "Account.sign_in.sign_in, .*: it is awaited: write 'async def not_decorated'",
        ),
        (account({}), "Account.sign_in: it is {}, wanted OAuth or Form"),
    ],
)
def test_the_functions_in_a_value_are_looked_at_too(value, told):
    """As its class declares them."""
    said = misfit(value, type(value))
    assert bool(said) == bool(told), said
    assert re.search(told, said), said


# --- in a server ------------------------------------------------------------------------------------------------------


class Sync(Plugin[NoSettings]):
    """Has an authenticator that cannot work."""

    @hookimpl
    def register_auth(self):
        yield made(Door, authenticate=gives_a_principal)


def test_a_plugin_that_gives_what_cannot_work_has_failed(tmp_path):
    """Before the first request, with nothing left of it."""
    loaded = Loaded(config=Config(data=tmp_path))
    plugins = Plugins.load(loaded, Database(str(tmp_path / "db")), given=[("sync", Sync)], discover=False)
    (row,) = plugins.rows
    assert row.state == "failed"
    assert re.fullmatch(r"register_auth: Door.authenticate, .*test_fit.py:\d+: it is awaited: .*", row.reason)
    assert not plugins.registry.authenticators


class Iterator:
    """The events of an answer, not as a generator: it cannot be closed."""

    def __init__(self):
        self._batches = iter([[TextDelta("hello")], [Finish("stop")]])

    def __aiter__(self):
        return self

    async def __anext__(self):
        for batch in self._batches:
            return batch
        raise StopAsyncIteration


async def test_a_provider_may_give_any_asynchronous_iterator(make_chat):
    """That is what its protocol says."""

    class Iterating(Plugin[NoSettings]):
        @hookimpl
        def register_providers(self):
            yield made(Model, stream=lambda self, request: Iterator())

    chat = await make_chat(Iterating)
    reply = await chat.say("hello", model="model")
    assert reply.text == "hello"
    assert not reply.named("error")
