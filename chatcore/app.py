"""The application: the parts of a server, put together once and handed down."""

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Collection, Coroutine, Sequence
from functools import partial
from typing import Any

from quart import Quart, Response, g, has_request_context, request, websocket
from quart.typing import ResponseTypes
from quart.wrappers import BaseRequestWebsocket
from werkzeug.exceptions import HTTPException, InternalServerError, MethodNotAllowed

from chatcore import logs, wire
from chatcore.access import Access
from chatcore.attachments import Attachments
from chatcore.builtin import BUILTINS
from chatcore.config import Config, Loaded
from chatcore.database import Conversations, Database, Documents, RecentDocuments
from chatcore.errors import (
    ChatcoreError,
    ConfigError,
    DatabaseUnavailable,
    NotFound,
    Overloaded,
    Problem,
    ProviderError,
    ValidationFailed,
)
from chatcore.hooks import Plugin
from chatcore.openapi import Violation
from chatcore.operation.published import keep_publishing
from chatcore.operation.watchdog import Watchdog
from chatcore.plugins import Plugins
from chatcore.plugins.lifespans import Lifespans
from chatcore.requests import bound
from chatcore.routing import Rule
from chatcore.runs.runs import Runs
from chatcore.state import State
from chatcore.streams import Streams
from chatcore.worker import Presence

logger = logging.getLogger(__name__)


def create_app(
    loaded: Loaded,
    *,
    plugins: Sequence[tuple[str, type[Plugin[Any]]]] = (),
    discover: bool = True,
    slot: int = 1,
) -> Quart:
    """The application for a configuration. Nothing is open before `opened`, which `server.served` enters.

    Args:
        loaded: the configuration, as `config.load` gives it.
        plugins: named plugin classes to load beside the built-in ones.
        discover: whether plugins are looked for among the installed distributions and in `plugins_dir`.
        slot: the number of this worker, as in `State`.

    Raises:
        ConfigError: the configured blob store is not there.
        PluginError: two plugins contribute the same name; with `strict`, any plugin that is off or has failed.
    """
    config = loaded.config
    app = Quart("chatcore", static_folder=None)
    app.url_rule_class = Rule
    app.config["MAX_CONTENT_LENGTH"] = config.max_body
    app.config["BODY_TIMEOUT"] = config.body_timeout
    bound(app, config.max_body)
    app.url_map.strict_slashes = False
    database = Database(config.database_url, durability=config.durability)
    loading = Plugins.load(loaded, database, builtins=BUILTINS, given=plugins, discover=discover)
    _check_blob_store(config, loading.registry.blob_stores)
    attachments = Attachments.of(database, lambda: loading.registry.blob_stores[config.blob_store], config.image_hosts)
    state = State(
        config=config,
        registry=loading.registry,
        plugins=loading,
        database=database,
        conversations=Conversations(database),
        attachments=attachments,
        documents=RecentDocuments(Documents(database)),
        runs=Runs(database, loading, attachments, strict=config.durability == "strict"),
        streams=Streams(config.max_streams),
        access=Access(config, lambda: loading.registry.authenticators),
        lifespans=Lifespans(strict=config.strict),
        watchdog=Watchdog(lambda: loading.rows),
        slot=slot,
    )
    app.extensions["chatcore"] = state
    for contribution in state.registry.of("blueprint"):
        app.register_blueprint(contribution.value)
    _install(app, state)
    return app


def _check_blob_store(config: Config, there_are: Collection[str]) -> None:
    if config.blob_store not in there_are:
        raise ConfigError(
            f"there is no blob store {config.blob_store!r}; there are: {', '.join(there_are) or 'none'}",
            hint="set blob_store",
        )


def _install(app: Quart, state: State) -> None:
    """Everything that happens around a view."""

    async def enter(incoming: BaseRequestWebsocket) -> None:
        logs.place.set(logs.Place(request=secrets.token_hex(6)))
        if not (blueprints := incoming.blueprints):
            return
        owner = state.registry.find("blueprint", blueprints[-1])  # the one that the plugin gave
        if owner is None:
            raise NotFound("the plugin of this route was taken out")
        g.owner = owner.provenance.plugin
        g.call = state.registry.calls.charge(g.owner, f"route {incoming.endpoint}")
        g.call.__enter__()

    async def account(error: BaseException | None) -> None:
        if call := g.pop("call", None):
            call.__exit__(type(error) if error else None, error, error and error.__traceback__)

    @app.after_request
    async def leave(response: ResponseTypes) -> ResponseTypes:
        try:
            response = state.streams.tame(response, f"plugin {g.get('owner', 'unknown')}, route {request.endpoint}")
        except Overloaded as error:
            response = error_response(error)
        state.answered.add(str(response.status_code))
        return response

    app.before_request(partial(enter, request))
    app.before_websocket(partial(enter, websocket))
    app.teardown_request(account)
    app.teardown_websocket(account)
    state.access.install(app)
    app.register_error_handler(ChatcoreError, _chatcore_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected)


