"""`OpenAIProvider`: a provider for every server that speaks the OpenAI chat format.

By `base_url` alone it serves llama-server, vLLM, Ollama, LM Studio and their like. Where a server differs, a subclass
overrides `payload`, `headers`, `parse_error`, `model_from` or `routing_headers`:

    class Gateway(OpenAIProvider):
        def payload(self, request):
            return super().payload(request) | {"safe_prompt": True}

A plugin yields an instance from `register_providers` and, so that it is closed with the server, its session from
`register_lifespans`: `Lifespan(provider.name, provider.session)`. Without that it works too, until `aclose`.
"""

import asyncio
import logging
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast
from urllib.parse import urlsplit

import msgspec

from chatcore import wire
from chatcore.errors import ConfigError, ProviderError, ProviderRefused, ProviderUnavailable, StreamBroken
from chatcore.http import Timeouts, content, failures, make_client, reason_of, remedy_of
from chatcore.kept import CLOSED, Kept
from chatcore.openai.chunks import ChunkReader
from chatcore.openai.failure import UNREADABLE, Failure, failure_of_response
from chatcore.openai.payload import message_json, tool_json
from chatcore.protocols import Health
from chatcore.secrets import Secret
from chatcore.tools import JsonObject
from chatcore.types import Model, ModelEvent, ModelRequest

if TYPE_CHECKING:
    import httpx


logger = logging.getLogger(__name__)

WARM_UP = 1.0
"""Seconds after the start at which the HTTP libraries are imported. Earlier it would hold up the server's start."""

FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0
"""Seconds before the first retry, doubled for each further one; and the longest that a server may ask to wait."""

LINGER = 1.0
"""Seconds for which the end of a body is awaited after `[DONE]`, so that its connection can be used again."""

_LARGEST_ERROR = 2**16
_LARGEST_DOCUMENT = 64 * 2**20
_RETRYABLE = frozenset({408, 409, 425, 429})  # and everything from 500 on
_STREAM = (b"data:", b"event:", b":")
"""How event streams begin of servers that do not say that it is one (https://github.com/nearai/private-ml-sdk/pull/20)."""
_UNASKED = frozenset({"stream_options", "reasoning", "reasoning_content", "reasoning_details", "annotations", "images"})
"""What not every server knows. Mistral's, Groq's and some of Azure's refuse a request with it
(https://github.com/openai/openai-agents-python/issues/442, https://github.com/tashfeenahmed/freellmapi/issues/1070)."""
_UNKNOWN = re.compile("not permitted|extra_forbidden|unsupported|unrecognized|unknown|unexpected", re.IGNORECASE)
_FIELD = re.compile(r"(?:['\"`/.]|supplied: )(\w+)")
_TOOL_WORDS = ("tools", "tool_choice", "parallel_tool_calls", "tool_calls", "functions", "function_calling")
_HINTS = {
    401: "Check the API key.",
    402: "The account has no credit left, or its key has reached its limit.",
    404: "Check the model's id, and the base URL.",
}


