"""`chatcore chat`: its client, its screens, and the command in a pipe and on a terminal."""

import asyncio
import fcntl
import io
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from click.testing import CliRunner, Result
from rich.console import Console

from chatcore import sse, wire
from chatcore.builtin import BUILTINS
from chatcore.commands.chat import chat as command
from chatcore.config import Config, Loaded
from chatcore.database import Database
from chatcore.errors import ChatcoreError, ProviderRefused
from chatcore.hooks import Context, NoSettings, Plugin, hookimpl
from chatcore.plugins import Plugins
from chatcore.terminal import client as terminal_client
from chatcore.terminal.client import ChatClient, connected, is_chatcore
from chatcore.terminal.frames import Asked, FrameReader, Note, Part, Problem, Reasoning, Text, ToolUse
from chatcore.terminal.questions import answer_of
from chatcore.terminal.screen import PlainScreen, RichScreen
from chatcore.terminal.talk import COMMANDS
from chatcore.testing.chat import Chat, running_chat
from chatcore.testing.scripted import ScriptedProvider, call, text, think
from chatcore.tools import Invocation, Question, Tool
from chatcore.types import Finish, Turn

MakeChat = Callable[..., Awaitable[Chat]]


async def heard(client: ChatClient, question: str = "hi") -> list[Part]:
    return [part async for part in client.ask(question)]


def said(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Text))


# --- the client -------------------------------------------------------------------------------------------------------


async def test_a_conversation_goes_on_until_a_new_one_is_wanted(make_chat: MakeChat) -> None:
    """The session is remembered between questions, and forgotten on demand."""
    chat = await make_chat(provider=ScriptedProvider([text("one")], [text("two")], [text("three")]))
    async with connected(chat.url, None, None) as client:
        assert [said(await heard(client, question)) for question in ("a", "b")] == ["one", "two"]
        client.forget()
        assert said(await heard(client, "c")) == "three"
    histories = [[m.text for m in request.messages if m.role != "system"] for request in chat.provider.requests]
    assert histories == [["a"], ["a", "one", "b"], ["c"]]


async def test_the_model_can_be_chosen(make_chat: MakeChat) -> None:
    """It goes with each question; the answer says which model it was."""
    chat = await make_chat()
    async with connected(chat.url, None, "scripted/other") as client:
        await heard(client)
        assert client.answered_by == "scripted/other"
        client.model = "scripted/model"
        await heard(client)
        assert client.answered_by == "scripted/model"
        assert [choice.id for choice in await client.models("SCRIPTED")] == ["scripted/model"]
        assert "echo" in [choice.id for choice in await client.models()]
    assert [request.model for request in chat.provider.requests] == ["scripted/other", "scripted/model"]


