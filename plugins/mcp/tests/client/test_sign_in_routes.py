"""The HTTP API of signing in to servers, on a whole chat server: from the 401 to the tools of the next turn."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_asyncio
from chatcore_mcp import Mcp

from chatcore.database import Tokens
from chatcore.testing.chat import Chat, running_chat
from chatcore.testing.scripted import ScriptedProvider, call, text

from .guarded import Guarded, guarded

PUBLIC = "https://chat.example.org"


@attrs.define
class Api:
    """A chat server, asked by two principals: ann may do everything, bob may chat."""

    chat: Chat
    provider: ScriptedProvider
    tokens: dict[str, str]

    async def ask(self, who: str, method: str, path: str, status: int = 200, body: Any = None) -> Any:
        headers = {"authorization": f"Bearer {self.tokens[who]}"}
        response = await self.chat.client.request(method, f"/api/mcp/servers{path}", json=body, headers=headers)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def server(self, who: str) -> Any:
        [server] = (await self.ask(who, "GET", "/"))["servers"]
        return server

    async def until(self, **fields: Any) -> None:
        async with asyncio.timeout(20):
            while {key: (await self.server("ann"))[key] for key in fields} != fields:
                await asyncio.sleep(0.01)

    async def needed(self) -> None:
        async with asyncio.timeout(20):
            while ((await self.server("ann"))["sign_in"] or {}).get("state") != "needed":
                await asyncio.sleep(0.01)

    async def sign_in(self, who: str, fake: Guarded) -> None:
        fake.subject = who
        url = (await self.ask(who, "POST", "/guarded/sign-in"))["url"]
        page = await self.chat.client.get(f"/api/accounts/callback?{fake.consent(url)}")
        assert page.status_code == 200, page.text
        await self.until(connected=True)

    async def turn(self, who: str) -> tuple[list[str], set[str]]:
        """What a tool gives in a turn of somebody's, and the tools that the model was offered."""
        self.provider._scripts = [[call("whoami")], [text("So it is.")]]
        headers = {"authorization": f"Bearer {self.tokens[who]}"}
        body = {"messages": [{"role": "user", "content": "who am I?"}], "session_id": f"svelte_{who}"}
        before = len(self.provider.requests)
        response = await self.chat.client.post("/api/chat/stream", json=body, headers=headers)
        assert response.status_code == 200, response.text
        offered = {tool.name for tool in self.provider.requests[before].tools}
        lines = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith('data: {"status"')]
        return [line["result"] for line in lines if line["status"] in ("finished", "error")], offered


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[Guarded]:
    async with guarded() as fake:
        yield fake


@asynccontextmanager
async def serving(directory: Path, entries: dict[str, Any]) -> AsyncIterator[Api]:
    file = directory / "mcp_servers.json"
    if not file.exists():
        file.write_text(json.dumps({"mcpServers": entries}))
    provider = ScriptedProvider()
    config = {"public_url": PUBLIC}
    async with running_chat(
        directory / "data", Mcp, provider=provider, settings={"servers": file}, config=config
    ) as chat:
        tokens = Tokens(chat.app.extensions["chatcore"].database)
        made = {name: (await tokens.create(name, scopes, ""))[1] for name, scopes in {"ann": ["*"], "bob": []}.items()}
        yield Api(chat, provider, made)


async def test_from_the_401_to_the_tools(tmp_path: Path, fake: Guarded):
    """Who has signed in has them in the next turn, nobody else has; a restart changes nothing."""
    async with serving(tmp_path, {"guarded": {"url": fake.url}}) as api:
        await api.needed()
        server = await api.server("ann")
        assert server["sign_in"] == {
            "state": "needed",
            "url": None,
            "is_yours": False,
            "shared": False,
            "problem": None,
        }
        assert "POST /api/mcp/servers/guarded/sign-in" in server["error"]
        assert (await api.turn("bob"))[1] == set()
        url = (await api.ask("bob", "POST", "/guarded/sign-in"))["url"]
        assert (await api.server("bob"))["sign_in"]["url"] == url
        assert (await api.server("ann"))["sign_in"]["url"] is None
        await api.sign_in("bob", fake)
        assert await api.turn("bob") == (["called as bob"], {"whoami"})
        result, offered = await api.turn("ann")
        assert offered == set()
        assert "There is no tool 'whoami'" in result[0]
        assert [tool["name"] for tool in (await api.server("bob"))["tools"]] == ["whoami"]
        assert (await api.server("ann"))["tools"] == []
        assert (await api.ask("ann", "GET", "/guarded/tools"))["tools"] == []
        await api.ask("ann", "POST", "/guarded/sign-in", 409)
    async with serving(tmp_path, {}) as api:
        await api.until(connected=True)
        assert await api.turn("bob") == (["called as bob"], {"whoami"})
        fake.end()
        assert "it wants somebody to sign in again" in (await api.turn("bob"))[0][0]
        await api.until(connected=False)
        assert (await api.server("bob"))["sign_in"]["state"] == "needed"


