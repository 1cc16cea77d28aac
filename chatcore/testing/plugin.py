"""The pytest plugin of the kit. It is loaded in every pytest run of an environment with chatcore, and imports nothing
heavy: tests that use no fixture of it pay nothing."""

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest_asyncio

if TYPE_CHECKING:
    from chatcore.hooks import Plugin
    from chatcore.testing.chat import Chat


def pytest_configure() -> None:
    """Has what tests start end at SIGINT: where a script runs pytest in the background, they would inherit that it is
    ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest_asyncio.fixture
async def make_chat(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable["Chat"]]]:
    """Starts servers for a test: `chat = await make_chat(MyPlugin, a_setting=1)`, then `await chat.say("hi")`.

    Keyword arguments are the plugin's settings, but for `provider` (a `ScriptedProvider`) and `config` (fields of the
    server's configuration). Every server is stopped when the test ends.
    """
    from chatcore.testing.chat import running_chat  # noqa: PLC0415  see above

    async with AsyncExitStack() as stack:

        async def make(
            *plugins: "type[Plugin[Any]]",
            provider: Any = None,
            config: dict[str, Any] | None = None,
            **settings: Any,
        ) -> "Chat":
            directory = tmp_path / "data"
            chat = running_chat(directory, *plugins, provider=provider, config=config, settings=settings)
            return await stack.enter_async_context(chat)

        yield make