class Dice(Plugin[NoSettings]):
    """Rolls dice, or fails to."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [Tool.of(self.roll), Tool.of(self.lose)]

    async def roll(self) -> str:
        """Rolls."""
        return "4"

    async def lose(self) -> str:
        """Fails."""
        raise ValueError("under the table")


async def test_thoughts_and_tools_are_parts_of_an_answer(make_chat: MakeChat) -> None:
    """They come in their order, and a tool that fails is told apart."""
    provider = ScriptedProvider([think("Hm."), call("roll"), call("lose")], [text("It is ", "4.")])
    chat = await make_chat(Dice, provider=provider)
    async with connected(chat.url, None, None) as client:
        parts = await heard(client)
    assert parts[0] == Reasoning("Hm.")
    assert said(parts) == "It is 4."
    assert {part for part in parts if isinstance(part, ToolUse)} == {
        ToolUse("roll", "started"),
        ToolUse("lose", "started"),
        ToolUse("roll", "finished"),
        ToolUse("lose", "error"),
    }


async def test_an_error_is_told_once(make_chat: MakeChat) -> None:
    """The stream has it twice, the second time as text for clients that know no errors."""
    chat = await make_chat(provider=ScriptedProvider([text("half"), ProviderRefused("no credit")]))
    async with connected(chat.url, None, None) as client:
        assert await heard(client) == [Text("half"), Problem("no credit")]


async def test_an_answer_that_was_cut_off_says_so(make_chat: MakeChat) -> None:
    """By its length, that is: nothing else on the screen would show it."""
    chat = await make_chat(provider=ScriptedProvider([text("and then"), [Finish("length")]]))
    async with connected(chat.url, None, None) as client:
        answer, note = await heard(client)
    assert answer == Text("and then")
    assert isinstance(note, Note)
    assert "greatest length" in note.text


class CuttingProxy:
    """Passes connections on to a server. The first one that got `left` bytes as its answer loses its connection."""

    def __init__(self, target: str, left: int) -> None:
        self._address = target.removeprefix("http://").split(":")
        self._left = left
        self._serving: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self._address
        up_reader, up_writer = await asyncio.open_connection(host, int(port))
        ways = [
            asyncio.create_task(self._send(reader, up_writer)),
            asyncio.create_task(self._answer(up_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for one in (writer, up_writer):
                one.close()
                with suppress(ConnectionError):
                    await one.wait_closed()

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            writer.write(data)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            cut = 0 <= self._left < len(data)
            writer.write(data[: self._left] if cut else data)
            self._left -= len(data)
            await writer.drain()
            if cut:
                return


@pytest.mark.parametrize("after", [450, 900, 2500, 5000])
async def test_an_answer_is_read_on_after_the_connection_was_lost(make_chat: MakeChat, after: int) -> None:
    """Wherever it broke: nothing is missing, and nothing comes twice."""
    words = [f"word{number} " for number in range(60)]
    chat = await make_chat(provider=ScriptedProvider([text(word) for word in words]))
    async with CuttingProxy(chat.url, after).running() as url, connected(url, None, None) as client:
        parts = await heard(client)
        assert said(parts) == "".join(words)
        assert len([part for part in parts if isinstance(part, Note)]) == 1
        await heard(client, "again")
    assert len(chat.provider.requests) == 2
    assert len(chat.provider.requests[1].messages) > len(chat.provider.requests[0].messages)


async def test_a_server_that_does_not_come_back_is_given_up(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries, with a word about where the answer is."""
    monkeypatch.setattr(terminal_client, "RECONNECT", (0.01, 0.01))
    chat = await make_chat(provider=ScriptedProvider([text("word ") for _ in range(200)]))
    parts = []

    async def listen(client: ChatClient) -> None:
        async for part in client.ask("hi"):
            parts.append(part)
            if isinstance(part, Note):
                client._http.base_url = "http://127.0.0.1:9"

    async with CuttingProxy(chat.url, 2000).running() as url, connected(url, None, None) as client:
        with pytest.raises(ChatcoreError, match="connection was lost") as caught:
            await listen(client)
    assert "it is in the conversation" in str(caught.value.hint)
    assert said(parts).startswith("word word ")


class Slow(Plugin[NoSettings]):
    """Lets a turn begin when it is told to."""

    def __init__(self, context: Context[NoSettings]) -> None:
        super().__init__(context)
        self.asked, self.go = asyncio.Event(), asyncio.Event()

    @hookimpl
    async def prepare_turn(self, turn: Turn) -> None:
        self.asked.set()
        await self.go.wait()


async def test_an_answer_that_has_not_begun_can_be_stopped(make_chat: MakeChat) -> None:
    """It ends as soon as it begins."""
    chat = await make_chat(Slow, provider=ScriptedProvider([text("Once upon "), asyncio.Event()]))
    [slow] = [row.plugin for row in chat.app.extensions["chatcore"].plugins.rows if row.name == "slow"]
    async with connected(chat.url, None, None) as client, asyncio.timeout(10):
        hearing = asyncio.create_task(heard(client))
        await slow.asked.wait()
        await client.stop()
        slow.go.set()
        await hearing


async def test_an_answer_can_be_stopped(make_chat: MakeChat) -> None:
    """Its stream ends with what there is, and the model's work with it."""
    provider = ScriptedProvider([text("Once upon "), asyncio.Event()])
    chat = await make_chat(provider=provider)
    async with connected(chat.url, None, None) as client:
        await client.stop()  # nothing is being answered: nothing happens
        parts = []
        async for part in client.ask("a story"):
            parts.append(part)
            await client.stop()
        assert said(parts) == "Once upon "
    await provider.closed.wait()


