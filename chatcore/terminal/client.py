"""A client of the chat API: one conversation with a server."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import attrs

from chatcore import sse, wire
from chatcore.config import Config
from chatcore.console import printable
from chatcore.errors import ChatcoreError, RequestError, StreamBroken
from chatcore.http import Timeouts, failures, make_client, reason_of, remedy_of
from chatcore.openai.failure import failure_of_response
from chatcore.terminal.frames import Approval, Asked, FrameReader, Note, Part
from chatcore.tools import JsonObject

if TYPE_CHECKING:
    import httpx

TIMEOUTS = Timeouts(connect=5.0, first_byte=60.0, idle=45.0)
"""A server that is alive says something every 15 s."""

RECONNECT = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each try to read on after the connection was lost."""


_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  nothing is bound: where such a server is called
_JSON = {"content-type": "application/json"}
_KINDS = ("application/json", "text/event-stream")
_LONGEST = 200  # characters of what a stranger says
_LONGEST_URL = 2000


@attrs.frozen
class Choice:
    """A model that can be chosen."""

    id: str
    context_length: int | None
    price: float | None
    """US dollars for a million tokens of the prompt."""


class ChatClient:
    """A conversation. `model` is asked for in what is said next; `answered_by` is the one that answered last."""

    def __init__(self, http: "httpx.AsyncClient", model: str | None = None) -> None:
        self.model = model
        self.answered_by: str | None = None
        self._http = http
        self._session_id: str | None = None
        self._run_id: str | None = None
        self._stopped = False

    def forget(self) -> None:
        """Begins a new conversation."""
        self._session_id = None

    async def models(self, search: str = "") -> Sequence[Choice]:
        """The models of the server, or those that have a text in them.

        Raises:
            ChatcoreError: the server cannot be reached, or says no.
        """
        response = await self._request("GET", "/api/models", params={"search": search} if search else {})
        return [
            Choice(entry["id"], entry.get("context_length"), entry.get("prompt_price_per_million"))
            for entry in wire.loads(response.content)["data"]
        ]

    async def stop(self) -> None:
        """Stops the answer that is being given, as soon as it has begun; what there is of it is kept, and its stream
        ends."""
        self._stopped = True
        if self._run_id is not None:
            await self._request("POST", f"/api/chat/runs/{self._run_id}/stop")

    async def decide(self, approval: Approval, *, allow: bool) -> None:
        """Says whether a call of a tool in the answer that is being given may be run.

        Raises:
            ChatcoreError: the call does not wait any more.
        """
        path = f"/api/chat/runs/{self._run_id}/approvals/{quote(approval.call_id)}"
        decision = {"digest": approval.digest, "decision": "approve" if allow else "reject"}
        await self._request("POST", path, content=wire.dumps(decision), headers=_JSON)

    async def answer(self, asked: Asked, action: str, content: JsonObject) -> None:
        """Answers a question of a running tool.

        Raises:
            ChatcoreError: it does not wait any more, or what was filled in is not what it asks for.
        """
        path = f"/api/chat/runs/{self._run_id}/questions/{quote(asked.question_id)}"
        answer = {"digest": asked.digest, "action": action, "content": content}
        await self._request("POST", path, content=wire.dumps(answer), headers=_JSON)

    async def ask(self, text: str, *, can_approve: bool = False) -> AsyncIterator[Part]:
        """Says something and gives the parts of the answer. Reads on where a lost connection left off.

        `can_approve`: among the parts there may be an `Approval`, which `decide` answers, and an `Asked`, which
        `answer` does; otherwise calls that need one are refused, and questions declined.

        Raises:
            ChatcoreError: the server refused, could not be reached, or was lost and did not come back.
        """
        body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "metadata": {"client_id": "cli"}}
        if self.model:
            body["model"] = self.model
        if self._session_id:
            body["session_id"] = self._session_id
        # A connection that is lost is no wish to stop: who wants that says so.
        headers = {**_JSON, "chatcore-on-disconnect": "continue"}
        if can_approve:
            headers["chatcore-approvals"] = "ask"
        answer = FrameReader()
        self._stopped = False
        try:
            async with self._stream("POST", "/api/chat/stream", content=wire.dumps(body), headers=headers) as response:
                self._run_id = response.headers.get("chatcore-run-id")
                if self._stopped:
                    await self.stop()
                async for part in self._parts(answer, response):
                    yield part
            async for part in self._read_on(answer):
                yield part
        finally:
            self._run_id = None
        self.answered_by = answer.model

    async def _read_on(self, answer: FrameReader) -> AsyncIterator[Part]:
        """The rest of an answer whose stream ended too early."""
        tries, read = 0, answer.last
        while not answer.done:
            if tries == len(RECONNECT) or self._run_id is None:
                raise StreamBroken("the connection was lost", hint="the answer goes on; it is in the conversation")
            if tries == 0:
                yield Note("The connection was lost; reading on …")
            await asyncio.sleep(RECONNECT[tries])
            path, params = f"/api/chat/runs/{self._run_id}/events", {"after": str(answer.last)}
            with suppress(_Unreachable):
                async with self._stream("GET", path, params=params) as response:
                    async for part in self._parts(answer, response):
                        yield part
            tries, read = (tries + 1 if answer.last == read else 0), answer.last

    async def _parts(self, answer: FrameReader, response: "httpx.Response") -> AsyncIterator[Part]:
        """The parts of a stream until it ends, however it ends."""
        parser = sse.Parser()
        try:
            async for data in response.aiter_bytes():
                for event in parser.feed(data):
                    for part in answer.read(event):
                        yield part
                if answer.session_id:
                    self._session_id = answer.session_id
                if answer.done:
                    return
        except failures():
            return

    # --- HTTP ---------------------------------------------------------------------------------------------------------

    async def _request(self, method: str, path: str, **fields: Any) -> "httpx.Response":
        async with self._stream(method, path, **fields) as response:
            await response.aread()
            return response

    @asynccontextmanager
    async def _stream(self, method: str, path: str, **fields: Any) -> AsyncIterator["httpx.Response"]:
        try:
            async with self._http.stream(method, path, **fields) as response:
                kind = response.headers.get("content-type", "").partition(";")[0]
                if not response.is_success or kind not in _KINDS:
                    raise _refusal(response, await response.aread())
                yield response
        except failures() as error:
            raise _Unreachable(
                f"{_shown(self._http.base_url)} cannot be reached: {reason_of(error)}",
                hint=remedy_of(error, str(self._http.base_url))
                or "start a server with 'chatcore serve', or leave out --server",
            ) from error


