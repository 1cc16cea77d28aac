"""A database that goes away while a server runs: every route says so, as a thing that passes, and comes back."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import pytest_asyncio

from chatcore.access import policy_of
from chatcore.builtin import tokens
from chatcore.database import Tokens
from chatcore.testing.chat import Chat, running_chat

Fault = Callable[[], None]


@attrs.frozen
class Broken:
    """A server, a token for it, and what takes its database away and brings it back."""

    chat: Chat
    bearer: dict[str, str]
    breaks: Fault
    mends: Fault


def moved(data: Path) -> tuple[Fault, Fault]:
    """The file is not where it was; another one may be."""
    file, away = data / "chatcore.db", data / "elsewhere.db"
    return lambda: file.rename(away), lambda: away.rename(file)


def replaced(data: Path) -> tuple[Fault, Fault]:
    """Another file was put in its place, as by who restores a backup by hand."""
    file, away = data / "chatcore.db", data / "elsewhere.db"

    def replace() -> None:
        file.rename(away)
        file.write_bytes(away.read_bytes())

    return replace, lambda: away.rename(file)


def overwritten(data: Path) -> tuple[Fault, Fault]:
    """Something has written over the file and its log."""
    files = list(data.glob("chatcore.db*"))
    kept = [path.read_bytes() for path in files]

    def write(contents: list[bytes]) -> None:
        for path, content in zip(files, contents, strict=True):
            with path.open("r+b") as file:
                file.write(content)

    return lambda: write([os.urandom(len(content)) for content in kept]), lambda: write(kept)


def refused(server: Any, url: str) -> tuple[Fault, Fault]:
    """The server lets nobody in."""
    name = url.partition("?")[0].rpartition("/")[2]

    def refuse() -> None:
        server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")

    return refuse, lambda: server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest_asyncio.fixture(params=[moved, replaced, overwritten, pytest.param(refused, marks=pytest.mark.slow)])
async def broken(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Broken]:
    """A server whose database can be taken away, by each of the faults."""
    monkeypatch.setattr(tokens, "FRESH", 0.0)
    config: dict[str, Any] = {}
    if request.param is refused:
        monkeypatch.setattr("chatcore.database.postgres._PATIENCE", 0.2)
        config["database"] = request.getfixturevalue("postgres_url")
        breaks, mends = refused(request.getfixturevalue("postgres_server"), config["database"])
    async with running_chat(tmp_path / "data", config=config) as chat:
        _, token = await Tokens(chat.app.extensions["chatcore"].database).create("ann", ["*"], "")
        if request.param is not refused:
            breaks, mends = request.param(tmp_path / "data")
        yield Broken(chat, {"authorization": f"Bearer {token}"}, breaks, mends)
        with suppress(FileNotFoundError):
            mends()


async def answers(chat: Chat, headers: dict[str, str]) -> dict[str, httpx.Response]:
    """What every route that is not public answers, by method and path; to whom has a token, but for the counters."""
    found = {}
    for rule in chat.app.url_map.iter_rules():
        policy = policy_of(chat.app.view_functions[rule.endpoint])
        if policy is None or policy.name == "public":
            continue
        path = re.sub(r"<(?:\w+:)?\w+>", "1", rule.rule)
        for method in sorted({*(rule.methods or ())} - {"HEAD", "OPTIONS"}):
            if headers and path == "/metrics":
                continue
            async with asyncio.timeout(30):
                found[f"{method} {path}"] = await chat.client.request(method, path, headers=headers)
    return found


async def test_every_route_says_that_the_data_are_not_to_be_had(broken: Broken) -> None:
    """With a status that says that it may pass, when to come again, and our error; counters are given all the same, to
    whom they were given before. What asks whether the server lives learns that it does."""
    client = broken.chat.client
    assert (await client.get("/metrics", headers=broken.bearer)).status_code == 200
    broken.breaks()
    for headers in (broken.bearer, {}):
        found = await answers(broken.chat, headers)
        assert ("GET /metrics" in found, len(found) >= 30) == (not headers, True)
        told = {name: (a.status_code, a.headers.get("retry-after"), a.json().get("code")) for name, a in found.items()}
        assert set(told.values()) == {(503, "5", "database_unavailable")}, told
    counters = await client.get("/metrics", headers=broken.bearer)
    assert (counters.status_code, "chatcore_" in counters.text) == (200, True)
    lives, ready = await client.get("/health"), await client.get("/health/ready")
    assert (lives.status_code, ready.status_code) == (200, 503)
    broken.mends()
    async with asyncio.timeout(20):
        while (await client.get("/api/plugins", headers=broken.bearer)).status_code != 200:
            await asyncio.sleep(0.05)