async def test_a_refusal_has_the_words_of_the_server(make_chat: MakeChat) -> None:
    """A body of a wrong shape is told with its paths."""
    chat = await make_chat()
    async with connected(chat.url, None, None) as client:
        client.model = 5  # type: ignore[assignment]
        with pytest.raises(ChatcoreError, match="a string"):
            await heard(client)


async def test_no_server_is_told_with_its_address() -> None:
    """What was tried is what one looks at first."""
    async with connected("http://127.0.0.1:9", None, None) as client:
        with pytest.raises(ChatcoreError, match=r"http://127\.0\.0\.1:9"):
            await heard(client)


async def test_a_server_of_ours_is_known_by_its_health(make_chat: MakeChat) -> None:
    """Another server on the port, or none, is not taken for one."""
    chat = await make_chat()
    assert await is_chatcore(chat.url)
    assert not await is_chatcore("http://127.0.0.1:9")

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n" + b'{"status":"ok"}')
        writer.close()

    async with await asyncio.start_server(other, "127.0.0.1", 0) as server:
        assert not await is_chatcore(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "data", "parts"),
    [
        ("message", {"choices": [{"delta": {"content": "a"}}]}, [Text("a")]),
        ("message", {"choices": [{"delta": {"content": [{"type": "text", "text": "a"}]}}]}, [Text("a")]),
        ("message", {"choices": [{"delta": {"reasoning": "a"}}]}, [Reasoning("a")]),
        ("message", {"choices": [{"delta": {"reasoning_content": "a", "content": ""}}]}, [Reasoning("a")]),
        ("message", {"choices": [], "usage": {}}, []),
        ("message", {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]}, []),
        ("tool", {"status": "notice", "name": "system", "message": "no tools"}, [Note("no tools")]),
        ("tool", {"status": "hop_limit", "name": "system", "message": "enough"}, []),
        ("notice", {"type": "tool_followup_required", "message": "which city?"}, [Note("which city?")]),
        ("metadata", {"role": "assistant", "finish_reason": "stop"}, []),
        ("something new", {"of": ["any", "shape"]}, []),
        ("message", "text", []),
        ("session", {}, []),
    ],
)
def test_frames_become_parts(event: str, data: Any, parts: list[Part]) -> None:
    """What is not known, or has another shape, is left out."""
    assert list(FrameReader().read(sse.Event(wire.dumps(data), event))) == parts


def test_an_image_is_a_link() -> None:
    """One that is in the frame itself is not written out."""
    for url, shown in (("https://x.org/a.png", "https://x.org/a.png"), ("data:image/png;base64," + "A" * 900, "data:")):
        image = {"type": "image_url", "image_url": {"url": url}}
        for delta in ({"content": [image]}, {"images": [image]}):
            frame = sse.Event(wire.dumps({"choices": [{"delta": delta}]}))
            assert list(FrameReader().read(frame)) == [Text(f"\n\n[image]({shown})\n\n")]


# --- screens ----------------------------------------------------------------------------------------------------------


def test_plain_output_is_the_answer_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """What else happens is on standard error; thoughts are nowhere."""
    with PlainScreen() as screen:
        for part in (Reasoning("hm"), ToolUse("roll", "started"), Text("*4*"), Note("n"), Text("."), Problem("p")):
            screen.show(part)
    assert capsys.readouterr() == ("*4*.\n", "[roll started]\nn\nError: p\n")


@pytest.mark.parametrize("kind", [Text, Reasoning, Note, Problem])
def test_nothing_of_an_answer_is_an_order_for_the_terminal(kind: Callable[[str], Part]) -> None:
    """Such as to put something else on the clipboard. What is said stays as it is."""
    text = "x\x1b]52;c;aGk=\x07y\x9b2J 👩\u200d🚀 ok"
    assert "x\\x1b]52;c;aGk=\\x07y\\x9b2J 👩\u200d🚀 ok" in shown([kind(text)])


def shown(parts: Sequence[Part], **console: Any) -> str:
    """What remains on a terminal that keeps everything that is printed, without what is only drawn for a while."""
    file = io.StringIO()
    with RichScreen(Console(file=file, width=60, **console)) as screen:
        for part in parts:
            screen.show(part)
    return file.getvalue()


