"""A faulty plugin harms nobody but itself: a server as a user starts it, with plugins that fail in every way."""

import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import struct
import sys
import time
from pathlib import Path

import httpx
import pytest

from chatcore.testing.chat import frames

BAD = Path(__file__).parents[1] / "plugins_bad"
QUICK = 0.1
"""Seconds within which a request is answered, whatever a plugin does meanwhile."""


@pytest.fixture
def plugins_dir(tmp_path):
    """The directory of plugins of the server. `add` copies files of plugins_bad, or writes a text."""
    directory = tmp_path / "plugins"
    directory.mkdir()
    return directory


def add(directory, *bad, **texts):
    for name in bad:
        shutil.copy(BAD / f"{name}.py", directory)
    for name, text in texts.items():
        (directory / f"{name}.py").write_text(text)


@pytest.fixture
def serve(start_server, plugins_dir):
    """Starts a server with the plugins of the directory, and a client of it."""

    async def start():
        server = await start_server("--plugins-dir", str(plugins_dir), "--disable", "llama", "--disable", "openrouter")
        return server, httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=20)

    return start


def question(text, session="s"):
    return {"model": "echo", "session_id": session, "messages": [{"role": "user", "content": text}]}


def spoken(content):
    """The text of an answer."""
    chunks = [frame.data for frame in frames(content) if frame.event == "message" and frame.data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def until(condition):
    """Waits for something that another process does; gives what `condition` then gives."""
    async with asyncio.timeout(10):
        while not (found := condition()):
            await asyncio.sleep(0.01)
    return found


async def logged(server, pattern):
    """Waits until the log has a line like this; gives the line."""
    return (await until(lambda: re.search(rf".*(?:{pattern}).*", server.log.decode())))[0]


async def chatcore(*arguments, cwd):
    """Runs a command to its end; gives its exit code and all that it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore", *arguments, cwd=cwd,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, said.decode()


# --- at the start -----------------------------------------------------------------------------------------------------


async def test_plugins_that_cannot_be_loaded_are_rows(serve, plugins_dir):
    """One raises on import, one in a hook, one misspells a hook, one leaves a route open: the server starts and answers
    without them, says why, and nothing of theirs is there."""
    bad = {
        "raises_on_import": "importing it raised RuntimeError: no such luck",
        "raises_in_hook": "register_tools raised ZeroDivisionError: after the first tool",
        "misspelt_hook": "MisspeltHook.register_tool, .*there is no such hook; did you mean 'register_tools'",
        "open_route": "the view open_route.unprotected, .*does not say who may call it",
    }
    add(plugins_dir, *bad)
    server, client = await serve()
    async with client:
        rows = {row["name"]: row for row in (await client.get("/api/plugins")).json()["plugins"]}
        assert (await client.get("/open")).status_code == 404
        assert (await client.get("/closed")).status_code == 404
        answer = await client.post("/api/chat/stream", json=question("hello\n/call first {}"))
    assert spoken(answer.content).startswith("hello")
    assert "There is no tool 'first'" in spoken(answer.content)
    for name, reason in bad.items():
        assert rows[name]["state"] == "failed"
        assert rows[name]["contributes"] == []
        assert re.search(reason, rows[name]["reason"])
        assert name in await logged(server, reason)


async def test_two_tools_of_one_name_stop_the_start(plugins_dir, tmp_path):
    """The start is refused with the names of both and what to write; `chatcore plugins` still lists all, and with one
    of the two disabled the server starts."""
    add(plugins_dir, one=TOOL.format(cls="One"), two=TOOL.format(cls="Two"))
    options = ("--plugins-dir", "plugins", "--data", "data")
    code, said = await chatcore("serve", "--port", "0", *options, cwd=tmp_path)
    assert code != 0
    assert "the tool 'answer' is given by plugin one" in said
    assert "plugin two" in said
    assert 'disable = ["two"]' in said
    assert "Traceback" not in said
    code, said = await chatcore("plugins", *options, cwd=tmp_path)
    assert code == 0
    assert re.search(r"^one .* on ", said, re.MULTILINE)
    assert re.search(r"^two .* failed ", said, re.MULTILINE)
    code, said = await chatcore("plugins", *options, "--disable", "one", "--json", cwd=tmp_path)
    states = {row["name"]: row["state"] for row in json.loads(said)}
    assert (states["one"], states["two"]) == ("disabled", "on")


TOOL = """
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.tools import Tool

class {cls}(Plugin[NoSettings]):
    "Gives a tool."

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.answer)

    async def answer(self) -> str:
        "Answers."
        return "{cls}"
