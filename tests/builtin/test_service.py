"""What the server says of itself (chatcore/builtin/service/)."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatcore import access
from chatcore.builtin import tokens
from chatcore.builtin.service import readiness
from chatcore.database import Tokens
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.operation.metrics import METRICS
from chatcore.plugins import lifespans
from chatcore.protocols import Health, Lifespan
from chatcore.testing.scripted import ScriptedProvider


@attrs.define
class Moody:
    """A provider whose health is what a test wants."""

    state: Health = attrs.field(factory=Health)
    asked: int = 0
    name: str = "moody"
    open: bool = False
    default_model: str | None = "moody/model"

    def health(self):
        self.asked += 1
        if self.state.detail == "raise":
            raise RuntimeError("I cannot tell")
        return self.state

    async def models(self):
        return []

    def stream(self, request):
        raise AssertionError("it is only asked how it is")


@pytest.fixture
def moody():
    return Moody()


@pytest.fixture
async def chat(make_chat, moody, monkeypatch):
    """A server with two providers: `moody`, and the scripted one that fails."""
    monkeypatch.setattr(tokens, "FRESH", 0.05)

    class Provides(Plugin[NoSettings]):
        @hookimpl
        def register_providers(self):
            yield moody

    failing = ScriptedProvider()
    failing.health = lambda: Health("failed", "no key")
    return await make_chat(Provides, provider=failing)


async def token(chat, *scopes):
    """Makes a token; from then on people must sign in. Gives the header that has it."""
    _, made = await Tokens(chat.app.extensions["chatcore"].database).create("ann", scopes, "", None)
    async with asyncio.timeout(5):
        while (await chat.client.get("/api/plugins")).status_code != 401:
            await asyncio.sleep(0.05)
    return {"Authorization": f"Bearer {made}"}


@pytest.fixture
async def stuck(chat, monkeypatch):
    """The database answers nobody, and those who ask have less patience than usual."""
    monkeypatch.setattr(access, "PATIENCE", 0.1)
    monkeypatch.setattr(readiness, "PATIENCE", 0.1)
    go_on = threading.Event()
    database = chat.app.extensions["chatcore"].database
    reads = [asyncio.ensure_future(database.read(go_on.wait)) for _ in range(20)]
    await asyncio.sleep(0)
    yield chat
    go_on.set()
    await asyncio.gather(*reads)


# --- health -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_answers_is_ready(chat):
    """With one provider that can be used; what is wrong with the other is told."""
    answer = await chat.client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "checks": {
            "draining": {"ok": True, "detail": ""},
            "database": {"ok": True, "detail": ""},
            "providers": {"ok": True, "detail": "scripted: no key"},
            "lifespans": {"ok": True, "detail": ""},
        },
    }


async def test_a_server_without_a_usable_provider_is_not_ready(chat, moody):
    """The one that is built in does not count, where there are others; one that cannot tell counts as failed."""
    moody.state = Health("failed", "raise")
    answer = await chat.client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["status"] == "not_ready"
    assert answer.json()["checks"]["providers"] == {"ok": False, "detail": "moody: I cannot tell; scripted: no key"}
    assert (await chat.client.get("/health")).status_code == 200


async def test_a_server_that_stops_is_not_ready(chat):
    """At once, so that nobody is sent there any more."""
    assert (await chat.client.get("/health/ready")).status_code == 200
    chat.app.extensions["chatcore"].streams.draining = True
    answer = await chat.client.get("/health/ready")
    assert (answer.status_code, answer.json()["checks"]["draining"]["ok"]) == (503, False)


async def test_a_server_whose_database_does_not_answer_lives_and_is_not_ready(stuck):
    """To restart it would not help; to send it clients would not either."""
    async with asyncio.timeout(10):  # the database would take longer: it never answers
        lives, ready = await asyncio.gather(stuck.client.get("/health"), stuck.client.get("/health/ready"))
    assert (lives.status_code, lives.json()["active_model"]) == (200, "moody/model")
    assert (ready.status_code, ready.json()) == (503, {"status": "not_ready"})  # nobody could say who asked


async def test_no_client_learns_where_the_data_is(chat, tmp_path, caplog):
    """A fault of the database is told in neutral words, by a route and by a check; the log has the reason."""
    database = chat.app.extensions["chatcore"].database
    await database.close()
    try:
        failed, ready = await asyncio.gather(
            chat.client.get("/api/chat/conversations"), chat.client.get("/health/ready")
        )
    finally:
        await database.open()
    assert (failed.status_code, failed.json()) == (
        503,
        {
            "detail": "The server's data cannot be read or written.",
            "code": "database_unavailable",
            "hint": "the reason is in the server's log",
        },
    )
    assert ready.status_code == 503
    assert str(tmp_path) not in ready.text
    assert f"{tmp_path}" in caplog.text


@pytest.mark.parametrize(("strict", "status"), [(True, 503), (False, 200)])
async def test_what_a_server_cannot_do_without_must_be_open(make_chat, monkeypatch, strict, status):
    """With `strict` that is each lifespan; else what other plugins are still opening is only told of."""
    monkeypatch.setattr(lifespans, "START", 0.05)

    class Opens(Plugin[NoSettings]):
        @hookimpl
        def register_lifespans(self):
            yield Lifespan("door", for_ever)

    @asynccontextmanager
    async def for_ever():
        await asyncio.Event().wait()
        yield

    chat = await make_chat(Opens, config={"strict": strict})
    answer = await chat.client.get("/health/ready")
    assert answer.status_code == status
    assert answer.json()["checks"]["lifespans"] == {"ok": not strict, "detail": "opens.door is starting"}


async def test_asking_again_and_again_costs_nothing(chat, moody):
    """A hundred questions in a second are one look."""
    moody.asked = 0
    answers = await asyncio.gather(*(chat.client.get("/health/ready") for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert moody.asked <= 2


async def test_strangers_are_told_of_no_provider(chat):
    """Where people must sign in they get what clients read. Who has a token is told how each provider is."""
    header = await token(chat, "*")
    answer = (await chat.client.get("/health")).json()
    assert answer == {"status": "ok", "default_model": "moody/model", "active_model": "moody/model"}
    known = (await chat.client.get("/health", headers=header)).json()
    assert known["providers"]["scripted"] == {"state": "failed", "detail": "no key"}


async def test_strangers_are_told_only_whether_it_is_ready(chat):
    """Where people must sign in. Who has a token is told why."""
    header = await token(chat, "*")
    assert (await chat.client.get("/health/ready")).json() == {"status": "ready"}
    assert "checks" in (await chat.client.get("/health/ready", headers=header)).json()


# --- metrics ----------------------------------------------------------------------------------------------------------


def numbers(page):
    """The numbers of a page by name and labels."""
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "worker")): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


async def test_the_numbers_are_those_of_what_was_done(make_chat):
    """A page that Prometheus reads, with every metric that there is, each number with the worker's."""
    chat = await make_chat()
    await chat.say("hello")
    async with asyncio.timeout(5):
        while b"runs_ended_total{" not in (answer := await chat.client.get("/metrics")).content:
            await asyncio.sleep(0.01)  # the run ends with the next group commit
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert re.findall(r"^# HELP (\S+) (.*)$", answer.text, re.MULTILINE) == [(m.name, m.help) for m in METRICS]
    assert all(
        sample.labels["worker"] == "1"
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    )
    found = numbers(answer.text)
    assert found["chatcore_runs_ended_total", "stop", "completed"] == 1
    assert found["chatcore_tokens_total", "completion", "scripted/model"] == 1
    assert found["chatcore_events_total",] >= 4
    assert found["chatcore_first_token_seconds_count", "scripted"] == 1
    assert found["chatcore_requests_total", "200"] >= 1
    assert found["chatcore_calls_total", "provider scripted", "scripted"] == 1
    assert found["chatcore_calls_running", "route service.metrics", "service"] == 1
    assert found["chatcore_database_commit_seconds_count",] >= 2
    assert found["process_resident_memory_bytes",] > 10e6
    assert found["process_open_fds",] > 3