async def test_signing_out(tmp_path: Path, fake: Guarded):
    """By whom the sign-in is, or by who decides for everybody; taking the server out is one as well."""
    async with serving(tmp_path, {"guarded": {"url": fake.url}}) as api:
        await api.needed()
        await api.ask("ann", "DELETE", "/guarded/sign-in", 404)
        await api.sign_in("ann", fake)
        await api.ask("bob", "DELETE", "/guarded/sign-in", 403)
        assert (await api.ask("ann", "DELETE", "/guarded/sign-in"))["connected"] is False
        assert sorted(fake.revoked) == ["access", "refresh"]
        await api.needed()
        await api.sign_in("bob", fake)
        await api.ask("ann", "DELETE", "/guarded")
        assert len(fake.revoked) == 4


async def test_a_shared_sign_in_is_for_everybody(tmp_path: Path, fake: Guarded):
    """So it is for somebody who decides for everybody; and only the file can say so."""
    async with serving(tmp_path, {"guarded": {"url": fake.url, "shared": True}}) as api:
        await api.needed()
        await api.ask("bob", "POST", "/guarded/sign-in", 403)
        await api.sign_in("ann", fake)
        assert await api.turn("bob") == (["called as ann"], {"whoami"})
        await api.ask("bob", "DELETE", "/guarded/sign-in", 403)
        body = {"servers": [{"id": "other", "url": fake.url, "shared": True}]}
        await api.ask("ann", "PUT", "/", 403, body)


async def test_a_server_that_asks_can_be_added(tmp_path: Path, fake: Guarded):
    """Under the name of where it is: it has not said its own yet."""
    async with serving(tmp_path, {}) as api:
        added = await api.ask("ann", "POST", "/connect", body={"url": fake.url})
        assert added["id"].startswith("127.0.0.1-")
        assert (added["connected"], added["sign_in"]["state"]) == (False, "needed")


async def test_what_is_no_server_to_sign_in_to_says_so(tmp_path: Path, fake: Guarded):
    """One that has a token, and one that is not there."""
    headers = {"Authorization": "Bearer x"}
    async with serving(tmp_path, {"guarded": {"url": fake.url, "headers": headers}}) as api:
        answer = await api.ask("ann", "POST", "/guarded/sign-in", 409)
        assert answer["detail"].startswith("guarded is no server to sign in to")
        await api.ask("ann", "POST", "/nobody/sign-in", 404)


async def test_authorization_servers_are_told_who_asks(tmp_path: Path):
    """Without a token: they have none."""
    async with serving(tmp_path, {}) as api:
        answer = await api.chat.client.get("/api/mcp/client.json")
        told = answer.json()
        assert told["client_id"] == f"{PUBLIC}/api/mcp/client.json"
        assert told["redirect_uris"] == [f"{PUBLIC}/api/accounts/callback"]
        assert told["token_endpoint_auth_method"] == "none"


async def test_a_server_without_a_public_address_says_what_to_set(make_chat):
    """It could name no page to come back to."""
    chat = await make_chat(Mcp)
    answer = await chat.client.get("/api/mcp/client.json")
    assert answer.status_code == 409
    assert "public_url" in answer.json()["hint"]


@pytest.mark.parametrize("entry", [{"auth": "basic"}, {"oauth": {"client_id": 1}}, {"oauth": "yes"}])
async def test_a_wrong_entry_says_what_is_wrong(tmp_path: Path, fake: Guarded, entry: dict[str, Any]):
    """The server is off."""
    async with serving(tmp_path, {"guarded": {"url": fake.url, **entry}}) as api:
        assert next(iter(entry)) in (await api.server("ann"))["error"]