"""


# --- in a turn --------------------------------------------------------------------------------------------------------


async def test_hooks_that_raise_in_a_turn_are_logged_and_the_turn_goes_on(serve, plugins_dir):
    """The answer is whole; the log names plugin, hook, file and remedy."""
    add(plugins_dir, "fails_in_turns")
    server, client = await serve()
    async with client:
        answer = await client.post("/api/chat/stream", json=question("hello there"))
    assert spoken(answer.content) == "hello there"
    for hook, line in (("prepare_turn", 9), ("finish_turn", 13)):
        said = await logged(server, f"{hook}, .*failed")
        assert re.search(rf"plugin fails_in_turns .*{hook}, .*fails_in_turns.py:{line}, failed", said)
        assert 'disable = ["fails_in_turns"]' in said


async def test_a_hook_that_blocks_is_named(serve, plugins_dir):
    """One that holds the event loop is named in the log, once, with its place, how long, and what to do."""
    add(plugins_dir, "blocks")
    server, client = await serve()
    async with client:
        answer = await client.post("/api/chat/stream", json=question("hello"))
    assert spoken(answer.content) == "hello"
    line = await logged(server, "blocked the event loop")
    assert re.search(
        rf"warning chatcore.operation.watchdog: plugin blocks \({plugins_dir}/blocks.py\): Blocks.prepare_turn "
        rf"\({plugins_dir}/blocks.py:15\) blocked the event loop for [23]\d\d ms; use asyncio.to_thread for ",
        line,
    )
    assert server.log.count(b"blocked the event loop") == 1


@pytest.mark.slow
async def test_a_plugin_that_blocks_the_end_is_named(serve, plugins_dir):
    """While the server closes it, too: whoever waits for that learns whom to ask."""
    add(plugins_dir, lasting=LASTING)
    server, client = await serve()
    await client.aclose()
    assert await server.end() == 0
    line = await logged(server, "blocked the event loop")
    assert re.search(rf"plugin lasting \({plugins_dir}/lasting.py\): Lasting.open ", line)


LASTING = """
import time
from contextlib import asynccontextmanager
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Lifespan

class Lasting(Plugin[NoSettings]):
    "Takes long to close, and lets nobody else do anything meanwhile."

    @hookimpl
    def register_lifespans(self):
        yield Lifespan("lasting", self.open)

    @asynccontextmanager
    async def open(self):
        yield
        time.sleep(0.5)
"""


# --- routes that stream -----------------------------------------------------------------------------------------------

STREAMS = """
import logging
from quart import Blueprint, Response
from chatcore.access import public
from chatcore.hooks import NoSettings, Plugin, hookimpl

log = logging.getLogger("chatcore.plugin.streams")

class Streams(Plugin[NoSettings]):
    "Streams without end, and streams that break."

    @hookimpl
    def register_routes(self):
        routes = Blueprint("streams", __name__)
        routes.add_url_rule("/flood", view_func=flood)
        routes.add_url_rule("/breaks", view_func=breaks)
        yield routes

@public
async def flood():
    return Response(never_awaits(), mimetype="text/event-stream")

async def never_awaits():
    log.warning("the flood begins")
    try:
        while True:
            yield b"data: " + b"x" * 1000 + b"\\n\\n"
    finally:
        log.warning("the flood ends")

@public
async def breaks():
    return Response(raises(), mimetype="text/event-stream")

async def raises():
    yield b"data: 1\\n\\n"
    raise ZeroDivisionError("in the middle")
