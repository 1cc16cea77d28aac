"""A model's server for measurements: streams deltas at a steady pace, each with the time at which it was written.

The model's name carries the load: `bench/300-20` is 300 deltas, one every 20 ms; `bench/400-0` is 400 deltas at once.
It listens on 127.0.0.1 and prints its port.
"""

import asyncio
import json
import re
import sys
import time

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
MODELS = b'{"data": []}'
PIECE = 64  # deltas that are written at once where there is no pace


def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    body = {
        "id": "gen-1", "provider": "Bench", "model": "bench", "object": "chat.completion.chunk", "created": 1700000000,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }  # fmt: skip
    return b"data: %b\n\n" % json.dumps(body).encode()


BEFORE, AFTER = chunk({"role": "assistant", "content": "word@STAMP "}).split(b"STAMP")
ENDING = chunk({}, "stop") + b"data: [DONE]\n\n"


def delta() -> bytes:
    return b"%b%016d%b" % (BEFORE, time.monotonic_ns() // 1000, AFTER)


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if not separator or (length and len(body) < int(length[1])):
            return
        self.received = b""
        if head.startswith(b"GET"):
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(MODELS), MODELS)
            )
            return
        count, gap = re.search(rb"bench/(\d+)-(\d+)", body).groups()
        self.transport.write(HEAD)
        self.send(int(count), int(gap) / 1000, asyncio.get_running_loop().time())

    def send(self, left: int, gap: float, due: float) -> None:
        if self.transport.is_closing():
            return
        now = left if not left or gap else min(left, PIECE)
        deltas = 1 if gap and left else now
        self.transport.write(b"".join(framed(delta()) for _ in range(deltas)))
        left -= deltas
        if not left:
            self.transport.write(framed(ENDING) + b"0\r\n\r\n")
            return
        loop = asyncio.get_running_loop()
        due += gap
        if gap:
            loop.call_at(due, self.send, left, gap, due)
        else:
            loop.call_soon(self.send, left, gap, due)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
