"""The HTTP API: servers, preferences, profiles, and what of it reaches a turn."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_asyncio
from chatcore_mcp import Mcp

from chatcore.access import policy_of
from chatcore.database import Documents
from chatcore.testing.chat import Chat, running_chat
from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.types import LOCAL

from .conftest import raw
from .test_outbound import running


@attrs.define
class Api:
    """A chat server with two MCP servers, `a` and `b`, that have the same tools."""

    chat: Chat
    file: Path

    async def get(self, path: str, status: int = 200) -> Any:
        return await self.ask("GET", path, status)

    async def ask(self, method: str, path: str, status: int = 200, body: Any = None) -> Any:
        response = await self.chat.client.request(method, path, json=body)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def servers(self) -> dict[str, Any]:
        return {server["id"]: server for server in (await self.get("/api/mcp/servers"))["servers"]}

    async def connected(self, *keys: str) -> None:
        async with asyncio.timeout(20):
            servers = await self.servers()
            while not all(servers[key]["connected"] for key in keys):
                await asyncio.sleep(0.01)
                servers = await self.servers()

    def document(self) -> Any:
        return json.loads(self.file.read_text())


@pytest_asyncio.fixture
async def provider() -> ScriptedProvider:
    return ScriptedProvider()


@pytest_asyncio.fixture
async def api(tmp_path: Path, provider: ScriptedProvider) -> AsyncIterator[Api]:
    file = tmp_path / "mcp_servers.json"
    entries = {key: {**raw(tmp_path / f"{key}.log"), "mine": [1]} for key in ("a", "b")}
    file.write_text(json.dumps({"mcpServers": entries, "theirs": True}, indent=4))
    async with running_chat(tmp_path / "data", Mcp, provider=provider, settings={"servers": file}) as chat:
        made = Api(chat, file)
        await made.connected("a", "b")
        yield made


@pytest.fixture
def url():
    with running() as url:
        yield url


# --- servers ----------------------------------------------------------------------------------------------------------


async def test_servers_are_listed(api: Api):
    """In both spellings of the path, with all that the clients read."""
    collection = await api.get("/api/mcp/servers/")
    assert collection == await api.get("/api/mcp/servers")
    assert collection["updated_at"]
    server = (await api.servers())["a"]
    assert server["tool_count"] == len(server["tools"]) == 11
    assert server["tools"][0] == {"name": "echo", "qualified_name": "a__echo", "enabled": True}
    rest = {key: value for key, value in server.items() if key not in ("tools", "tool_count")}
    assert rest == {
        "id": "a",
        "url": "",
        "http_url": None,
        "transport": "stdio",
        "enabled": True,
        "connected": True,
        "status": "connected",
        "error": None,
        **PLAIN,
        "sign_in": None,
    }


async def test_the_tools_of_a_server_are_listed(api: Api):
    """With what they say of themselves; in both spellings."""
    tools = await api.get("/api/mcp/servers/a/tools")
    assert tools == await api.get("/api/mcp/servers/a/tools/")
    assert tools["server_id"] == "a"
    assert tools["tools"][0] == {
        "name": "echo",
        "qualified_name": "a__echo",
        "enabled": True,
        "description": "Does echo.",
        "input_schema": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "What to say."}, "size": {"type": "integer"}},
        },
    }
    await api.get("/api/mcp/servers/nobody/tools", 404)


async def test_a_server_is_switched_off_and_on(api: Api):
    """In the file, which keeps what else it has."""
    collection = await api.ask("PATCH", "/api/mcp/servers/a", body={"enabled": False})
    [server] = [one for one in collection["servers"] if one["id"] == "a"]
    assert (server["enabled"], server["connected"], server["status"]) == (False, False, "disconnected")
    assert api.document()["mcpServers"]["a"]["enabled"] is False
    assert api.document()["mcpServers"]["a"]["mine"] == [1]
    assert api.document()["theirs"] is True
    assert api.file.read_text().startswith('{\n    "mcpServers"')
    collection = await api.ask("PATCH", "/api/mcp/servers/a/", body={"enabled": True})
    assert [one["status"] for one in collection["servers"]] == ["connected", "connected"]
    for off in (True, False):  # the other spelling
        await api.ask("PATCH", "/api/mcp/servers/b", body={"disabled": off})
        assert (await api.servers())["b"]["enabled"] is not off


async def test_tools_are_switched_off_and_on(api: Api):
    """By either name, one by one or all together."""
    await api.ask("POST", "/api/mcp/servers/a/tools", body={"tool_name": "echo", "enabled": False})
    await api.ask("POST", "/api/mcp/servers/a/tools", body={"tool_name": "a__big", "enabled": False})
    server = (await api.servers())["a"]
    assert server["disabled_tools"] == ["big", "echo"]
    assert server["tool_count"] == 9
    await api.ask("POST", "/api/mcp/servers/a/tools/", body={"tool_name": "echo", "enabled": True})
    assert (await api.servers())["a"]["disabled_tools"] == ["big"]
    await api.ask("PATCH", "/api/mcp/servers/a", body={"disabled_tools": ["slow", "never"]})
    assert api.document()["mcpServers"]["a"]["disabled_tools"] == ["slow", "never"]
    assert (await api.servers())["b"]["tools"][0]["qualified_name"] == "b__echo"  # names stay taken
    await api.ask("POST", "/api/mcp/servers/nobody/tools", 404, body={"tool_name": "x", "enabled": True})


REACHED = [
    ("command", "/bin/sh"),
    ("command", ["/bin/sh", "-c", "id"]),
    ("module", "os"),
    ("args", ["-c", "id"]),
    ("env", {"LD_PRELOAD": "x"}),
    ("cwd", "/"),
    ("url", "http://127.0.0.1:1/mcp"),
    ("http_url", "http://127.0.0.1:1/mcp"),
    ("headers", {"X": "${PATH}"}),
    ("type", "http"),
]


async def test_how_a_server_is_reached_is_the_files_word(api: Api):
    """403 with the remedy, and nothing has changed, for one that is there, a new one, and all together."""
    before = api.file.read_bytes()
    for field, value in REACHED:
        refused = await api.ask("PATCH", "/api/mcp/servers/a", 403, body={field: value})
        assert refused["hint"] == "write it into the file of the servers, on the server itself"
        everything = {"servers": [{"id": "a", field: value}, {"id": "b"}]}
        await api.ask("PUT", "/api/mcp/servers", 403, body=everything)
        if field in ("command", "module", "args", "env", "cwd"):
            new = {"id": "c", "url": "http://127.0.0.1:1/mcp", field: value}
            await api.ask("PUT", "/api/mcp/servers/", 403, body={"servers": [{"id": "a"}, {"id": "b"}, new]})
    assert api.file.read_bytes() == before


PLAIN = {
    "disabled_tools": [],
    "tool_prefix": None,
    "contexts": [],
    "tool_overrides": {},
    "kiosk_enabled": False,
    "frontend_enabled": True,
}


async def test_what_the_file_says_may_be_repeated(api: Api):
    """As a client does that sends back what it has read, and what it knows besides."""
    entry = api.document()["mcpServers"]["a"]
    await api.ask("PATCH", "/api/mcp/servers/a", body={**entry, "module": None, "http_url": None, "env": {}})
    document = api.document()
    remote = {"url": "http://127.0.0.1:9/mcp?secret=1", "enabled": False}
    document["mcpServers"] |= {"old": {**remote, "type": "sse"}, "new": {**remote, "transport": "Streamable-HTTP"}}
    api.file.write_text(json.dumps(document))
    listed = list((await api.servers()).values())
    await api.ask("PUT", "/api/mcp/servers", body={"servers": listed})
    assert api.document()["mcpServers"]["a"]["command"] == sys.executable
    assert api.document()["mcpServers"]["old"] == {**document["mcpServers"]["old"], **PLAIN}
    assert api.document()["mcpServers"]["new"] == {**document["mcpServers"]["new"], **PLAIN}


async def test_servers_are_replaced(api: Api, url: str):
    """Those that are not named are taken out, new ones have a URL."""
    new = {"id": "web", "http_url": f"{url}/mcp", "disabled_tools": ["slow"]}
    collection = await api.ask("PUT", "/api/mcp/servers", body={"servers": [{"id": "b", "tool_prefix": "p"}, new]})
    assert [server["id"] for server in collection["servers"]] == ["b", "web"]
    await api.connected("b", "web")
    servers = await api.servers()
    assert servers["b"]["tools"][0]["qualified_name"] == "p__echo"
    assert servers["web"]["http_url"] == f"{url}/mcp"
    assert api.document()["mcpServers"]["web"] == {
        "disabled_tools": ["slow"],
        "url": f"{url}/mcp",
        "added_over_http": True,
    }
    for wrong in ([{"url": url}], [{"id": "x"}], [{"id": "x/y", "url": url}], [{"id": "b"}, {"id": "b"}]):
        await api.ask("PUT", "/api/mcp/servers", 422, body={"servers": wrong})
    await api.ask("PUT", "/api/mcp/servers", 422, body={"servers": {}})


async def test_a_server_is_added_by_its_url(api: Api, url: str):
    """Under the name that it gives itself, also in the file; a second time it is the same."""
    server = await api.ask("POST", "/api/mcp/servers/connect", body={"url": f"{url}/mcp"})
    assert (server["id"], server["connected"], server["tool_count"]) == ("raw-http", True, 6)
    assert api.document()["mcpServers"]["raw-http"] == {"url": f"{url}/mcp", "added_over_http": True}
    assert await api.ask("POST", "/api/mcp/servers/connect/", body={"url": f"{url}/mcp"}) == server
    other = await api.ask("POST", "/api/mcp/servers/connect", body={"url": f"{url}/modern"})
    assert other["id"] == f"127.0.0.1-{url.rpartition(':')[2]}"  # this one does not say who it is
    # Its address may be changed, for it is nobody's command; names of the environment mean nothing in it.
    body = {"url": f"{url}/mcp?${{HOME}}", "headers": {"x": "${HOME}"}}
    await api.ask("PATCH", f"/api/mcp/servers/{other['id']}", body=body)
    assert (await api.servers())[other["id"]]["error"] is None


async def test_what_cannot_be_added_is_refused(api: Api):
    """Nothing of it stays."""
    before = api.file.read_bytes()
    for url, status in [
        ("http://127.0.0.1:9/mcp", 502),
        ("http://169.254.169.254/latest", 403),
        ("http://10.1.2.3/mcp", 403),
        ("http://[::ffff:10.1.2.3]/mcp", 403),
        ("ftp://127.0.0.1/", 422),
        ("nonsense", 422),
        (None, 422),
    ]:
        refused = await api.ask("POST", "/api/mcp/servers/connect", status, body={"url": url})
        assert refused["detail"]
    assert api.file.read_bytes() == before


async def test_servers_are_looked_for(api: Api, url: str):
    """At the ports of a host; what is none is passed over. Without ports this is a refresh."""
    port = int(url.rpartition(":")[2])
    collection = await api.ask("POST", "/api/mcp/servers/discover", body={"ports": [9, port, port]})
    assert [server["id"] for server in collection["servers"]] == ["a", "b", "raw-http"]
    assert collection["servers"][2]["connected"]
    await api.ask("POST", "/api/mcp/servers/discover", 403, body={"host": "169.254.169.254", "ports": [80]})
    await api.ask("POST", "/api/mcp/servers/discover", 422, body={"ports": [0]})
    assert await api.ask("POST", "/api/mcp/servers/discover") == await api.get("/api/mcp/servers")


async def test_at_the_start_servers_are_looked_for_where_the_file_says(tmp_path: Path, url: str):
    """And a token is what the server's own environment has it."""
    file, port = tmp_path / "mcp_servers.json", int(url.rpartition(":")[2])
    entry = {"id": "secret", "url": f"{url}/secret", "headers": {"Authorization": "Bearer ${TOKEN}"}}
    file.write_text(json.dumps({"servers": [entry], "discovery_hosts": ["127.0.0.1"]}))
    settings = {"servers": file, "port_start": port, "port_end": port}
    async with running_chat(tmp_path / "data", Mcp, settings=settings, environ={"TOKEN": "letmein"}) as chat:
        api = Api(chat, file)
        async with asyncio.timeout(20):
            while list(await api.servers()) != ["secret", "raw-http"]:
                await asyncio.sleep(0.01)
        await api.connected("secret", "raw-http")