class OpenAIProvider:
    """Runs models on a server that speaks the OpenAI chat format.

    Args:
        name: the provider's name. The public id of a model is `NAME/<the server's id>`, or, where the provider is
            `open`, the server's id as it is.
        base_url: what `/chat/completions` and `/models` are appended to. It mostly ends in `/v1`.
        api_key: sent as a bearer token.
        extra_headers: sent with every request.
        default_model: the model to use where nobody named one, with or without `NAME/`.
        open: also serves the ids that no provider claims, as a gateway does.
        timeouts: see `Timeouts`.
        retries: how often a call is tried again that failed before its answer had begun.
        catalogue_ttl: seconds for which the list of models is kept. While the server is down an older one is given.

    Raises:
        ConfigError: `base_url` is not an HTTP URL, or a header cannot be sent.
    """

    routing_headers: ClassVar[tuple[str, ...]] = ("x-request-id", "via")
    """Override point: how the names of those response headers begin that go into `Finish.routing`. Lower case."""

    def __init__(  # noqa: PLR0913  the options of one server, all by keyword
        self,
        *,
        name: str,
        base_url: str,
        api_key: Secret | None = None,
        extra_headers: Mapping[str, str] | None = None,
        default_model: str | None = None,
        open: bool = False,  # noqa: A002  the protocol's name for it
        timeouts: Timeouts | None = None,
        retries: int = 2,
        catalogue_ttl: float = 60.0,
    ) -> None:
        self.name = name
        self.open = open
        self.base_url = _checked(base_url, name)
        self.default_model = default_model and self._known_as(default_model)
        self.timeouts = timeouts or Timeouts()
        self._api_key = api_key
        self._extra_headers = dict(extra_headers or {})
        _check_headers(OpenAIProvider.headers(self), name)
        self._retries = retries
        self._catalogue = Kept(f"the list of models of {name}", self._fetch_models, ttl=catalogue_ttl)
        self._client: httpx.AsyncClient | None = None
        self._making_client = asyncio.Lock()
        self._answers: set[httpx.Response] = set()
        self._closed = False
        self._refused: set[str] = set()  # of what is sent without being asked for

    # --- the protocol of a provider ---

    def health(self) -> Health:
        """Always ready: a server that is down says so when it is called."""
        return Health()

    async def models(self) -> Sequence[Model]:
        """The server's models, at most `catalogue_ttl` old, or the last ones known if it cannot be reached.

        Raises:
            ProviderError: they cannot be had, and never could.
        """
        return await self._catalogue.get()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One call of a model. Tried again only as long as nothing of the answer has come.

        Raises:
            ProviderRefused: the server said no.
            ProviderUnavailable: it could not be reached, or is too busy, and nothing of the answer has come.
            StreamBroken: the answer broke off, has an error in it, or cannot be read.
        """
        for attempt in count():
            reader = ChunkReader(first_call=_calls(request), provider=self.name)
            payload = self.payload(request)
            try:
                async with self._asked(wire.dumps(payload), reader) as response:
                    head = dict(response.headers.items())
                    read, pieces = await self._incoming(response, head, reader)
                    async for data in pieces:
                        if events := read(data):
                            yield events
                        if reader.ended:
                            break
                if ending := self._ending(response, head, reader):
                    yield ending
                return
            except (ProviderRefused, ProviderUnavailable) as error:  # raised only before the first event
                delay = self._until_next(error, attempt, payload, request)
                if delay is None:
                    raise
                logger.warning("%s; trying again in %.1f s", error, delay)
            await asyncio.sleep(delay)

    # --- its life ---

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        """The provider's time from the server's start to its stop, for `register_lifespans`."""
        self._closed = False
        warming_up = asyncio.create_task(self._warm_up())
        try:
            yield self
        finally:
            warming_up.cancel()
            await self.aclose()

    async def aclose(self) -> None:
        """Closes the connections. Answers that are still coming break off."""
        self._closed = True
        self._catalogue.close()
        for response in tuple(self._answers):  # aiohttp leaves a read waiting whose session is closed
            await response.aclose()
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    # --- what a subclass may override ---

    def payload(self, request: ModelRequest) -> dict[str, Any]:
        """Override point: the body of a call. The request's parameters go as they are, its tools after theirs."""
        model = self.default_model if request.model == self.name else request.model
        asking = {} if "stream_options" in self._refused else {"stream_options": {"include_usage": True}}
        payload: dict[str, Any] = {**asking, **request.parameters}
        if model:
            payload["model"] = self.upstream_id(model)
        if request.tools:
            payload["tools"] = [*(request.parameters.get("tools") or ()), *map(tool_json, request.tools)]
        payload["messages"] = [message_json(message, self.name, self._refused) for message in request.messages]
        payload["stream"] = True
        return payload

    def headers(self) -> dict[str, str]:
        """Override point: the headers of every request. Asked for each time."""
        if self._api_key is None:
            return dict(self._extra_headers)
        return {"authorization": f"Bearer {self._api_key.reveal()}", **self._extra_headers}

    def parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """Override point: the error that an answer with an error status means. `headers` are case-insensitive."""
        return self._error(failure_of_response(status, headers, body))

    def model_from(self, info: JsonObject) -> Model:
        """Override point: the model that an entry of the server's list describes."""
        lengths = (info.get(key) for key in ("context_length", "max_model_len", "max_context_length"))
        return Model(
            id=self.public_id(info["id"]),
            name=str(info.get("name") or info["id"]),
            context_length=next((length for length in lengths if isinstance(length, int)), None),
            supports_tools=supports_tools(info),
            info=info,
        )

    # --- what a subclass may use ---

    def public_id(self, model: str) -> str:
        """The id by which the outside knows one of the server's models."""
        return model if self.open else f"{self.name}/{model}"

    def upstream_id(self, model: str) -> str:
        """The server's id for a model that the outside knows by `model`."""
        return model if self.open else model.removeprefix(f"{self.name}/")

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object at a path below the base URL.

        Raises:
            ProviderError: it cannot be had.
        """
        response = await self._send("GET", path, params=params)
        body = await self._body(response)
        try:
            return msgspec.json.decode(body, type=dict[str, Any])
        except (ValueError, RecursionError) as error:
            raise self._unexpected(response, str(error)) from error

    # --- one call ---

    def _until_next(
        self, error: ProviderError, attempt: int, payload: Mapping[str, Any], request: ModelRequest
    ) -> float | None:
        """Seconds until a call is tried again; None if it is not to be. What was refused of it is noted."""
        if isinstance(error, ProviderUnavailable):
            return _delay(error, attempt, self._retries)
        if error.upstream_status not in (400, 422) or not _UNKNOWN.search(error.message) or attempt >= len(_UNASKED):
            return None
        sent = set(payload).union(*(payload.get("messages") or ())) - request.parameters.keys()
        refused = sent & _UNASKED & set(_FIELD.findall(error.message))
        self._refused |= refused
        return 0.0 if refused else None

    @asynccontextmanager
    async def _asked(self, body: bytes, reader: ChunkReader) -> AsyncIterator["httpx.Response"]:
        """The response to a call, for `reader` to read. What it breaks off with is an error of ours."""
        response = await self._send("POST", "chat/completions", body=body, accept="text/event-stream")
        del body  # it may be large, and the answer may take long
        self._answers.add(response)
        try:
            async with aclosing(response):
                yield response
                if reader.done:
                    await _drain(response)
        except failures() as error:
            if not reader.begun:
                raise self._unavailable(error) from error
            if not reader.complete:
                message = f"{self.name}: the answer broke off: {reason_of(error)}"
                raise StreamBroken(message, kind="timeout" if _timed_out(error) else "cut_off") from error
        finally:
            self._answers.discard(response)

    async def _incoming(
        self, response: "httpx.Response", head: Mapping[str, str], reader: ChunkReader
    ) -> tuple[Callable[[bytes], Sequence[ModelEvent]], AsyncIterator[bytes]]:
        """What reads a body, and the pieces of the body."""
        pieces = _pieces(response, head)
        if not _is_event_stream(head):
            first = await anext(pieces, b"")
            pieces = _with_first(first, pieces)
            if not first.lstrip().startswith(_STREAM):
                return reader.read_whole, _alone(await self._body(response, pieces=pieces))
        return reader.feed, pieces

    def _ending(self, response: "httpx.Response", head: Mapping[str, str], reader: ChunkReader) -> Sequence[ModelEvent]:
        """What is to be said when a body has ended.

        Raises:
            ProviderError: it ended in an error, or there was nothing in it that could be read.
        """
        reader.close()
        if reader.failure is None:
            if not (reader.begun or reader.complete):
                raise ProviderUnavailable(f"{self.name} ended its answer before it had begun", kind="cut_off")
            return reader.finish(head.get("x-generation-id"), self._routing(head), self._known_as)
        if reader.failure.kind == UNREADABLE and not (reader.begun or _is_event_stream(head)):
            raise self._unexpected(response, reader.failure.message)
        raise self._error(reader.failure, begun=reader.begun)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        accept: str = "application/json",
    ) -> "httpx.Response":
        """Sends a request and gives the response, if it is a success; its body has not been read yet."""
        headers = {"accept": accept, **self.headers()}
        sent = None if body is None else content(body)
        if body is not None:
            headers["content-type"] = "application/json"
            if sent is not body:
                headers["content-length"] = str(len(body))
        try:
            client = self._client or await self._connected()
            request = client.build_request(method, path, params=params, headers=headers, content=sent)
            # The transport's own limits do not cover a server that does not read the request.
            async with asyncio.timeout(self.timeouts.connect + self.timeouts.first_byte):
                response = await client.send(request, stream=True)
        except failures() as error:
            raise self._unavailable(error) from error
        if response.is_success:
            return response
        text = b""
        with suppress(ProviderUnavailable):  # the status says enough
            text = await self._body(response, _LARGEST_ERROR)
        raise self.parse_error(response.status_code, response.headers, text)

    async def _body(
        self, response: "httpx.Response", limit: int = _LARGEST_DOCUMENT, pieces: AsyncIterator[bytes] | None = None
    ) -> bytes:
        """The body of a response, cut at a limit."""
        body: list[bytes] = []
        try:
            async with aclosing(response), asyncio.timeout(self.timeouts.first_byte):
                async for data in pieces or response.aiter_bytes():
                    body.append(data)
                    limit -= len(data)
                    if limit <= 0:
                        break
        except failures() as error:
            raise self._unavailable(error) from error
        return b"".join(body)

    async def _connected(self) -> "httpx.AsyncClient":
        """The client, made when it is first needed."""
        async with self._making_client:
            self._check_open()
            if self._client is None:
                client = await asyncio.to_thread(make_client, base_url=self.base_url, timeouts=self.timeouts)
                try:
                    self._check_open()
                except ProviderUnavailable:
                    await client.aclose()
                    raise
                self._client = client
            return self._client

    def _check_open(self) -> None:
        if self._closed:
            raise ProviderUnavailable(f"{self.name} is closed", kind="closed", hint=CLOSED)

    async def _warm_up(self) -> None:
        await asyncio.sleep(WARM_UP)
        with suppress(ConfigError):  # who needs it is told
            await self._connected()

    async def _fetch_models(self) -> tuple[Model, ...]:
        entries = (await self.get("models")).get("data")
        if not isinstance(entries, list):
            raise ProviderRefused(f"{self.name}: its list of models has no 'data'", kind=UNREADABLE)
        return tuple(
            self.model_from(info) for info in entries if isinstance(info, dict) and isinstance(info.get("id"), str)
        )

    def _known_as(self, model: str) -> str:
        # Some servers are told to name a model as chatcore does.
        return self.public_id(self.upstream_id(model))

    def _routing(self, head: Mapping[str, str]) -> JsonObject | None:
        return {key: value for key, value in head.items() if key.startswith(self.routing_headers)} or None

    # --- its errors ---

    def _error(self, failure: Failure, *, begun: bool = False) -> ProviderError:
        status = failure.status
        kind: type[ProviderError] = ProviderRefused
        if begun or status is None:
            kind = StreamBroken
        elif status in _RETRYABLE or status >= 500:
            kind = ProviderUnavailable
        return kind(
            f"{self.name}: {failure.message}",
            upstream_status=status,
            kind=failure.kind,
            details=failure.details,
            retry_after=failure.retry_after,
            hint=_HINTS.get(status or 0),
        )

    def _unavailable(self, error: Exception) -> ProviderUnavailable:
        if _timed_out(error):
            return ProviderUnavailable(f"{self.name} did not answer in time", kind="timeout")
        return ProviderUnavailable(
            f"{self.name} cannot be reached: {reason_of(error)}",
            kind="unreachable",
            hint=remedy_of(error, self.base_url) or f"Is the server at {self.base_url} running?",
        )

    def _unexpected(self, response: "httpx.Response", why: str) -> ProviderRefused:
        media_type = response.headers.get("content-type", "a body of no type")
        return ProviderRefused(
            f"{self.name} answered with {media_type} where something else was expected: {why}",
            upstream_status=response.status_code,
            kind=UNREADABLE,
            hint=f"Check the base URL, {self.base_url}: it mostly ends in /v1.",
        )


def supports_tools(info: JsonObject) -> bool | None:
    """Whether a model's entry says that it can call tools; None if it says nothing about it."""
    said = [info[key] for key in ("tools", "functions", "supports_tools", "supports_functions") if key in info]
    capabilities = info.get("capabilities")
    if isinstance(capabilities, Mapping):
        said += [capabilities[key] for key in _TOOL_WORDS if key in capabilities]
    for words in (capabilities, info.get("supported_parameters")):
        if isinstance(words, list):
            said.append(any(word in _TOOL_WORDS for word in words))
    return any(said) if said else None


