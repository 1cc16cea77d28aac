"""A whole server for a test: on a real socket, with a database of its own, and without a network."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from chatcore import sse, wire
from chatcore.config import Config, Loaded
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.plugins.find import Named
from chatcore.testing.scripted import ScriptedProvider

if TYPE_CHECKING:
    import httpx
    from quart import Quart


@attrs.frozen
class Frame:
    """One event of a stream as a client sees it. `data` is parsed, except for `[DONE]`."""

    event: str
    data: Any
    id: str | None = None


@attrs.frozen
class Reply:
    """What a client got for a message."""

    frames: tuple[Frame, ...]
    run_id: str
    session_id: str

    @property
    def text(self) -> str:
        """The answer's text."""
        return "".join(
            choice["delta"]["content"]
            for frame in self.named("message")
            if frame.data != "[DONE]"
            for choice in frame.data["choices"]
            if isinstance(choice["delta"].get("content"), str)
        )

    @property
    def results(self) -> list[str]:
        """What the tools gave, in the order in which they ended. The model gets it in a frame, as data."""
        return [frame.data["result"] for frame in self.named("tool") if frame.data["status"] in ("finished", "error")]

    def named(self, event: str) -> list[Frame]:
        """The frames of one name."""
        return [frame for frame in self.frames if frame.event == event]


@attrs.frozen
class Chat:
    """A running server, and a client of it. `client` speaks to it over its socket."""

    app: "Quart"
    url: str
    client: "httpx.AsyncClient"
    provider: ScriptedProvider

    async def say(self, text: str, *, session_id: str = "", **fields: Any) -> Reply:
        """Sends a message and reads the whole answer. `fields` go into the request's body.

        Raises:
            AssertionError: the request was refused; the text has the answer's body.
        """
        session_id = session_id or f"session_{uuid.uuid4().hex}"
        body = {"messages": [{"role": "user", "content": text}], "session_id": session_id, **fields}
        async with self.client.stream("POST", "/api/chat/stream", json=body) as response:
            content = await response.aread()
            assert response.status_code == 200, content.decode()  # noqa: S101  a test kit speaks in assertions
        return Reply(frames(content), response.headers["Chatcore-Run-Id"], session_id)


def frames(content: bytes) -> tuple[Frame, ...]:
    """The frames of a stream that was read to its end."""
    parser = sse.Parser()
    events = [*parser.feed(content), *parser.close()]
    return tuple(
        Frame(event.event, "[DONE]" if event.data == b"[DONE]" else wire.loads(event.data), event.id)
        for event in events
    )


@asynccontextmanager
async def running_chat(
    directory: Path,
    *plugins: type[Plugin[Any]] | Named,
    provider: ScriptedProvider | None = None,
    config: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> AsyncIterator[Chat]:
    """A server with the built-in plugins, those given, and a scripted provider; none that is merely installed.

    Args:
        directory: the runtime data.
        plugins: plugin classes; each is named like its class, in lower case, or comes as `("name", Class)`.
        provider: what answers; one that says "ok" if there is none.
        config: fields of `Config` that differ from the defaults. The server is strict unless this says otherwise.
        settings: the settings of the first plugin.
        environ: the environment that the plugins read their settings from; empty if there is none.
    """
    import httpx  # noqa: PLC0415  the kit is imported by every pytest run, most of which start no server

    from chatcore.app import create_app  # noqa: PLC0415
    from chatcore.serving.server import serving  # noqa: PLC0415

    provider = provider or ScriptedProvider()
    values = Config(**{"data": directory, "port": 0, "strict": True, **(config or {})})
    named = [plugin if isinstance(plugin, tuple) else (plugin.__name__.lower(), plugin) for plugin in plugins]
    tables = {named[0][0]: dict(settings)} if named and settings else {}
    loaded = Loaded(config=values, plugins=tables, environ=environ or {})
    app = create_app(loaded, plugins=[("scripted", _plugin_of(provider)), *named], discover=False)
    async with (
        serving(app, values) as url,
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
    ):
        yield Chat(app, url, client, provider)


def _plugin_of(provider: ScriptedProvider) -> type[Plugin[NoSettings]]:
    class Scripted(Plugin[NoSettings]):
        """Answers by script."""

        @hookimpl
        def register_providers(self) -> list[ScriptedProvider]:
            return [provider]

    return Scripted
