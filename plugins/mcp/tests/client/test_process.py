"""Servers that are processes: how they are started, what becomes of what they say, and how they end."""

import asyncio
import itertools
import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from .conftest import delaying_nobody, raw


def noted(log: Path) -> list[dict]:
    """What a raw server has written down."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def pids(log: Path) -> list[int]:
    return [note["pid"] for note in noted(log) if "pid" in note]


def lives(pid: int) -> bool:
    """Whether there is such a process. One that has ended and was not yet reaped does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_an_old_server_is_connected_and_called(bench, tmp_path: Path):
    """One that speaks 2024-11-05, with a list of tools in pages."""
    made = await bench({"raw": raw(tmp_path / "log", "tools=900")})
    await made.connected("raw")
    assert len(made.names()) == 911
    assert json.loads((await made.call("echo", text="hello")).text) == {"text": "hello"}


@pytest.mark.parametrize("cursor", ["", "0"])
async def test_a_list_that_does_not_end_is_taken_once(bench, tmp_path: Path, cursor: str):
    """Where the next page is called nothing, or as the one before, there is none. A tool is there once."""
    made = await bench({"raw": raw(tmp_path / "log", f"next={cursor}")})
    await made.connected("raw")
    assert len(made.server("raw").offered) == 11
    assert (tmp_path / "log").read_text().count("tools/list") <= 2


async def test_so_many_tools_are_taken_and_no_more(bench, tmp_path: Path, caplog):
    """Every turn looks at all of them. The log says so."""
    made = await bench({"raw": raw(tmp_path / "log", "tools=5000")})
    await made.connected("raw")
    assert len(made.names()) == 2_000
    assert "raw: of its tools the first 2000 are taken" in caplog.text


async def test_a_server_may_claim_what_it_does_not_have(bench, tmp_path: Path):
    """Resources and prompts: its tools can be used all the same, and there are none for these."""
    made = await bench({"raw": raw(tmp_path / "log", "claims")})
    await made.connected("raw")
    assert "echo" in made.names()
    assert "read_resource" not in made.names()


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"command": "no-such-command"}, "there is no command 'no-such-command': install it, or write its whole path"),
        ({"command": "/tmp"}, "the command '/tmp' may not be run"),
        (
            {"command": sys.executable, "cwd": "/no/such"},
            "it cannot be started in the directory /no/such: No such file or directory",
        ),
        (
            {"command": sys.executable, "cwd": "/dev/null"},
            "it cannot be started in the directory /dev/null: Not a directory",
        ),
        ({"command": "/dev/null/x"}, "the command '/dev/null/x' cannot be run: Not a directory"),
        ({"command": "true", "args": ["\0"]}, "the command 'true' cannot be run: embedded null byte"),
        ({"command": [sys.executable, "-c", "raise SystemExit('no key')"]}, "it ended with status 1: no key"),
        ({"command": [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]}, "it was killed by signal 9"),
        ({"command": [sys.executable, "-c", "pass"]}, "it ended with status 0"),
        (
            {"command": [sys.executable, "-c", "import os, time; os.close(1); time.sleep(1000)"]},
            "it closed its output",
        ),
        (raw(Path(os.devnull), "version=9999"), "Unsupported protocol version from the server: 9999"),
    ],
)
async def test_what_cannot_be_started_says_why(bench, entry, problem: str):
    """In one line, with the remedy or with the last words of the process."""
    made = await bench({"broken": entry})
    await made.until(lambda: made.server("broken").problem)
    assert made.server("broken").problem == problem
    assert made.names() == []


async def test_a_server_that_hangs_on_connect_is_given_up(bench, tmp_path: Path):
    """After the time-out; it is ended with its process, and the others are connected meanwhile."""
    made = await bench({"hung": raw(tmp_path / "hung", "hang"), "raw": raw(tmp_path / "log")}, timeout=0.8)
    assert made.server("hung").state == "connecting"
    await made.connected("raw")
    await made.until(lambda: made.server("hung").problem)
    assert made.server("hung").problem == "it did not answer within 0.8 s"
    await made.until(lambda: not lives(pids(tmp_path / "hung")[0]))


async def test_broken_answers_are_errors_that_the_model_reads(bench, tmp_path: Path):
    """Half a JSON text, and JSON of the wrong shape. The server goes on."""
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    bad = await made.call("bad_json")
    assert bad.is_error
    assert bad.text.startswith("the server refused the call: its answer cannot be read")
    shape = await made.call("bad_shape")
    assert shape.is_error
    assert "the answer has the wrong shape: " in shape.text
    assert not (await made.call("echo")).is_error
    assert made.server("raw").state == "connected"


async def test_images_go_to_the_client(bench, tmp_path: Path):
    """As a part; the model reads that there is one."""
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    result = await made.call("image")
    assert result.text == "Look:\n[image/png, 8 bytes]"
    assert result.parts == ({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},)