async def test_the_numbers_are_for_those_who_may_see_them(chat):
    """A token needs the scope `metrics`, where people must sign in."""
    assert (await chat.client.get("/metrics")).status_code == 200
    header = await token(chat, "metrics")
    assert (await chat.client.get("/metrics")).status_code == 401
    assert (await chat.client.get("/metrics", headers=header)).status_code == 200
    assert (await chat.client.get("/api/plugins", headers=header)).status_code == 403
    other = await token(chat, "other")
    assert (await chat.client.get("/metrics", headers=other)).status_code == 403


def test_the_library_is_not_imported_before_somebody_asks():
    """It takes a tenth of a second."""
    code = "import chatcore.serving.server, sys; print({'prometheus_client'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.slow
async def test_one_worker_tells_the_numbers_of_all(start_server):
    """Also of one that has taken the place of another; its numbers begin anew."""
    import httpx

    server = await start_server("--workers", "2", "--disable", "llama", "--disable", "openrouter", "--disable", "mcp")

    async def started():
        """When each worker was, by its number."""
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            page = (await client.get("/metrics")).text
        return dict(re.findall(r'process_start_time_seconds\{worker="(\d)"\} (\S+)', page))

    async def until(condition):
        async with asyncio.timeout(20):
            while not condition(found := await started()):
                await asyncio.sleep(0.1)
        return found

    before = await until(lambda found: found.keys() == {"1", "2"})
    [pid] = re.findall(r"worker 2 is ready in process (\d+)", server.log.decode())
    os.kill(int(pid), signal.SIGKILL)
    after = await until(lambda found: found.keys() == {"1", "2"} and found["2"] != before["2"])
    assert after["1"] == before["1"]