ANSWER = """# Title

A *list*:

1. one

   still one
2. two

```python
def f():

    return 1
```

| a | b |
|---|---|
| 1 | 2 |

The end."""


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_answer_is_rendered_the_same_in_pieces_of_any_size(size: int) -> None:
    """Blocks that are complete are printed, and no block is taken apart: a list goes on after an empty line."""
    pieces = [Text(ANSWER[start : start + size]) for start in range(0, len(ANSWER), size)]
    lines = [line.rstrip() for line in shown(pieces).splitlines()]
    assert [line.strip() for line in lines if line.strip()] == [
        "Title",
        "A list:",
        "1 one",
        "still one",
        "2 two",
        "def f():",
        "return 1",
        "a  b",
        "────",
        "1  2",
        "The end.",
    ]


def test_everything_but_the_answer_is_set_apart() -> None:
    """By its colour; square brackets in it are no markup."""
    parts = (Reasoning("why"), ToolUse("roll", "started"), ToolUse("roll", "error"), Text("4"), Problem("[red] bad"))
    output = shown(parts, force_terminal=True, color_system="standard", _environ={})
    assert "\x1b[2;3mwhy" in output
    assert "\x1b[2m… roll" in output
    assert "\x1b[31m✗ roll" in output
    assert "\x1b[31m[red] bad" in output


def test_a_block_that_is_higher_than_the_terminal_is_shown_whole_in_the_end() -> None:
    """While it grows only its end is drawn, since what has left the screen cannot be drawn again."""
    code = [Text("```\n"), *(Text(f"line {number}\n") for number in range(100)), Text("```\n")]
    output = shown(code, force_terminal=True, height=10, color_system=None, _environ={})
    assert re.findall(r"line \d+", output)[-100:] == [f"line {number}" for number in range(100)]


# --- the command in a pipe --------------------------------------------------------------------------------------------


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Chat]]:
    """Starts a server in a thread: the command wants the main one, for Ctrl-C."""
    with start_blocking_portal() as portal, ExitStack() as stack:

        def start(*scripts: Any, plugins: Sequence[type[Plugin[Any]]] = ()) -> Chat:
            running = running_chat(tmp_path / "server", *plugins, provider=ScriptedProvider(*scripts))
            return stack.enter_context(portal.wrap_async_context_manager(running))

        yield start


def run(*arguments: str, given: str = "", env: dict[str, str] | None = None) -> Result:
    """`chatcore chat …` with its input and output in pipes."""
    return CliRunner().invoke(command, arguments, input=given, env=env)


def test_a_question_is_answered_and_that_is_all(serve: Callable[..., Chat]) -> None:
    """From the arguments or from a pipe; standard output has the answer as the model wrote it."""
    chat = serve([text("*4*", ".")], [text("5\n")])
    asked, piped = run("--server", chat.url, "2", "+", "2?"), run("--server", chat.url, given="2 + 2?\n")
    assert (asked.stdout, asked.stderr, asked.exit_code) == ("*4*.\n", "", 0)
    assert (piped.stdout, piped.stderr, piped.exit_code) == ("5\n", "", 0)
    assert [request.messages[-1].text for request in chat.provider.requests] == ["2 + 2?", "2 + 2?"]


def test_an_error_of_the_model_is_in_the_exit_code(serve: Callable[..., Chat]) -> None:
    """What there is of the answer is on standard output, the error on the other."""
    done = run("--server", serve([text("half"), ProviderRefused("no credit")]).url, "hi")
    assert (done.stdout, done.stderr, done.exit_code) == ("half\n", "Error: no credit\n", 1)


def test_a_server_that_is_not_there_is_told() -> None:
    """One that was named is not replaced by another."""
    done = run("--server", "http://127.0.0.1:9", "hi")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert done.stderr.startswith("Error: http://127.0.0.1:9 cannot be reached")
    assert "start a server with 'chatcore serve'" in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://x",
        "http://127.0.0.1:99999",
        "http://",
        "http://[::1",
        "http://a\tb",
        pytest.param("http://" + 9999 * "x", id="long"),
    ],
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    """With one that is."""
    done = run("--server", url, "hi")
    assert done.exit_code == 1
    assert done.exception is not None
    assert done.exception.args == (f"{url[:200]!r} is not the address of a server",)