@pytest.mark.parametrize(
    ("tool", "arguments", "begins"),
    [
        ("big", {"size": 5_000_000}, "xxx"),
        ("dense", {}, '{"rows": [{"a": 1'),
        ("many_parts", {}, "x\nx\n"),
    ],
)
async def test_a_large_answer_is_cut_and_delays_nobody(bench, tmp_path: Path, tool: str, arguments, begins: str):
    """Five megabytes, of one text or of small values: the event loop is free again within 50 ms."""
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    await made.call("echo")
    result = await delaying_nobody(lambda: made.call(tool, **arguments))
    assert result.text.startswith(begins)
    assert not result.is_error
    assert len(result.text) <= 400_000


async def test_more_than_can_be_read_ends_the_connection(bench, tmp_path: Path, monkeypatch, caplog):
    """The call says so, the log says why, and the server is started anew."""
    monkeypatch.setattr("chatcore_mcp.process.LARGEST", 2**20)
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    result = await made.call("big", size=2_000_000)
    assert result.is_error
    await made.until(lambda: len(pids(tmp_path / "log")) == 2)
    assert "raw was lost: it sent a line of more than 1 MB" in caplog.text
    await made.connected("raw")


async def test_a_server_that_dies_in_a_call_returns(bench, tmp_path: Path, caplog):
    """The call says that its outcome is unknown; the log says what the server said last; the next call is answered."""
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    slow = asyncio.create_task(made.call("slow"))
    result = await made.call("die")
    assert result.is_error
    assert result.text == "the connection was lost during the call; what the tool did until then is unknown"
    assert (await slow).text == result.text
    await made.until(lambda: "raw was lost: it ended with status 7: I have had enough" in caplog.text)
    assert made.names()  # they are still offered
    assert not (await made.call("echo")).is_error  # it waits for the connection
    assert len(pids(tmp_path / "log")) == 2


async def test_killed_it_returns(bench, tmp_path: Path):
    """With the same tools under the same names, which are the same values."""
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    before = list(made.servers.tools())
    os.kill(pids(tmp_path / "log")[0], signal.SIGKILL)
    await made.until(lambda: len(pids(tmp_path / "log")) == 2 and made.server("raw").state == "connected")
    after = made.servers.tools()
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert not (await made.call("echo")).is_error


async def test_nothing_is_left_of_its_process_group(bench, tmp_path: Path):
    """Neither of a server that is taken out nor of one that was killed: what it started ends as well."""
    made = await bench({"raw": raw(tmp_path / "log", "child")})
    await made.connected("raw")
    leader, child = pids(tmp_path / "log")
    assert lives(leader)
    assert lives(child)
    os.kill(leader, signal.SIGKILL)
    await made.until(lambda: len(pids(tmp_path / "log")) == 4)
    assert not lives(child)
    await made.connected("raw")
    await made.change({})
    await made.until(lambda: not any(map(lives, pids(tmp_path / "log"))))


async def test_noise_is_borne(bench, tmp_path: Path, caplog):
    """Lines that are no messages, and endless words on the standard error: these are logged at debug. Calls go on."""
    with caplog.at_level(logging.INFO):
        made = await bench({"raw": raw(tmp_path / "log", "noisy")})
        await made.connected("raw")
        assert not (await delaying_nobody(lambda: made.call("echo"))).is_error
    assert "noise" not in caplog.text


async def test_a_slow_call_delays_no_other(bench, tmp_path: Path):
    """Neither to the same server nor to another."""
    made = await bench({"one": raw(tmp_path / "one"), "two": raw(tmp_path / "two")}, prefix=True)
    await made.connected("one", "two")
    slow = asyncio.create_task(made.call("one__slow"))
    for tool in ("one__echo", "two__echo"):
        assert not (await made.call(tool)).is_error
    assert not slow.done()
    await made.call("one__release")
    assert (await slow).text == "done"


async def test_a_cancelled_call_is_cancelled_at_the_server(bench, tmp_path: Path):
    """It ends at once, and the server is told; a late answer harms nobody."""
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    call = asyncio.create_task(made.call("slow"))
    await made.until(lambda: any(note.get("method") == "tools/call" for note in noted(tmp_path / "log")))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await made.until(lambda: any(note.get("method") == "notifications/cancelled" for note in noted(tmp_path / "log")))
    [request] = [note["id"] for note in noted(tmp_path / "log") if note.get("method") == "tools/call"]
    [cancelled] = [note for note in noted(tmp_path / "log") if note.get("method") == "notifications/cancelled"]
    assert cancelled["params"]["requestId"] == request
    assert (await made.call("release")).text == "released"  # the late answer has come before


async def test_changed_tools_are_followed(bench, tmp_path: Path):
    """When the server says so: the next turn has them."""
    made = await bench({"raw": raw(tmp_path / "log")})
    await made.connected("raw")
    assert "brand_new" not in made.names()
    await made.call("change", text="brand_new")
    await made.until(lambda: "brand_new" in made.names())


async def test_a_thousand_tools_delay_nobody(bench, tmp_path: Path):
    """While they are learned, the event loop is free again within 50 ms."""
    made = await bench({"small": raw(tmp_path / "small")})
    await made.connected("small")  # what it takes to import the SDK is another matter
    tries = itertools.count()

    async def learn() -> None:
        large = raw(tmp_path / f"large{next(tries)}", "tools=1000")
        await made.change({"small": raw(tmp_path / "small"), "large": large})
        await made.connected("large")

    await delaying_nobody(learn)
    assert len(made.names()) == 1022
