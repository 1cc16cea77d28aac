"""Uses a server for minutes as impatient people would, and tells whether its memory grows.

    uv run python tests/bench/soak.py [--minutes 10] [--warm-up 3] [--workers 1] [--visitors 100]

Visitors ask, leave, come back, stop, delete and begin anew, all the time. Prints the memory of the server's process
tree every half minute, and at the end its slope after the warm-up, by least squares. Exits with 1 if anything failed.
"""

import argparse
import asyncio
import random
import re
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs
import httpx
import psutil
from run import CHATCORE, Server, free_port, settings, upstream

from chatcore import sse

MODEL = "bench/40-100"
"""Answers of four seconds."""
PAUSE = 5.0
"""Seconds between two samples."""
TOLD_EVERY = 6
"""Samples of which one is printed."""
CALM = 15.0
"""Seconds after which a server whose visitors have gone has no answers under way any more."""
MEGABYTE = 2**20


class Failure(Exception):
    """Something that no visitor should see."""


@attrs.define
class Visitor:
    """Somebody who uses the server. What they do is drawn by lot, and counted."""

    client: httpx.AsyncClient
    lot: random.Random
    done: Counter[str]
    session: str = ""

    async def stay(self, until: float) -> None:
        """Goes from conversation to conversation."""
        await asyncio.sleep(self.lot.random() * 4)
        while time.monotonic() < until:
            self.session = f"session_{uuid.UUID(int=self.lot.getrandbits(128)).hex}"
            for _ in range(self.lot.randrange(1, 5)):
                habit = self.lot.choice([self.read, self.read, self.come_back, self.stop, self.look_around])
                await self._try(habit)
            await self._try(self.lot.choice([self.leave, self.delete, self.read]))

    async def _try(self, habit: object) -> None:
        name = habit.__name__
        try:
            await habit()
            self.done[name] += 1
        except (Failure, httpx.HTTPError) as error:
            self.done["failed"] += 1
            print(f"{name}: {error!r}", file=sys.stderr)

    # --- what they do -------------------------------------------------------------------------------------------------

    async def read(self) -> None:
        """Reads an answer to its end."""
        await self._to_the_end(self._ask())

    async def come_back(self) -> None:
        """Loses the connection once or twice, and reads on."""
        last_id = await self._begin(self._ask(leaving="continue"))
        for _ in range(self.lot.randrange(2)):
            last_id = last_id and await self._begin(self._resume(last_id))
        if last_id:
            await self._to_the_end(self._resume(last_id))

    async def stop(self) -> None:
        """Stops an answer, and reads what there is of it."""
        last_id = await self._begin(self._ask(leaving="continue"))
        await self._call("POST", f"/api/chat/runs/{last_id.partition(':')[0]}/stop")
        await self._to_the_end(self._resume(last_id))

    async def look_around(self) -> None:
        """Looks at the conversations."""
        await self._call("GET", "/api/chat/conversations?limit=20")
        await self._call("GET", "/health")
        await self.read()
        messages = (await self._call("GET", f"/api/chat/session/{self.session}/messages")).json()["messages"]
        if messages[-1]["content"].count("word") != 40:
            raise Failure(f"the last message is {messages[-1]}")

    async def leave(self) -> None:
        """Leaves in the middle of an answer, which then ends."""
        await self._begin(self._ask())

    async def delete(self) -> None:
        """Deletes the conversation, in the middle of an answer."""
        await self._begin(self._ask(leaving="continue"))
        await self._call("DELETE", f"/api/chat/conversations/{self.session}")

    # --- how ----------------------------------------------------------------------------------------------------------

    def _ask(self, *, leaving: str = "stop") -> AsyncIterator[sse.Event]:
        text = "Tell me something. " * self.lot.randrange(1, 50)
        body = {"model": MODEL, "session_id": self.session, "messages": [{"role": "user", "content": text}]}
        return self._events("POST", "/api/chat/stream", json=body, headers={"Chatcore-On-Disconnect": leaving})

    def _resume(self, last_id: str) -> AsyncIterator[sse.Event]:
        path = f"/api/chat/runs/{last_id.partition(':')[0]}/events"
        return self._events("GET", path, headers={"Last-Event-ID": last_id})

    async def _events(self, method: str, path: str, **request: object) -> AsyncIterator[sse.Event]:
        parser = sse.Parser()
        async with self.client.stream(method, path, **request) as response:
            if response.status_code != 200:
                raise Failure(f"{response.status_code}: {(await response.aread()).decode()}")
            async for data in response.aiter_raw():
                for event in parser.feed(data):
                    if event.event == "error":
                        raise Failure(event.data.decode())
                    yield event

    async def _begin(self, events: AsyncIterator[sse.Event]) -> str:
        """Reads some of a stream and closes the connection. Gives the last id; nothing if that was the end."""
        left = self.lot.randrange(1, 40)
        async with aclosing(events):
            async for event in events:
                left -= 1
                if left <= 0 and event.id and event.data != sse.DONE:
                    return event.id
        return ""

    async def _to_the_end(self, events: AsyncIterator[sse.Event]) -> None:
        last = None
        async for event in events:
            last = event
        if last is None or last.data != sse.DONE:
            raise Failure(f"a stream ended with {last}")

    async def _call(self, method: str, path: str) -> httpx.Response:
        response = await self.client.request(method, path)
        if response.status_code >= 300:
            raise Failure(f"{method} {path}: {response.status_code}: {response.text}")
        return response