"""


async def test_a_stream_that_never_awaits_harms_nobody(serve, plugins_dir):
    """While its client reads, stalls, and leaves with a reset, other requests are answered at once; the generator is
    ended, and the memory does not grow."""
    add(plugins_dir, streams=STREAMS)
    server, client = await serve()
    async with client:
        await latencies(client)  # what is made at the first requests is not what is measured
        before = memory(server.process.pid)
        reader = await ask(server.url, "/flood")
        await asyncio.to_thread(reader.recv, 100_000)
        assert statistics.median(await latencies(client)) < QUICK
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reader.close()
        assert statistics.median(await latencies(client)) < QUICK
        await logged(server, "the flood ends")
        assert statistics.median(await latencies(client)) < QUICK
        assert memory(server.process.pid) - before < 20e6


async def ask(url, path):
    """A connection on which a request was sent, and nothing read."""
    host, port = url.removeprefix("http://").split(":")
    connection = await asyncio.to_thread(socket.create_connection, (host, int(port)))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    return connection


async def latencies(client):
    """The seconds that each of some requests took."""
    taken = []
    for _ in range(30):
        started = time.perf_counter()
        assert (await client.get("/health")).status_code == 200
        taken.append(time.perf_counter() - started)
    return taken


def memory(pid):
    """The bytes that a process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_stream_that_breaks_tells_its_client_and_the_log(serve, plugins_dir):
    """What was sent stays; an error frame ends it, without what went wrong; the log has that, and whose it was."""
    add(plugins_dir, streams=STREAMS)
    server, client = await serve()
    async with client:
        response = await client.get("/breaks")
        assert (await client.get("/health")).status_code == 200
    first, last = frames(response.content)
    assert (response.status_code, first.data) == (200, 1)
    assert last.event == "error"
    assert "ZeroDivisionError" not in response.text
    assert "streams" in await logged(server, "a stream broke off")
    await logged(server, "ZeroDivisionError: in the middle")


# --- taken out --------------------------------------------------------------------------------------------------------

LEAVING = """
import asyncio
from quart import Blueprint
from chatcore.access import public
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.tools import Tool

class Leaving(Plugin[NoSettings]):
    "Is taken out while its tool runs."

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.wait_here)

    @hookimpl
    def register_routes(self):
        routes = Blueprint("leaving", __name__)
        routes.add_url_rule("/leaving", view_func=here)
        yield routes

    async def wait_here(self) -> str:
        "Waits until it may go on."
        (self.context.data / "begun").touch()
        while not (self.context.data / "go").exists():
            await asyncio.sleep(0.01)
        return "I have waited."

@public
async def here():
    return "here"
"""

SWITCH = """
import logging
from quart import Blueprint
from chatcore.access import authenticated
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.state import current

class Switch(Plugin[NoSettings]):
    "Takes plugins out."

    @hookimpl
    def register_routes(self):
        routes = Blueprint("switch", __name__)
        routes.add_url_rule("/unload/<name>", view_func=unload, methods=["POST"])
        yield routes

@authenticated
async def unload(name):
    logging.getLogger("chatcore.plugin.switch").warning("taking out %s", name)
    return {"drained": await current().plugins.unload(name)}
"""


async def test_a_plugin_that_is_taken_out_while_it_works(serve, plugins_dir, tmp_path):
    """Its route answers 404 and its tool is gone at once; the call that is under way ends as it would have; others go
    on."""
    add(plugins_dir, leaving=LEAVING, switch=SWITCH)
    server, client = await serve()
    data = tmp_path / "data" / "plugins" / "leaving"
    async with client, asyncio.timeout(20):
        assert (await client.get("/leaving")).text == "here"
        first = asyncio.create_task(client.post("/api/chat/stream", json=question("/call wait_here {}", "first")))
        await until((data / "begun").exists)
        unloading = asyncio.create_task(client.post("/unload/leaving"))
        await logged(server, "taking out leaving")
        assert (await client.get("/leaving")).status_code == 404
        second = await client.post("/api/chat/stream", json=question("/call wait_here {}", "second"))
        assert "I have waited" not in spoken(second.content)
        assert b"[DONE]" in second.content
        assert not first.done()
        assert not unloading.done()
        (data / "go").touch()
        assert (await unloading).json() == {"drained": True}
        assert spoken((await first).content) == "The tool said: I have waited."
        rows = {row["name"]: row for row in (await client.get("/api/plugins")).json()["plugins"]}
        assert (rows["leaving"]["state"], rows["leaving"]["reason"]) == ("disabled", "unloaded")
        assert rows["switch"]["state"] == "on"
