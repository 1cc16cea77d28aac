"""Readers that take nothing of what they are sent cost little memory, and no other reader any time."""

import asyncio
import json
import re
import socket
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads how much memory a process has"),
]

READERS = 200
"""How many there are of either kind."""
GROWTH = 50
"""Megabytes that those may cost who read nothing of a short answer, which the network stack takes."""
GROWTH_LONG = 100
"""Megabytes that those may cost who read nothing of a long one: half a megabyte each."""
LAG = 0.05
"""Seconds after which 99 of 100 pieces have reached those who read."""
RATE = "steady-30-200"
"""What they all are sent: thirty pieces, five a second."""
LONG = "steady-20000-0"
"""An answer of some four megabytes, which is more than the network stack takes for a reader."""
STALLED = 50
"""How many readers there are of a large event."""
GROWTH_LARGE = 50
"""Megabytes that they may cost beside the one who reads it."""

GIANT = '''
import asyncio

from quart import Blueprint

from chatcore import NoSettings, Plugin, hookimpl, public
from chatcore.protocols import Health
from chatcore.types import Finish, Model, TextDelta


class Giant(Plugin[NoSettings]):
    """A provider whose answers are one word of five megabytes, when it is told to say it."""

    name = "giant"
    open = True
    default_model = "giant"

    def __init__(self, context):
        super().__init__(context)
        self.told = asyncio.Event()

    @hookimpl
    def register_providers(self):
        yield self

    @hookimpl
    def register_routes(self):
        routes = Blueprint("giant", __name__)

        @routes.post("/say")
        @public
        async def say():
            self.told.set()
            self.told.clear()
            return ""

        yield routes

    def health(self):
        return Health()

    async def models(self):
        return [Model("giant", "Giant")]

    async def stream(self, request):
        yield [TextDelta("Listen. ")]
        await self.told.wait()
        yield [TextDelta("x" * 5_000_000)]
        yield [Finish("stop")]
'''


@pytest.fixture
async def server(start_server):
    """A server with the models of chaos, in a process of its own."""
    return await start_server("--load", "chatcore.testing.chaos:Chaos", "--disable", "llama", "--disable", "mcp")


def question(model, session):
    """A request for an answer that goes on without readers."""
    body = json.dumps(
        {"model": f"chaos/{model}", "session_id": session, "messages": [{"role": "user", "content": "Hello?"}]}
    )
    lines = ("POST /api/chat/stream HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join((*lines, "Chatcore-On-Disconnect: continue", f"Content-Length: {len(body)}", "", body))


def resumption(run_id):
    """A request for a run from its beginning."""
    return f"GET /api/chat/runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def never_reading(server, requests):
    """Sends requests, and reads nothing of their answers. Gives the sockets."""
    place = urlsplit(server.url)
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in requests]
        for client, request in zip(clients, requests, strict=True):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((place.hostname, place.port))
            client.sendall(request.encode())
        yield clients


async def ask(server, model, session):
    """Reads a whole answer; gives the run's id, and how late each piece was, in seconds."""
    place = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(question(model, session).encode())
    head = await reader.readuntil(b"\r\n\r\n")
    lags = []
    line = b""
    while b"[DONE]" not in line:
        line = await reader.readline()
        if sent := re.search(rb'"sent_at":([\d.]+)', line):
            lags.append(time.time() - float(sent[1]))
    writer.close()
    await writer.wait_closed()
    return re.search(r"chatcore-run-id: (\w+)", head.decode(), re.IGNORECASE)[1], lags


