"""What holds up the event loop (chatcore/operation/watchdog.py)."""

import asyncio
import gc
import logging
import math
import os
import re
import signal
import sys
import threading
import time

import pytest
import uvloop

from chatcore.operation.watchdog import Watchdog
from chatcore.plugins import Row
from chatcore.plugins.registry import Provenance


@pytest.fixture
def watched(request, caplog):
    """Runs a coroutine under a watchdog; gives the watchdog and the lines that were logged."""

    def run(main, rows=()):
        async def under_watch():
            async with Watchdog(lambda: rows) as watchdog:
                await asyncio.sleep(0.17)  # a beat has come, the next one is near
                await main()
                await asyncio.sleep(0.11)  # it has come, too
            return watchdog

        with (
            caplog.at_level(logging.WARNING),
            asyncio.Runner(loop_factory=getattr(request, "param", uvloop.new_event_loop)) as runner,
        ):
            watchdog = runner.run(under_watch())
        return watchdog, [record.getMessage() for record in caplog.records]

    return run


async def sleeps():
    time.sleep(0.2)  # noqa: ASYNC251  that is the fault


async def computes():
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("watched", [None, uvloop.new_event_loop], ids=["asyncio", "uvloop"], indirect=True)
@pytest.mark.parametrize("block", [sleeps, computes])
def test_code_that_blocks_is_named_once(watched, block):
    """With its place, for how long, and what to do; whether it sleeps or computes."""
    watchdog, lines = watched(block)
    assert len(lines) == 1
    place = rf"{block.__name__} \({__file__}:\d+\)"
    named = rf"^{place} (?:has )?blocked the event loop for (\d+) ms(?: and still does)?; use "
    [ms] = re.findall(named, lines[0])
    assert 100 <= int(ms) <= 2000
    assert lines[0].endswith("use asyncio.to_thread for what waits")
    assert watchdog.blocks.sums() == {("core",): 1}
    assert sum(watchdog.lag.counts[watchdog.lag.bounds.index(0.1) + 1 :]) >= 1  # others may take the CPU, too


def hard_enough():
    """Letters that keep the regular expression below busy for a third of a second; each more doubles that. It is a
    third of a second of the CPU: one that others have had it for would be no block."""
    started = time.thread_time()
    re.match(r"(a+)+b", "a" * 18)
    return "a" * (18 + math.ceil(math.log2(0.3 / (time.thread_time() - started))))


def test_code_that_keeps_the_interpreter_to_itself_is_named(watched, caplog):
    """C code that lets no other thread run, not even the one that watches; unless others had the CPU just then."""

    async def keeps_it():
        for _ in range(5):
            if not caplog.records:
                re.match(r"(a+)+b", hard_enough())
                await asyncio.sleep(0.1)

    _, lines = watched(keeps_it)
    assert [line.partition(" (")[0] for line in lines] == [keeps_it.__qualname__]


def test_code_that_does_not_end_is_named_while_it_blocks(caplog):
    """After a second; nobody could say it afterwards."""
    named = threading.Event()

    class Named(logging.Handler):
        def emit(self, record):
            named.set()

    async def main():
        async with Watchdog(lambda: ()):
            await asyncio.sleep(0.17)
            assert named.wait(10)
            await asyncio.sleep(0.11)

    logger = logging.getLogger("chatcore.operation.watchdog")
    handler = Named()
    logger.addHandler(handler)
    try:
        asyncio.run(main())
    finally:
        logger.removeHandler(handler)
    [line] = [record.getMessage() for record in caplog.records]
    assert re.search(r"has blocked the event loop for 1\d\d\d ms and still does; use asyncio.to_thread", line)


def test_many_short_steps_are_nobodys_fault(watched):
    """A loop that is late because it has much to do is not blocked."""

    async def busy():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        for _ in range(15):
            loop.call_soon(time.sleep, 0.02)
        loop.call_soon(done.set_result, None)
        await done

    watchdog, lines = watched(busy)
    assert lines == []
    assert sum(watchdog.lag.counts[watchdog.lag.bounds.index(0.1) + 1 :]) >= 1


def test_the_garbage_collector_is_nobodys_fault(watched):
    """It has much to look at, at a moment that nobody has chosen."""
    much = [[] for _ in range(2_000_000)]

    async def collects():
        gc.collect()

    watchdog, lines = watched(collects)
    assert lines == []
    assert sum(watchdog.lag.counts[watchdog.lag.bounds.index(0.05) + 1 :]) >= 1
    del much