async def test_the_ports_are_those_of_their_file(tmp_path: Path, url: str):
    """In the data directory, where nothing else says them. What is configured is connected first."""
    port = int(url.rpartition(":")[2])
    data = tmp_path / "data"
    data.mkdir()
    (data / "mcp_ports.conf").write_text(f"MCP_PORT_START={port}\nMCP_PORT_END={port}\n")
    entries = {"slow": raw(tmp_path / "slow.log"), "hangs": raw(tmp_path / "hangs.log", "hang")}
    file = data / "mcp_servers.json"
    file.write_text(json.dumps({"mcpServers": entries, "discovery_hosts": ["127.0.0.1"]}))
    async with running_chat(data, Mcp, settings={"connect_timeout": 1.0}) as chat:
        api = Api(chat, file)
        assert list(await api.servers()) == ["slow", "hangs"]  # it is served before anything was looked for
        async with asyncio.timeout(20):
            while "raw-http" not in (servers := await api.servers()):
                await asyncio.sleep(0.01)
        assert servers["slow"]["connected"]
        assert servers["hangs"]["error"]
        await api.ask("DELETE", "/api/mcp/servers/raw-http")
        (data / "mcp_ports.conf").write_text("MCP_PORT_START=1\nMCP_PORT_END=1\n")
        await api.ask("POST", "/api/mcp/servers/refresh")
        assert "raw-http" not in await api.servers()