@attrs.frozen
class Sample:
    """The memory of a process tree, in MB."""

    moment: float
    rss: float
    pss: float
    private: float

    @classmethod
    def of(cls, server: Server, moment: float) -> "Sample":
        process = psutil.Process(server.process.pid)
        found = [one.memory_full_info() for one in [process, *process.children(recursive=True)]]
        sums = (sum(getattr(one, name) for one in found) / MEGABYTE for name in ("rss", "pss", "uss"))
        return cls(moment, *sums)


async def watch(server: Server, done: Counter[str], until: float) -> list[Sample]:
    """Takes samples, and prints some."""
    samples, began = [], time.monotonic()
    while time.monotonic() < until:
        samples.append(Sample.of(server, time.monotonic() - began))
        if len(samples) % TOLD_EVERY == 1:
            now = samples[-1]
            print(
                f"{now.moment / 60:5.1f} min  RSS {now.rss:6.1f}  PSS {now.pss:6.1f}  private {now.private:6.1f} MB"
                f"  {sum(done.values())} done, {done['failed']} failed",
                flush=True,
            )
        await asyncio.sleep(PAUSE)
    return samples


def slope(samples: list[Sample], name: str) -> float:
    """MB for each ten minutes."""
    return 600 * statistics.linear_regression([s.moment for s in samples], [getattr(s, name) for s in samples]).slope


async def calm(client: httpx.AsyncClient) -> bool:
    """Whether nothing is left of visitors who have gone."""
    for _ in range(int(CALM)):
        page = (await client.get("/metrics")).text
        if not sum(float(n) for n in re.findall(r"^chatcore_(?:streams|runs)\{.*\} (\S+)$", page, re.MULTILINE)):
            return True
        await asyncio.sleep(1)
    return False


async def soak(server: Server, options: argparse.Namespace) -> bool:
    """Gives whether nothing failed."""
    done: Counter[str] = Counter()
    until = time.monotonic() + 60 * (options.minutes + options.warm_up)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{server.port}",
        trust_env=False,
        timeout=60,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
    ) as client:
        visitors = [Visitor(client, random.Random(seed), done) for seed in range(options.visitors)]
        samples, *_ = await asyncio.gather(watch(server, done, until), *(one.stay(until) for one in visitors))
        is_calm = await calm(client)
    after = [sample for sample in samples if sample.moment >= options.warm_up * 60]
    print(", ".join(f"{count} × {name}" for name, count in sorted(done.items())))
    print("nothing is left of them" if is_calm else "answers or streams are left of them")
    for name in ("rss", "pss", "private"):
        print(f"{name}: {slope(after, name):+.2f} MB in 10 minutes, {after[0].rss:.1f} MB after the warm-up")
    return is_calm and not done["failed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--visitors", type=int, default=100)
    options = parser.parse_args()
    port = free_port()
    with TemporaryDirectory(prefix="chatcore-soak-") as data, upstream() as url:
        command = [*CHATCORE, "--port", str(port), "--workers", str(options.workers)]
        server = Server("chatcore", command, port, settings(url, Path(data)))
        try:
            fine = asyncio.run(soak(server, options))
        finally:
            server.stop()
    sys.exit(not fine)


if __name__ == "__main__":
    main()
