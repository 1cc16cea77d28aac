"""ASGI applications behind a view (chatcore_mcp/server/exchange.py)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from chatcore_mcp.server.exchange import EXCHANGE, Exchange
from quart import Blueprint, request

from chatcore.access import public
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.testing.chat import Chat

MakeChat = Callable[..., Awaitable[Chat]]


def behind(application: Any) -> type[Plugin[NoSettings]]:
    """A plugin with the application at `/asgi`."""

    class Mounted(Plugin[NoSettings]):
        """Mounts an application."""

        @hookimpl
        def register_routes(self) -> list[Blueprint]:
            routes = Blueprint("mounted", __name__)

            @routes.route("/asgi", methods=["GET", "POST"])
            @public
            async def view() -> Any:
                return await Exchange(request.scope, await request.get_data()).run(application)

            return [routes]

    return Mounted


def start(status: int = 200, **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": named}


def body(data: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def test_request_and_response_pass_through(make_chat: MakeChat) -> None:
    """The application sees method, query, headers and body; the client status, headers and body."""

    async def echo(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        said = [scope["method"], scope["query_string"].decode(), dict(scope["headers"])[b"x-a"].decode()]
        await send(start(201, content_type="text/plain", x_own="1", connection="close"))
        await send(body(" ".join(said).encode() + b" ", more=True))
        await send(body(message["body"]))

    chat = await make_chat(behind(echo))
    response = await chat.client.post("/asgi?q=1", content=b"the body", headers={"x-a": "here"})
    assert (response.status_code, response.text) == (201, "POST q=1 here the body")
    assert (response.headers["x-own"], response.headers["content-type"]) == ("1", "text/plain")


async def test_events_come_as_they_are_sent(make_chat: MakeChat) -> None:
    """The head is there before the first event, and each event before the next."""
    go_on = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send(start(content_type="text/event-stream"))
        for number in range(2):
            await go_on.wait()
            go_on.clear()
            await send(body(b"data: %d\n\n" % number, more=number == 0))

    chat = await make_chat(behind(stream))
    received = b""
    async with chat.client.stream("GET", "/asgi") as response:
        async for chunk in response.aiter_bytes():
            received += chunk
            go_on.set()
    assert received.split(b"\n\n")[1:] == [b"data: 0", b"data: 1", b""]


@pytest.mark.parametrize("begun", [False, True], ids=["before-the-head", "in-a-stream"])
async def test_an_application_learns_that_its_client_has_left(make_chat: MakeChat, begun: bool) -> None:
    """Its work is cancelled, whether its response has begun or not; what runs elsewhere for it sees it, too."""
    here, ended = asyncio.Event(), asyncio.Event()
    exchanges: list[Exchange] = []

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        exchanges.append(scope[EXCHANGE])
        if begun:
            await send(start(content_type="text/event-stream"))
        here.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    chat = await make_chat(behind(wait))
    asking = asyncio.create_task(chat.client.get("/asgi"))
    async with asyncio.timeout(5):
        await here.wait()
        asking.cancel()
        await ended.wait()
        await exchanges[0].gone.wait()


async def test_what_an_application_does_after_its_last_word_is_awaited(make_chat: MakeChat) -> None:
    """As to keep a session that has just begun: the next request must find it."""
    kept: list[str] = []

    async def keep(scope: Any, receive: Any, send: Any) -> None:
        await send(start(content_type="text/event-stream"))
        await send(body(b"data: last\n\n"))
        for _ in range(1000):
            await asyncio.sleep(0)
        kept.append("session")

    chat = await make_chat(behind(keep))
    await chat.client.get("/asgi")
    assert kept == ["session"]


async def test_a_failing_application_is_an_error_of_the_server(
    make_chat: MakeChat, caplog: pytest.LogCaptureFixture
) -> None:
    """Told without its words, which are in the log."""

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("a secret")

    async def silent(scope: Any, receive: Any, send: Any) -> None:
        return

    for application, said in ((fail, "a secret"), (silent, "ended without an answer")):
        chat = await make_chat(behind(application))
        response = await chat.client.get("/asgi")
        assert (response.status_code, response.json()["code"]) == (500, "internal")
        assert "a secret" not in response.text
        assert said in caplog.text


async def test_an_application_lives_outside_the_request(make_chat: MakeChat) -> None:
    """What it keeps beyond the request does not keep the request alive, nor its rights."""
    seen: list[bool] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append(bool(request))
        await send(start())
        await send(body(b""))

    chat = await make_chat(behind(look))
    await chat.client.get("/asgi")
    assert seen == [False]
