"""Concurrent readers of one server's streams, and what they saw: prints a JSON object.

    python load.py PORT STREAMS REQUESTS MODEL [RAMP]

opens STREAMS connections over RAMP seconds and sends REQUESTS requests in all, one after another on each.
"""

import asyncio
import json
import re
import sys
import time

import uvloop

STAMP = re.compile(rb"@(\d{16})")
PATIENCE = 120.0  # seconds for the whole


class Load:
    """What all connections have seen so far."""

    def __init__(self, requests: int, deltas: int) -> None:
        self.left = requests
        self.deltas = deltas
        self.open = 0
        self.completed = self.failed = self.events = 0
        self.first: list[float] = []
        self.lags: list[float] = []
        self.done = asyncio.Event()


class Reader(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, load: Load, request: bytes) -> None:
        self.load = load
        self.request = request
        self.active = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.load.open += 1
        self.ask()

    def ask(self) -> None:
        if not self.load.left:
            self.transport.close()
            return
        self.load.left -= 1
        self.active = True
        self.rest = b""
        self.count = 0
        self.asked = time.monotonic()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        data = self.rest + data
        end = 0
        for match in STAMP.finditer(data):
            if not self.count:
                self.load.first.append(now - self.asked)
            self.count += 1
            self.load.lags.append(now - int(match[1]) / 1e6)
            end = match.end()
        self.rest = data[max(end, len(data) - 20) :]
        if data.endswith(b"0\r\n\r\n"):
            self.active = False
            self.load.events += self.count
            if self.count == self.load.deltas:
                self.load.completed += 1
            else:
                self.load.failed += 1
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self.load.failed += self.active
        self.load.open -= 1
        if not self.load.open and not self.load.left:
            self.load.done.set()


def middle(values: list[float], part: float = 0.5) -> float | None:
    return round(sorted(values)[int(part * len(values))] * 1000, 3) if values else None


async def main(port: int, streams: int, requests: int, model: str, ramp: float) -> None:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Tell me something."}]}).encode()
    head = (
        f"POST /api/chat/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    load = Load(requests, int(model.partition("/")[2].partition("-")[0]))
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    for _ in range(streams):
        await loop.create_connection(lambda: Reader(load, head.encode() + body), "127.0.0.1", port)
        await asyncio.sleep(ramp / streams)
    try:
        async with asyncio.timeout(PATIENCE):
            await load.done.wait()
    except TimeoutError:
        load.failed += requests - load.completed - load.failed
    seen = {
        "seconds": round(time.monotonic() - started, 3),
        "completed": load.completed,
        "failed": load.failed,
        "events": load.events,
        "first_p50": middle(load.first),
        "lag_p50": middle(load.lags),
        "lag_p99": middle(load.lags, 0.99),
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    port, streams, requests, model, *ramp = sys.argv[1:]
    uvloop.run(main(int(port), int(streams), int(requests), model, float(*ramp or [0])))
