"""Accounts with real servers, on the same data: what is begun on one goes on on the other."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from chatcore.accounts import Answer

PLUGIN = '''
from quart import Blueprint

from chatcore import NoSettings, Plugin, Secret, authenticated, current_principal, hookimpl
from chatcore.protocols import Account, OAuth


class Mail(Plugin[NoSettings]):
    """Has an account, and shows its token to everybody, which nobody should imitate."""

    @hookimpl
    def register_accounts(self):
        url = self.context.environ["MAIL_URL"]
        sign_in = OAuth(
            authorize_url=f"{url}/authorize",
            token_url=f"{url}/token",
            client_id="chat core",
            client_secret=Secret("s:e c"),
        )
        yield Account(name="mail", title="Mail", sign_in=sign_in)

    @hookimpl
    def register_routes(self):
        routes = Blueprint("mail", __name__)

        @routes.get("/token")
        @authenticated
        async def token():
            found = await self.context.host.accounts.token(current_principal(), "mail")
            return {"token": found.reveal()}

        yield routes
'''


def query(answer: Answer) -> str:
    return f"/api/accounts/callback?code={answer.code.reveal()}&state={quote(answer.state)}"


async def test_two_servers_sign_in_and_refresh_as_one(
    start_server: Callable[..., Awaitable[Any]], server: Any, tmp_path: Path
):
    """A sign-in outlives the server where it was begun; of fifty callers on two servers one refreshes."""
    plugins = tmp_path / "own"
    plugins.mkdir()
    (plugins / "mail.py").write_text(PLUGIN)
    off = [f"--disable={name}" for name in ("llama", "mcp")]
    env = {"MAIL_URL": server.url, "CHATCORE_PUBLIC_URL": "http://127.0.0.1:8000"}
    start = partial(start_server, f"--plugins-dir={plugins}", *off, env=env)
    first, second = await asyncio.gather(start(), start())
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        url = (await client.post(f"{first.url}/api/accounts/mail/sign-in")).json()["url"]
        await first.kill()
        server.lifetime = 30  # less than a token must have left
        page = await client.get(second.url + query(server.consent(url)))
        assert (page.status_code, "Mail is connected" in page.text) == (200, True)
        server.lifetime = 3600
        third = await start()
        urls = [f"{one.url}/token" for one in (second, third) for _ in range(25)]
        answers = await asyncio.gather(*(client.get(url) for url in urls))
        assert {answer.json()["token"] for answer in answers} == {server.given[2]}
        assert (server.refreshes, server.ended) == (1, False)
    key = (tmp_path / "data" / "accounts.key").read_text().strip()
    assert not [
        text
        for text in (*server.given, "s:e c", key)
        for one in (first, second, third)
        if text.encode() in bytes(one.log)
    ]