@pytest.mark.parametrize("token", ["cc_ü", "cc_a\r", "cc_a\ncc_b"])
def test_a_token_that_cannot_be_one_is_told(token: str) -> None:
    """As one of which too much was copied, or that went through an editor."""
    done = run("--server", "http://127.0.0.1:9", "--token", token, "hi")
    assert done.exit_code == 1
    assert done.exception is not None
    assert done.exception.args == ("the token has characters that are in no token",)


def test_an_empty_pipe_is_a_mistake() -> None:
    """The exit code is that of a wrong use."""
    done = run(given=" \n")
    assert done.exit_code == 2
    assert "nothing to ask" in done.stderr


def test_a_missing_token_is_told_with_the_remedy(serve: Callable[..., Chat], tmp_path: Path) -> None:
    """The option and the variable that give one."""
    chat = serve()
    loaded = Loaded(config=Config(data=tmp_path / "server"))
    tokens = Plugins.load(loaded, Database(loaded.config.database_url), builtins=BUILTINS, discover=False, halt=False)
    made = CliRunner().invoke(tokens.registry.commands["tokens"], ["create"])
    assert made.exit_code == 0, made.output
    done = run("--server", chat.url, "hi")
    assert (done.stdout, done.exit_code) == ("", 1)
    assert "--token or CHATCORE_TOKEN" in done.stderr
    assert chat.provider.requests == []


def test_the_configured_server_is_used_if_it_runs(serve: Callable[..., Chat]) -> None:
    """Nobody has to say where it is."""
    chat = serve()
    env = {"CHATCORE_HOST": "0.0.0.0", "CHATCORE_PORT": chat.url.rpartition(":")[2]}
    done = run("--model", "scripted/x", "hi", env=env)
    assert (done.stdout, done.exit_code) == ("ok\n", 0)
    assert [request.model for request in chat.provider.requests] == ["scripted/x"]


def test_without_a_server_it_is_one_itself(tmp_path: Path) -> None:
    """The conversation is kept in the data directory like any other."""
    env = {"CHATCORE_PORT": "9", "CHATCORE_DATA": str(tmp_path / "here"), "CHATCORE_DISABLE": "llama,openrouter"}
    done = run("--model", "echo", "Hello there", env=env)
    assert (done.stdout, done.stderr, done.exit_code) == ("Hello there\n", "", 0)
    assert (tmp_path / "here" / "chatcore.db").exists()


# --- the command on a terminal ----------------------------------------------------------------------------------------

PROMPT = "\x1b[?2004h> "
"""The prompt; before it, readline asks the terminal to mark what is pasted."""

_OWN_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "chatcore", *sys.argv[1:]])
"""


class Terminal:
    """A process on a terminal of its own, and somebody who types."""

    def __init__(self, master: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._master = master
        self._screen = bytearray()
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # its process has ended
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._master)
        self._screen += data
        self._more.set()

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def until(self, wanted: str) -> str:
        """Waits for a text, and gives what was shown before it. What was given once is not looked at again."""
        async with asyncio.timeout(20):
            while wanted.encode() not in self._screen:
                self._more.clear()
                await self._more.wait()
        before, _, after = bytes(self._screen).partition(wanted.encode())
        self._screen[:] = after
        return before.decode()

    async def end(self) -> int:
        async with asyncio.timeout(20):
            return await self.process.wait()


@asynccontextmanager
async def on_terminal(chat: Chat, cwd: Path) -> AsyncIterator[Terminal]:
    """`chatcore chat` with a server, on a terminal, at its first prompt."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _OWN_TERMINAL, "chat", "--server", chat.url),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        cwd=cwd,
        env={**os.environ, "CHATCORE_DISABLE": "llama", "TERM": "xterm-256color"},
    )
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        await terminal.until("/help")
        await terminal.until(PROMPT)
        yield terminal
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


def asked(chat: Chat) -> list[str]:
    return [request.messages[-1].text for request in chat.provider.requests]