class _Unreachable(ChatcoreError):
    """There is no server, or it does not answer."""


def _refusal(response: "httpx.Response", body: bytes) -> RequestError:
    """The error that the server's answer tells: `{"detail": …, "hint": …}`."""
    try:
        said = wire.loads(body)
    except RequestError:
        said = {}
    match said:
        case {"detail": str(detail)}:
            message = detail
        case {"detail": [*problems]}:
            message = "; ".join(str(problem.get("msg", problem)) for problem in problems)
        case _:
            return _stranger(response, body)
    hint = "give a token with --token or CHATCORE_TOKEN" if response.status_code == 401 else said.get("hint")
    return RequestError(message, hint=hint)


def _stranger(response: "httpx.Response", body: bytes) -> RequestError:
    """The error for an answer that is none of ours, such as the page of a proxy."""
    status, url = response.status_code, _shown(response.url)
    hint = "check the address; between here and there may be a proxy that wants something first"
    if status in (502, 503, 504):
        hint = "a proxy answers for it: see that the server behind that runs, and that it looks at the right port"
    said = printable(failure_of_response(status, response.headers, body).message[:_LONGEST])
    return RequestError(f"what answers at {url} is not chatcore ({said})", hint=hint)


def _shown(url: "httpx.URL") -> str:
    """Where a server is, without the password that may be in its address."""
    return f"{url.scheme}://{url.netloc.decode()}"


@asynccontextmanager
async def connected(url: str, token: str | None, model: str | None) -> AsyncIterator[ChatClient]:
    """A conversation with the server at a URL."""
    if not _is_address(url):
        raise RequestError(
            f"{url[:_LONGEST]!r} is not the address of a server", hint="write it like http://127.0.0.1:8000"
        )
    if token and not (token.isascii() and token.isprintable()):
        raise RequestError("the token has characters that are in no token", hint="see that all of it is copied, alone")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with make_client(base_url=url, headers=headers, timeouts=TIMEOUTS) as http:
        yield ChatClient(http, model)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        usable = len(url) <= _LONGEST_URL and url.isprintable() and parts.port != 0
        return usable and parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


async def is_chatcore(url: str) -> bool:
    """Whether a server of ours answers there, within a second."""
    unreachable: tuple[type[Exception], ...] = (*failures(), TimeoutError, RequestError)
    try:
        async with asyncio.timeout(1.0), make_client(base_url=url) as http:
            health = wire.loads((await http.get("/health")).content)
    except unreachable:
        return False
    return isinstance(health, dict) and "default_model" in health


def url_of(config: Config) -> str:
    """Where a server with this configuration is called from the same machine."""
    host = _EVERYWHERE.get(config.host) or (f"[{config.host}]" if ":" in config.host else config.host)
    return f"{'https' if config.certfile else 'http'}://{host}:{config.port}"