async def many(server, model, what):
    """Many answers at once, begun a hundred a second; gives the lag of the piece that is later than 99 of 100."""

    async def ask_in_turn(number):
        await asyncio.sleep(number / 100)
        return await ask(server, model, f"{what}-{number}")

    answers = await asyncio.gather(*map(ask_in_turn, range(READERS)))
    lags = sorted(lag for _, lags in answers for lag in lags)
    return lags[len(lags) * 99 // 100]


def memory(server, of="VmRSS"):
    """The memory of the server's process, in megabytes: what it has, or with `VmHWM` the most that it has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{of}:\s+(\d+) kB", status)[1]) / 1000


@attrs.frozen
class Cost:
    """What those who read nothing cost: megabytes of the server's, and the lag of the others."""

    growth: float
    lag: float


async def cost_of(server, requests):
    """Measured against the same answers without those requests, just before.

    On a machine that is busy with something else, where answers are late anyway, half as much again is no more than
    chance; and as others' work comes and goes, it is done up to three times. Memory is what the first time shows.
    """
    costs: list[Cost] = []
    for number in range(3):
        alone = await many(server, RATE, f"alone-{number}")
        before = memory(server)
        with never_reading(server, requests):
            lag = await many(server, RATE, f"beside-{number}")
            costs.append(Cost(memory(server) - before, 0.0 if lag < 1.5 * alone else lag))
        print(f"{costs[-1].growth:.1f} MB; {lag * 1000:.1f} ms beside them, {alone * 1000:.1f} ms without")
        if costs[-1].lag < LAG:
            break
    return Cost(costs[0].growth, costs[-1].lag)


async def test_answers_that_nobody_reads_disturb_nobody(server):
    """Two hundred clients ask and never read; two hundred others get their answers in time."""
    cost = await cost_of(server, [question(RATE, f"unread-{number}") for number in range(READERS)])
    assert cost.growth < GROWTH
    assert cost.lag < LAG


async def test_a_long_answer_that_nobody_reads_is_not_kept_for_each(server):
    """Two hundred clients come back to an answer of four megabytes and never read it: the server does not put it in
    store for each of them."""
    run_id, _ = await ask(server, LONG, "long")
    cost = await cost_of(server, [resumption(run_id)] * READERS)
    assert cost.growth < GROWTH_LONG
    assert cost.lag < LAG


# --- one large event --------------------------------------------------------------------------------------------------


@pytest.fixture
async def giant(start_server, tmp_path):
    """A server with the plugin above."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "giant.py").write_text(GIANT)
    return await start_server("--plugins-dir", str(own), "--disable", "llama", "--disable", "mcp")


async def said(server, session, stalled=0, *, late=False):
    """Has the large event said, to one who reads it and some who read nothing; `late`: these come when it is over.

    Gives the most memory that the server's process has had when it has begun to send it to all of them, in megabytes.
    """
    place = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**23)
    writer.write(question("giant", session).replace("chaos/", "giant/").encode())
    head = await reader.readuntil(b"Listen. ")
    run_id = re.search(r"chatcore-run-id: (\w+)", head.decode(), re.IGNORECASE)[1]
    with ExitStack() as stack:
        if late:
            await say(server)
            await reader.readuntil(b"[DONE]")
            while (await call(server, "GET", f"/api/chat/runs/{run_id}")).find(b'"completed"') < 0:
                pass
        clients = stack.enter_context(never_reading(server, [resumption(run_id)] * stalled))
        await until_all_have(clients, b"Listen. ")
        if not late:
            await say(server)
            await reader.readuntil(b"[DONE]")
        await until_all_have(clients, b"xxx")
        writer.close()
        return memory(server, "VmHWM")


async def say(server):
    await call(server, "POST", "/say")


async def call(server, method, path):
    """Makes a request, and gives the answer."""
    place = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode()
    )
    answer = await reader.read()
    writer.close()
    return answer


async def until_all_have(clients, text):
    """Waits until something has come to all of them, who leave it where it is."""
    for client in clients:
        while text not in await asyncio.to_thread(client.recv, 2**16, socket.MSG_PEEK):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("late", [False, True], ids=["live", "stored"])
async def test_a_large_event_that_nobody_reads_is_kept_once(giant, late):
    """One of five megabytes, and fifty clients who take nothing of it: what each of them costs has a bound that the
    size of the event has not."""
    await said(giant, "warm-up", late=late)
    alone = await said(giant, "alone", late=late)
    beside = await said(giant, "beside", STALLED, late=late)
    print(f"{beside - alone:.1f} MB for {STALLED}, {alone:.1f} MB before")
    assert beside - alone < GROWTH_LARGE