def _checked(base_url: str, name: str) -> str:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and parts.username is None and parts.port != 0
        usable = usable and parts.hostname is not None and not re.search(r"[\s%]|^$", parts.hostname)
        usable = usable and not re.search(r"[\s?#]", base_url)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"the base URL of {name} cannot be used: {base_url!r}",
            hint="Write it as http://host:port/v1 or https://host/v1, without a user name in it.",
        )
    return base_url


def _check_headers(headers: Mapping[str, str], name: str) -> None:
    for header, value in headers.items():
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"the header {header} of {name} cannot be sent",
                hint="It has a line break or a letter that is not ASCII in it. Was a key copied with something else?",
            )


# --- reading responses ------------------------------------------------------------------------------------------------


def _calls(request: ModelRequest) -> int:
    """How many tool calls there were in the conversation."""
    return sum(len(message.tool_calls) for message in request.messages)


def _is_event_stream(head: Mapping[str, str]) -> bool:
    return head.get("content-type", "").lower().startswith("text/event-stream")


def _pieces(response: "httpx.Response", head: Mapping[str, str]) -> AsyncIterator[bytes]:
    # As they come is cheaper for each read; a server that compresses although it was not asked to gets a decoder.
    plain = head.get("content-encoding", "identity").lower() == "identity"
    return aiter(cast("httpx.AsyncByteStream", response.stream) if plain else response.aiter_bytes())


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data


async def _alone(body: bytes) -> AsyncIterator[bytes]:
    yield body


async def _drain(response: "httpx.Response") -> None:
    """Reads on to the end of a body, so that its connection can be used again."""
    with suppress(*failures()):
        async with asyncio.timeout(LINGER):
            async for _ in cast("httpx.AsyncByteStream", response.stream):
                pass


def _timed_out(error: BaseException) -> bool:
    return isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError)


def _delay(error: ProviderUnavailable, attempt: int, retries: int) -> float | None:
    """Seconds until the next try; None if there is to be none."""
    # Who has waited until a time-out is not to wait as long again.
    if attempt >= retries or error.kind in ("timeout", "closed"):
        return None
    if error.retry_after is not None:
        return error.retry_after if error.retry_after <= LONGEST_DELAY else None
    return FIRST_DELAY * (1 << attempt) * random.uniform(0.5, 1.0)  # noqa: S311  spreads retries; not a secret