def test_nothing_is_collected_while_it_looks_at_frames(watched):
    """Python before 3.12 would crash, or hang for ever, when what the collector calls lets the loop go on meanwhile."""
    calling = set()

    def collects(phase, _):
        calling.add(sys._getframe(1).f_code.co_name)

    def blocks(depth):
        blocks(depth - 1) if depth else time.sleep(0.3)

    async def deep():
        gc.set_threshold(1)
        blocks(30)

    thresholds = gc.get_threshold()
    gc.callbacks.append(collects)
    try:
        _, lines = watched(deep)
    finally:
        gc.callbacks.remove(collects)
        gc.set_threshold(*thresholds)
    assert len(lines) == 1
    assert calling & {"_watch", "_look", "_glance"}  # its thread made enough for that
    assert "_step" not in calling
    assert gc.isenabled()


def test_waiting_is_not_blocking(watched):
    """Meanwhile others are served."""
    _, lines = watched(lambda: asyncio.sleep(0.3))
    assert lines == []


def test_it_leaves_nothing_behind(watched):
    """Its thread has ended with it."""
    before = threading.active_count()
    watched(lambda: asyncio.sleep(0))
    assert threading.active_count() == before


# --- false alarms -----------------------------------------------------------------------------------------------------

WORKS = """
import asyncio, logging, sys, time
from chatcore.operation.watchdog import Watchdog

def work():
    until = time.thread_time() + 0.02  # of the CPU
    while time.thread_time() < until:
        pass

async def main():
    async with Watchdog(lambda: ()) as watchdog:
        print(flush=True)
        stop = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
        while not stop.done():
            work()
            await asyncio.sleep(0)
        late = sum(watchdog.lag.counts[watchdog.lag.bounds.index(0.1) + 1:])
        print(late, watchdog.blocks.sums())

asyncio.run(main())
"""


BURNS = "import time; until = time.monotonic() + 30\nwhile time.monotonic() < until: pass"
"""Takes all of the CPU, and ends by itself should the test not come to that."""


async def works():
    """A process whose loop always works, in steps of 20 ms. When its input ends it tells how often it was late by more
    than 100 ms, and whom it has named."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKS, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    await process.stdout.readline()
    return process


async def test_a_process_that_was_stopped_names_nobody():
    """In the middle of its work, as a machine that is suspended."""
    process = await works()
    for _ in range(3):
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.25)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.1)
    late, _, named = (await process.communicate(b""))[0].decode().strip().partition(" ")
    assert (int(late) >= 1, named) == (True, "{}")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts how long a thread waited for the CPU")
async def test_a_process_that_gets_no_cpu_names_nobody():
    """It waits long in every step, and so in none of them for a reason of its own."""
    process = await works()
    cpu = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(process.pid, cpu)
    burning = [await asyncio.create_subprocess_exec(sys.executable, "-c", BURNS) for _ in range(20)]
    for other in burning:
        os.sched_setaffinity(other.pid, cpu)
    await asyncio.sleep(3)
    for other in burning:
        other.kill()
        await other.wait()
    late, _, named = (await process.communicate(b""))[0].decode().strip().partition(" ")
    assert (int(late) >= 2, named) == (True, "{}")


# --- whose code it is -------------------------------------------------------------------------------------------------


def row(name, module, *, builtin=False):
    plugin = type("Plugin", (), {"__module__": module})()
    return Row(provenance=Provenance(name, f"chatcore-{name}", "1.0", builtin), state="on", plugin=plugin)


def library_call(module):
    """A coroutine of a module that blocks in the standard library."""
    space = {"__name__": module, "time": time}
    exec("async def block():\n    inner()\ndef inner():\n    time.sleep(0.2)\n", space)
    return space["block"]


def test_a_plugin_is_named_by_its_modules(watched):
    """Also where it is another module of its package than that of its class; a longer name is another package."""
    rows = [row("other", "chatcore_slow"), row("slow", "chatcore_slower.plugin")]
    watchdog, [line] = watched(library_call("chatcore_slower.inside"), rows)
    assert line.startswith("plugin slow (chatcore-slow 1.0): inner (<string>:4) blocked the event loop for ")
    assert watchdog.blocks.sums() == {("slow",): 1}


def test_a_builtin_plugin_is_the_core(watched):
    """Its code is only on the way to what others have."""
    _, [line] = watched(library_call("chatcore.builtin.thing"), [row("thing", "chatcore.builtin.thing", builtin=True)])
    assert line.startswith("inner (<string>:4) blocked")


async def test_it_ends_while_all_threads_are_busy():
    """A server must be able to stop, whatever plugins wait for in threads."""
    free = threading.Event()
    busy = [asyncio.create_task(asyncio.to_thread(free.wait, 30)) for _ in range(100)]
    try:
        async with asyncio.timeout(5), Watchdog(lambda: ()):
            await asyncio.sleep(0)
    finally:
        free.set()
        await asyncio.gather(*busy)