async def test_a_refresh_looks_where_servers_are(tmp_path: Path, url: str):
    """On hosts in our own networks, and on no others."""
    port = int(url.rpartition(":")[2])
    file = tmp_path / "mcp_servers.json"
    file.write_text(json.dumps({"servers": [{"id": "a", "url": f"{url}/secret"}]}))
    settings = {"servers": file, "port_start": port, "port_end": port}
    for networks, found in (([], ["a"]), (["127.0.0.0/8"], ["a", "raw-http"])):
        async with running_chat(tmp_path / "data", Mcp, settings={**settings, "networks": networks}) as chat:
            await Api(chat, file).ask("POST", "/api/mcp/servers/refresh")
            assert list(await Api(chat, file).servers()) == found


async def test_a_refresh_reads_the_file_again(api: Api, tmp_path: Path):
    """And tells of a file that cannot be read: what was read before still counts, and it is not overwritten."""
    document = api.document()
    document["mcpServers"]["c"] = raw(tmp_path / "c.log")
    api.file.write_text(json.dumps(document))
    collection = await api.ask("POST", "/api/mcp/servers/refresh")
    assert [server["status"] for server in collection["servers"]] == ["connected"] * 3
    api.file.write_text('{"mcpServers": ')
    collection = await api.ask("POST", "/api/mcp/servers/refresh/")
    assert "is not JSON" in collection["error"]
    assert len(collection["servers"]) == 3
    refused = await api.ask("PATCH", "/api/mcp/servers/a", 409, body={"enabled": False})
    assert "is not JSON" in refused["detail"]
    assert api.file.read_text() == '{"mcpServers": '