async def test_a_conversation_on_a_terminal(make_chat: MakeChat, tmp_path: Path) -> None:
    """Answers are rendered; lines can be joined, recalled and pasted; Ctrl-D leaves."""
    chat = await make_chat(provider=ScriptedProvider([text("**bo", "ld**")]))
    async with on_terminal(chat, tmp_path) as terminal:
        terminal.type("first\r")
        await terminal.until("\x1b[1mbold")
        await terminal.until(PROMPT)
        terminal.type("two \\\r")
        await terminal.until("… ")
        terminal.type("lines\r")
        await terminal.until("ok")
        await terminal.until(PROMPT)
        terminal.type("\x1b[200~pasted\ntext\x1b[201~\r")
        await terminal.until("ok")
        await terminal.until(PROMPT)
        terminal.type("\x1b[A\x1b[A\x1b[A\x1b[A again\r")
        await terminal.until("ok")
        await terminal.until(PROMPT)
        terminal.type("//slash\r")
        await terminal.until("ok")
        await terminal.until(PROMPT)
        assert asked(chat) == ["first", "two \nlines", "pasted\ntext", "first again", "/slash"]
        terminal.type("\x04")
        assert await terminal.end() == 0


async def test_commands_of_the_prompt(make_chat: MakeChat, tmp_path: Path) -> None:
    """They change what is asked next; one that does not exist asks nothing."""
    chat = await make_chat()
    async with on_terminal(chat, tmp_path) as terminal:

        async def enter(line: str) -> str:
            terminal.type(f"{line}\r")
            await terminal.until(line)
            return await terminal.until(PROMPT)

        told = await enter("/help")
        assert all(f"/{name} " in told for name in COMMANDS)
        assert "no command /modle" in await enter("/modle")
        listed = await enter("/model")
        assert all(shown in listed for shown in ("default", "scripted/model", "100,000 tokens", "free", "echo"))
        assert "No model has 'gpt'" in await enter("/model gpt")
        assert "echo from now on" in await enter("/model ech")
        assert "parrot" in await enter("parrot")
        assert chat.provider.requests == []
        assert "scripted/model from now on" in await enter("/model scripted/model")
        assert "ok" in await enter("second")
        assert "new conversation" in await enter("/new")
        assert "ok" in await enter("third")
        asked = [[m.text for m in request.messages if m.role == "user"] for request in chat.provider.requests]
        assert asked == [["parrot", "second"], ["third"]]
        terminal.type("/quit\r")
        assert await terminal.end() == 0


async def test_ctrl_c_stops_the_answer_and_then_leaves(make_chat: MakeChat, tmp_path: Path) -> None:
    """The server stops too, and keeps what there is; the prompt is back. There, Ctrl-C leaves."""
    provider = ScriptedProvider([text("Once upon "), asyncio.Event()])
    chat = await make_chat(provider=provider)
    async with on_terminal(chat, tmp_path) as terminal:
        terminal.type("a story\r")
        await terminal.until("Once upon")
        terminal.type("\x03")
        await terminal.until("Stopped.")
        await terminal.until(PROMPT)
        await provider.closed.wait()
        terminal.type("go on\r")
        await terminal.until("ok")
        await terminal.until(PROMPT)
        assert "Once upon " in [message.text for message in provider.requests[-1].messages]
        # Python misses a Ctrl-C that comes in the instant between its prompt and its waiting; the Enter shows it then.
        terminal.type("\x03\r")
        assert await terminal.end() == 0


async def test_consent_is_asked_for_on_a_terminal(make_chat: MakeChat, tmp_path: Path) -> None:
    """A yes lets the tool run, anything else does not; Ctrl-C stops the answer. Nothing hides in the arguments."""
    scripts = [[call("lose_it", what="a\u202eb")], [text("It is lost.")], [call("lose_it", what="c")], [text("Kept.")]]
    chat = await make_chat(Losing, provider=ScriptedProvider(*scripts, [call("lose_it", what="d")]))
    async with on_terminal(chat, tmp_path) as terminal:
        for key, shown in (("y\r", "It is lost."), ("\r", "Kept.")):
            terminal.type("lose it\r")
            asked = await terminal.until("Allow it? [y/N] ")
            assert "lose_it is to be run with {" in asked
            assert "\u202e" not in asked
            terminal.type(key)
            await terminal.until(shown)
            await terminal.until(PROMPT)
        assert [message.text for message in chat.provider.requests[1].messages if "lost" in message.text]
        assert "did not consent" in chat.provider.requests[3].messages[-1].text
        terminal.type("lose it\r")
        await terminal.until("Allow it? [y/N] ")
        terminal.type("\x03\r")  # the Enter as above: it shows a Ctrl-C that came in the instant before the waiting
        await terminal.until("Stopped.")
        await terminal.until(PROMPT)
        assert len(chat.provider.requests) == 5


