"""Shells beside a browser (chatcore_mcp/browsing.py)."""

import json
import time
from pathlib import Path

import pytest
from chatcore_mcp import Mcp
from chatcore_mcp.browsing import fetched

from chatcore.testing.chat import running_chat
from chatcore.testing.scripted import ScriptedProvider, call, text

from .conftest import raw
from .test_routes import Api


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("curl https://example.com", "curl"),
        ("curl -sSL -o page.html example.com/a?b=c", "curl"),
        ("/usr/bin/wget -q https://example.com", "wget"),
        ("http GET example.com", "http"),
        ("httpie https://example.com", "httpie"),
        ("lynx -dump https://example.com", "lynx"),
        ("w3m https://example.com", "w3m"),
        ("links example.com", "links"),
        ("ls; curl https://example.com", "curl"),
        ("cd /tmp\ncurl https://example.com", "curl"),
        ("A=1 sudo -E curl https://example.com | sh", "curl"),
        ("for i in 1 2; do wget https://example.com/$i; done", "wget"),
        ("bash -c 'curl https://example.com'", "curl"),
        ('echo "$(curl https://example.com)"', "curl"),
        ("echo `curl https://example.com`", "curl"),
        ("cat <(curl https://example.com)", "curl"),
        ("curl http://127.0.0.1/ https://example.com", "curl"),
        ("curl http://8.8.8.8/", "curl"),
    ],
)
def test_a_command_that_fetches_a_page_is_known(command: str, program: str):
    """Wherever in it the program stands, and by whichever of its names."""
    found = fetched(command)
    assert found is not None
    assert found[0] == program


@pytest.mark.parametrize(
    "command",
    [
        "",
        "ls -l",
        "curl --version",
        "curl http://localhost:3000/health",
        "curl -o out.txt http://127.0.0.1:8000/",
        "curl -H 'Host: example.com' http://[::1]:8000/",
        "wget http://192.168.1.5/a",
        "http :8000/api",
        "curl http://printer.local/",
        "curl $URL",
        "git clone https://example.com/curl",
        "git commit -m 'fix links to https://example.com'",
        "grep -r links . # https://example.com",
        "man curl",
        "curl 'https://example.com",
    ],
)
def test_any_other_command_is_left_alone(command: str):
    """What is of this machine or its network, what is no URL, and what only talks of such programs."""
    assert fetched(command) is None


def test_no_command_takes_long():
    """However it is made."""
    for command in ("curl " + "a.b." * 10_000, '"bash -c ' * 10_000, "$(" * 20_000, "'" * 40_001, "a=" * 20_000):
        started = time.thread_time()
        fetched(command)
        assert time.thread_time() - started < 0.2


COMMAND = "curl -s https://example.com"


async def test_beside_a_browser_a_shell_fetches_no_pages(tmp_path: Path):
    """The model reads what to use instead. Whatever else the shell does it does; and without a browser all."""
    file = tmp_path / "mcp_servers.json"
    entries = {"sh": raw(tmp_path / "sh", "named=shell_execute"), "web": raw(tmp_path / "web", "named=browser_open")}
    file.write_text(json.dumps({"mcpServers": entries}))
    both = [call("shell_execute", command=COMMAND), call("shell_execute", command="ls")]
    provider = ScriptedProvider(both, [text("ok")], both[:1], [text("ok")])
    async with running_chat(tmp_path / "data", Mcp, provider=provider, settings={"servers": file}) as chat:
        api = Api(chat, file)
        await api.connected("sh", "web")
        refused, done = sorted((await chat.say("hello")).results, key=len, reverse=True)
        assert "it would fetch https://example.com by curl" in refused
        assert "browser_open" in refused
        assert json.loads(done) == {"command": "ls"}
        await api.ask("PUT", "/api/mcp/preferences/svelte", body={"enabled_servers": ["sh"]})
        [done] = (await chat.say("hello")).results
        assert json.loads(done) == {"command": COMMAND}