async def test_a_change_of_the_file_is_followed(api: Api, monkeypatch: pytest.MonkeyPatch):
    """Without anybody saying so."""
    document = api.document()
    del document["mcpServers"]["b"]
    document["mcpServers"]["a"]["disabled"] = True
    document["mcpServers"]["broken"] = {"command": "x", "env": {"A": "${NOT_THERE}"}}
    api.file.write_text(json.dumps(document))
    async with asyncio.timeout(10):
        while list(await api.servers()) != ["a", "broken"]:
            await asyncio.sleep(0.05)
    servers = await api.servers()
    assert servers["a"]["enabled"] is False
    assert servers["broken"]["error"] == "the environment has no NOT_THERE: set it, or write ${NOT_THERE:-default}"


async def test_what_another_worker_has_changed_is_known_at_once(api: Api, tmp_path: Path, monkeypatch):
    """To whoever asks next: a server that was added is connected, one that was taken out is not there any more."""
    monkeypatch.setattr("chatcore_mcp.servers.WATCH", 3600.0)
    document = api.document()
    document["mcpServers"]["c"] = raw(tmp_path / "c.log")
    api.file.write_text(json.dumps(document))
    assert (await api.servers())["c"]["connected"]
    del document["mcpServers"]["c"]
    api.file.write_text(json.dumps(document))
    await api.ask("PATCH", "/api/mcp/servers/c", 404, body={"enabled": False})
    assert api.document() == document


async def test_two_who_switch_tools_at_once_lose_nothing(api: Api):
    """Each changes what the file says then."""
    tools = ["echo", "big", "image", "slow"]
    path = "/api/mcp/servers/a/tools"
    await asyncio.gather(*(api.ask("POST", path, body={"tool_name": tool, "enabled": False}) for tool in tools))
    assert sorted((await api.servers())["a"]["disabled_tools"]) == sorted(tools)