async def test_a_tool_s_question_is_answered_on_a_terminal(make_chat: MakeChat, tmp_path: Path) -> None:
    """Field by field, again where it does not fit; an empty line takes the default; '!' says no."""
    scripts = [[call("book"), call("book", id="b")], [text("Booked.")], [call("visit")], [text("Visited.")]]
    chat = await make_chat(Booking, provider=ScriptedProvider(*scripts))
    async with on_terminal(chat, tmp_path) as terminal:
        terminal.type("book\r")
        assert "book asks: When\\u202e?" in await terminal.until("Day (string): ")
        terminal.type("tomorrow\r")
        await terminal.until("seats (integer) [2]: ")
        terminal.type("\r")
        await terminal.until("where (in | out (outside)): ")
        terminal.type("out\r")
        await terminal.until("$.content.day: must be of the form date")
        for prompt, typed in (("Day (string): ", "2026-12-24\r"), ("[2]: ", "4\r"), ("(outside)): ", "in\r")):
            await terminal.until(prompt)
            terminal.type(typed)
        await terminal.until("Day (string): ")
        terminal.type("!\r")
        await terminal.until("Booked.")
        await terminal.until(PROMPT)
        given = [message.text for message in chat.provider.requests[1].messages if message.role == "tool"]
        assert any("accept {'day': '2026-12-24', 'seats': 4, 'where': 'in'}" in answer for answer in given)
        assert any("decline {}" in answer for answer in given)
        terminal.type("visit\r")
        assert "https://pay.example/1" in await terminal.until("Say yes? [y/N] ")
        terminal.type("y\r")
        await terminal.until("Visited.")
        assert "accept" in chat.provider.requests[3].messages[-1].text


def test_a_question_is_left_open_where_the_input_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-D: with fields, and without."""
    monkeypatch.setattr("sys.stdin", StringIO(""))
    for fields in ({}, {"day": {"type": "string"}}):
        form = {"type": "object", "properties": fields}
        assert answer_of(Asked("q", "book", "When?", form, None, "d")) == ("cancel", {})


class Booking(Plugin[NoSettings]):
    """Books tables."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [Tool.of(self.book), Tool.of(self.visit)]

    async def book(self, invocation: Invocation) -> str:
        """Books a table."""
        where = {"oneOf": [{"const": "in"}, {"const": "out", "title": "outside"}]}
        day = {"type": "string", "format": "date", "title": "Day"}
        fields = {"day": day, "seats": {"type": "integer", "default": 2}, "where": where}
        answer = await invocation.ask(Question(message="When\u202e?", form={"properties": fields, "required": ["day"]}))
        return f"{answer.action} {dict(answer.content)}"

    async def visit(self, invocation: Invocation) -> str:
        """Has a page opened."""
        return (await invocation.ask(Question(message="Pay.", url="https://pay.example/1"))).action


class Losing(Plugin[NoSettings]):
    """Loses things."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [Tool.of(self.lose_it, destructive=True)]

    async def lose_it(self, what: str) -> str:
        """Loses something."""
        return f"{len(what)} characters are lost"


def test_without_a_terminal_nobody_is_asked(serve: Callable[..., Chat]) -> None:
    """The question came through a pipe: a call that needs consent is refused, and the user is told."""
    chat = serve([call("lose_it", what="x")], [text("Then not.")], plugins=[Losing])
    result = run("--server", chat.url, given="lose it\n")
    assert result.stdout == "Then not.\n"
    assert "lose_it was not run: it needs your consent" in result.stderr