@contextlib.asynccontextmanager
async def opened(app: Quart) -> AsyncIterator[None]:
    """What an app needs while it serves: the database, the runs, the plugins' lifespans. Closed the other way round.

    Raises:
        ConfigError: it would serve everybody who can reach it, or the plugin with the blob store could not migrate.
        DatabaseError: the database cannot be opened.
        PluginError: with `strict`, the migrations or a lifespan of a plugin failed.
    """
    state: State = app.extensions["chatcore"]
    async with contextlib.AsyncExitStack() as stack:
        presence = Presence(state.config.data / "workers")
        stack.callback(presence.leave)
        unmigrated = await state.database.open(state.plugins.migrations())
        stack.push_async_callback(state.database.close)
        stack.push_async_callback(state.plugins.accounts.close)
        for name, error in unmigrated.items():
            await state.plugins.unload(name, error=error)
        state.plugins.raise_failures()
        _check_blob_store(state.config, state.registry.blob_stores)
        await state.access.check_binding()
        state.runs.join(presence.worker)
        await state.runs.upkeep.clean_up(presence)
        retention = state.config.log_retention * 3600
        await stack.enter_async_context(_beside("upkeep", state.runs.upkeep.keep(presence, retention=retention)))
        stack.push_async_callback(state.lifespans.stop)
        await state.lifespans.start(state.registry.of("lifespan"))
        if state.config.workers > 1:
            publishing = keep_publishing(state, presence.directory, presence.worker)
            await stack.enter_async_context(_beside("publishing", publishing))
        await stack.enter_async_context(state.watchdog)
        stack.push_async_callback(state.lifespans.stop)  # now, while it is seen who blocks; above, if one does not open
        yield


@contextlib.asynccontextmanager
async def _beside(name: str, work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Has something done while the context is open. Should it fail, that is told at once."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_tell_failure)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.critical("%s has failed, and is not done any more until a restart", task.get_name(), exc_info=error)


# --- errors -----------------------------------------------------------------------------------------------------------


def error_response(error: ChatcoreError) -> Response:
    """An error as clients read it: `detail`, with `code` and `hint` beside it."""
    if error.told != error.message:
        logger.error("%s failed: %s", _asked(), error.in_full)
    detail: Any = [_violation(p) for p in error.problems] if isinstance(error, ValidationFailed) else error.told
    status = error.told_status if isinstance(error, ProviderError) else error.status
    response = _json({"detail": detail, "code": error.code, "hint": error.told_hint}, status)
    if isinstance(error, Overloaded | DatabaseUnavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _violation(problem: Problem) -> Violation:
    """One wrong path in the form that the clients know: `loc` is the path in pieces."""
    pieces = re.findall(r"\[('.*?'|\".*?\")\]|([^.\[\]]+)", problem.path.removeprefix("$"))
    loc = [quoted[1:-1] if quoted else int(plain) if plain.isdecimal() else plain for quoted, plain in pieces]
    loc = loc if loc[:1] == ["query"] else ["body", *loc]
    return Violation("value_error", tuple(loc), problem.message, problem.path)


# Coroutine functions: Quart calls any other in a thread, for which an error would have to wait.


async def _chatcore_error(error: ChatcoreError) -> Response:
    return error_response(error)


_INTERNAL = {"detail": "The request failed for a reason that is in the server's log.", "code": "internal"}


async def _http_error(error: HTTPException) -> Response:
    """What Quart itself refuses: an unknown route, a wrong method, a body over the limit."""
    if isinstance(error, InternalServerError) and (original := error.original_exception):
        # Of a view whose answer is none, for one. Quart has logged where.
        logger.error("%s failed: %s: %s", _asked(), type(original).__name__, original)
        return _json(_INTERNAL, 500)
    status = error.code or 500
    code = (error.name or "error").lower().replace(" ", "_")
    response = _json({"detail": error.description, "code": code}, status)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(error.valid_methods)
    return response


async def _unexpected(error: Exception) -> Response:
    logger.exception("%s failed", _asked(), exc_info=error)
    return _json(_INTERNAL, 500)


def _asked() -> str:
    """What was asked for, and of whom, for the log."""
    incoming = request if has_request_context() else websocket
    owner = g.get("owner")
    return f"{f'plugin {owner}: ' if owner else ''}{incoming.method} {incoming.path}"


def _json(body: dict[str, Any], status: int) -> Response:
    known = {key: value for key, value in body.items() if value is not None}
    return Response(wire.dumps(known), status=status, mimetype="application/json")