async def test_a_server_is_taken_out(api: Api):
    """Also of the file."""
    removed = await api.ask("DELETE", "/api/mcp/servers/a")
    assert removed == {"status": "removed", "server_id": "a"}
    assert list(await api.servers()) == list(api.document()["mcpServers"]) == ["b"]
    await api.ask("DELETE", "/api/mcp/servers/a/", 404)


STRANGE: list[Any] = [
    *(None, True, -1, 2**70, 1.5, "", "\x00", "..", "a/b", "x" * 100_000),
    *([], [None], ["x"] * 10_000, ["\x00"], [{}], {}, {"a": 1}),
]
FIELDS = (
    *("id", "url", "http_url", "type", "headers", "command", "module", "args", "env", "cwd", "enabled", "disabled"),
    *("disabled_tools", "tool_prefix", "contexts", "tool_overrides", "kiosk_enabled", "added_over_http"),
)
KEYS = ("nobody", "..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "a%2Fb", "%00", "%ff", "x" * 5000, "a%0d%0ab")


def strange_requests() -> Iterator[tuple[str, str, bytes]]:
    """Each with its method, path and body: values that nobody wants, what is no JSON, ids that are nobody's."""

    def asked(method: str, path: str, body: Any) -> tuple[str, str, bytes]:
        return method, path, json.dumps(body).encode()

    for value in STRANGE:
        yield from (asked("PATCH", "mcp/servers/bad", {field: value}) for field in FIELDS)
        yield asked("PUT", "mcp/servers", {"servers": value})
        yield asked("POST", "mcp/servers/bad/tools", {"tool_name": value, "enabled": False})
        yield asked("POST", "mcp/servers/discover", {"host": value, "ports": [9]})
        yield asked("POST", "mcp/servers/discover", {"ports": value})
        yield asked("POST", "mcp/servers/connect", {"url": f"http://127.0.0.1:9/{value}"})
        yield asked("PUT", "mcp/preferences/x", {"enabled_servers": value})
        yield asked("POST", "profiles", {"profile_id": "p", "enabled_servers": value})
        yield asked("PATCH", "profiles/p", {"enabled_servers": value, "description": value})
    for content, path in product(
        (b"", b"{", b"\xff", b"[" * 10_000, b"null", b'"x"'), ("", "/connect", "/a", "/a/tools")
    ):
        yield from ((method, f"mcp/servers{path}", content) for method in ("PUT", "POST", "PATCH"))
    for key in KEYS:
        yield from ((method, f"mcp/servers/{key}", b"{}") for method in ("PATCH", "DELETE"))
        yield from ((method, f"profiles/{key}", b"{}") for method in ("GET", "DELETE"))
        yield "GET", f"mcp/servers/{key}/tools", b""
        yield asked("PUT", f"mcp/preferences/{key}", {"enabled_servers": []})
        yield "POST", f"profiles/p/servers/{key}", b""


async def test_strange_requests_are_refused(api: Api, monkeypatch: pytest.MonkeyPatch):
    """Or served: none is an error of the server's own, and what is there can still be read."""
    monkeypatch.setattr("chatcore_mcp.routes.servers.PATIENCE", 0.01)
    document = api.document()
    document["mcpServers"] |= {"odd": 5, "no url": {"url": "http://["}}
    document["mcpServers"]["bad"] = {"command": 5, "disabled_tools": 7, "tool_overrides": []}
    api.file.write_text(json.dumps(document))
    await api.ask("POST", "/api/mcp/servers/refresh")
    for method, path, body in strange_requests():
        response = await api.chat.client.request(method, f"/api/{path}", content=body)
        assert response.status_code < 500 or response.json()["code"] == "mcp_unreachable", (method, path, body[:100])
    await api.get("/api/mcp/servers")
    await api.get("/api/profiles")


# --- choices ----------------------------------------------------------------------------------------------------------


async def test_preferences_are_kept(api: Api):
    """Null before anything was set; any client may have some."""
    assert await api.get("/api/mcp/preferences/svelte") == {"client_id": "svelte", "enabled_servers": None}
    body = {"enabled_servers": ["b", "a", "b"]}
    kept = {"client_id": "svelte", "enabled_servers": ["b", "a"]}
    assert await api.ask("PUT", "/api/mcp/preferences/svelte", body=body) == kept
    assert await api.get("/api/mcp/preferences/svelte/") == kept
    assert (await api.get("/api/mcp/preferences/anybody"))["enabled_servers"] is None
    await api.ask("PUT", "/api/mcp/preferences/svelte", 422, body={})


async def test_profiles_are_kept(api: Api):
    """Made, changed, read and deleted, in both spellings."""
    body = {"profile_id": "work-1", "enabled_servers": ["a", "a"], "description": "At work."}
    profile = {"profile_id": "work-1", "enabled_servers": ["a"], "description": "At work."}
    assert await api.ask("POST", "/api/profiles", 201, body=body) == profile
    await api.ask("POST", "/api/profiles/", 409, body=body)
    await api.ask("POST", "/api/profiles/", 201, body={"profile_id": "home"})
    assert [one["profile_id"] for one in (await api.get("/api/profiles"))["profiles"]] == ["home", "work-1"]
    assert await api.get("/api/profiles/work-1/") == profile
    assert (await api.ask("PATCH", "/api/profiles/work-1", body={"description": ""}))["enabled_servers"] == ["a"]
    for _ in range(2):
        assert (await api.ask("POST", "/api/profiles/work-1/servers/b"))["enabled_servers"] == ["a", "b"]
    for _ in range(2):
        assert (await api.ask("DELETE", "/api/profiles/work-1/servers/a"))["enabled_servers"] == ["b"]
    assert await api.ask("DELETE", "/api/profiles/work-1", 204) is None
    for method, path in [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/servers/a"), ("DELETE", "/servers/a")]:
        await api.ask(method, f"/api/profiles/work-1{path}", 404, body={} if method == "PATCH" else None)
    for wrong in ({"profile_id": "UPPER"}, {"profile_id": "x", "more": 1}, {"profile_id": ""}, {}):
        await api.ask("POST", "/api/profiles", 422, body=wrong)


async def test_who_changes_servers_needs_the_scope(api: Api):
    """It is everybody's tools that change. Reading, and one's own choices, need none."""
    app = api.chat.app
    guarded = {
        (rule.rule, method)
        for rule in app.url_map.iter_rules()
        if (policy := policy_of(app.view_functions[rule.endpoint])) and "mcp" in policy.scopes
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    prefix = "/api/mcp/servers/"
    assert guarded == {
        (prefix, "PUT"),
        (f"{prefix}connect", "POST"),
        (f"{prefix}discover", "POST"),
        (f"{prefix}refresh", "POST"),
        (f"{prefix}<server_id>", "PATCH"),
        (f"{prefix}<server_id>", "DELETE"),
        (f"{prefix}<server_id>/tools", "POST"),
    }


# --- turns ------------------------------------------------------------------------------------------------------------


async def offered(api: Api, provider: ScriptedProvider, **fields: Any) -> set[str]:
    """The servers whose tools the model of a turn is given."""
    await api.chat.say("hello", **fields)
    return {tool.name.partition("__")[0] for tool in provider.requests[-1].tools}


async def test_a_turn_calls_tools_of_two_servers(api: Api, provider: ScriptedProvider):
    """That have the same name: each goes to its own, and the client sees both."""
    provider._scripts = [
        [call("a__echo", text="to a"), call("b__echo", text="to b")],
        [text("Both have answered.")],
    ]
    reply = await api.chat.say("ask both")
    assert reply.text == "Both have answered."
    finished = {frame.data["name"]: frame.data for frame in reply.named("tool") if frame.data["status"] == "finished"}
    assert json.loads(finished["a__echo"]["result"]) == {"text": "to a"}
    assert json.loads(finished["b__echo"]["result"]) == {"text": "to b"}
    asked = {
        key: [json.loads(line) for line in (api.file.parent / f"{key}.log").read_text().splitlines()]
        for key in ("a", "b")
    }
    calls = {
        key: [m["params"]["arguments"] for m in messages if m.get("method") == "tools/call"]
        for key, messages in asked.items()
    }
    assert calls == {"a": [{"text": "to a"}], "b": [{"text": "to b"}]}


async def test_a_turn_gets_what_its_client_is_to_have(api: Api, provider: ScriptedProvider):
    """A profile counts before a preference, if there is one of that name; without either it is all."""
    assert await offered(api, provider) == {"a", "b"}
    await api.ask("PUT", "/api/mcp/preferences/svelte", body={"enabled_servers": ["b"]})
    assert await offered(api, provider) == {"b"}
    assert await offered(api, provider, metadata={"client_id": "cli"}) == {"a", "b"}
    await api.ask("PUT", "/api/mcp/preferences/cli", body={"enabled_servers": []})
    assert await offered(api, provider, session_id="cli_1") == set()
    await api.ask("POST", "/api/profiles", 201, body={"profile_id": "p", "enabled_servers": ["a"]})
    assert await offered(api, provider, metadata={"profile_id": "p"}) == {"a"}
    assert await offered(api, provider, metadata={"profile_id": "nobody"}) == {"b"}


async def test_what_a_client_has_switched_off_stays_off(api: Api, provider: ScriptedProvider):
    """Also where a profile says which servers there are. A preset leaves it so."""
    documents = Documents(api.chat.app.extensions["chatcore"].database)
    preset = {"enabled_servers": ["b"], "disabled_tools": {"a": ["echo"], "b": ["big"]}}
    await documents.put(LOCAL, "tools", "preferences/svelte", preset)
    await api.ask("POST", "/api/profiles", 201, body={"profile_id": "p", "enabled_servers": ["a", "b"]})
    for metadata, off in (({}, {"b__big"}), ({"profile_id": "p"}, {"a__echo", "b__big"})):
        await api.chat.say("hello", metadata=metadata)
        names = {tool.name for tool in provider.requests[-1].tools}
        servers = {name.partition("__")[0] for name in names}
        assert {f"{server}__{tool}" for server in servers for tool in ("echo", "big")} - names == off
    await api.ask("PUT", "/api/mcp/preferences/svelte", body={"enabled_servers": ["a"]})
    assert (await documents.get(LOCAL, "tools", "preferences/svelte"))["disabled_tools"] == preset["disabled_tools"]


async def test_a_turn_without_tools_has_servers_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """That are away, at once, although they would not be tried for a while. It does not wait for them."""
    monkeypatch.setattr("chatcore_mcp.connection.FIRST_PAUSE", 3600)
    monkeypatch.setattr("chatcore_mcp.connection.LONGEST_PAUSE", 3600)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = tmp_path / "mcp_servers.json"
    file.write_text(json.dumps({"servers": [{"id": "a", "url": f"http://127.0.0.1:{port}/mcp"}]}))
    provider = ScriptedProvider()
    async with running_chat(tmp_path / "data", Mcp, provider=provider, settings={"servers": file}) as chat:
        api = Api(chat, file)
        async with asyncio.timeout(20):
            while not (await api.servers())["a"]["error"]:
                await asyncio.sleep(0.01)
        with running(str(port)):
            await chat.say("hello")
            assert provider.requests[-1].tools == ()
            await api.connected("a")
            await chat.say("hello")
            assert provider.requests[-1].tools


async def test_a_rule_holds_when_another_server_has_a_tool_of_the_same_name(tmp_path: Path):
    """Which gives both of them a longer one."""
    file, provider = tmp_path / "mcp_servers.json", ScriptedProvider()
    entries = {key: raw(tmp_path / f"{key}.log") for key in ("a", "b")}
    file.write_text(json.dumps({"mcpServers": {"a": entries["a"]}}))
    config = {"tool_policy": {"echo": "deny", "mcp/a/big": "deny"}}
    async with running_chat(
        tmp_path / "data", Mcp, provider=provider, settings={"servers": file}, config=config
    ) as chat:
        api = Api(chat, file)
        await api.connected("a")
        await chat.say("hello")
        assert not {"echo", "big"} & {tool.name for tool in provider.requests[-1].tools}
        file.write_text(json.dumps({"mcpServers": entries}))
        await api.connected("b")
        await chat.say("hello")
        names = {tool.name for tool in provider.requests[-1].tools}
        assert {"a__slow", "b__slow", "b__big"} <= names
        assert not {"a__echo", "b__echo", "a__big"} & names


async def test_what_a_turn_was_not_given_it_cannot_call(api: Api, provider: ScriptedProvider):
    """Even if the model knows the name."""
    await api.ask("PUT", "/api/mcp/preferences/svelte", body={"enabled_servers": ["b"]})
    provider._scripts = [[call("a__echo", text="to a")], [text("It cannot be done.")]]
    reply = await api.chat.say("ask a")
    [failed] = [frame.data for frame in reply.named("tool") if frame.data["status"] == "error"]
    assert "There is no tool 'a__echo'" in failed["result"]
    assert '"method":"tools/call"' not in (api.file.parent / "a.log").read_text().replace(" ", "")
