"""The protocol as its authors test it: the npm packages @modelcontextprotocol/conformance and …/inspector."""

import asyncio
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300, func_only=True)]

HERE = Path(__file__).parent
NPM = HERE / "npm"
NODE = f"node-{platform.system().lower()}-{'x64' if platform.machine() == 'x86_64' else 'arm64'}"
"""Brought by npm, too: the suites need a newer Node than many systems have."""
INSTALL_TIME = 600
"""Seconds that one attempt to install the packages may take."""

UNSUPPORTED = {
    "2025-11-25": {"server-sse-polling"},
    "2026-07-28": {
        "tasks-lifecycle",
        "tasks-capability-negotiation",
        "tasks-wire-fields",
        "tasks-request-state-removal",
        "tasks-mrtr-input",
        "tasks-request-headers",
        "tasks-dispatch-and-envelope",
        "tasks-required-task-error",
        "tasks-mrtr-composition",
    },
}
"""Scenarios that fail, none of which a revision requires: the SDK has no tasks, and calls cannot be taken up again."""

OWN = {
    "2025-11-25": (
        "server-initialize", "ping", "tools-list", "tools-call-simple-text", "tools-call-image", "tools-call-error",
        "server-sse-multiple-streams", "dns-rebinding-protection", "server-session-lifecycle",
    ),
    "2026-07-28": (
        "tools-list", "tools-call-simple-text", "tools-call-image", "tools-call-error", "server-sse-multiple-streams",
        "sep-2164-resource-not-found", "dns-rebinding-protection", "http-header-validation",
    ),
}  # fmt: skip
"""Those that a server which has only tools can pass."""

SIGN_IN = (
    "auth/metadata-default", "auth/metadata-var1", "auth/metadata-var2", "auth/metadata-var3", "auth/basic-cimd",
    "auth/scope-from-www-authenticate", "auth/scope-from-scopes-supported", "auth/scope-omitted-when-undefined",
    "auth/scope-step-up", "auth/scope-retry-limit", "auth/token-endpoint-auth-basic", "auth/token-endpoint-auth-post",
    "auth/token-endpoint-auth-none", "auth/pre-registration",
)  # fmt: skip
CLIENT = {
    "2025-11-25": (
        "initialize", "tools_call", "sse-retry", "elicitation-sep1034-client-defaults",
        "json-schema-2020-12-preservation", *SIGN_IN,
    ),
    "2026-07-28": (
        "tools_call", "request-metadata", "http-standard-headers", "http-custom-headers", "http-invalid-tool-headers",
        "json-schema-ref-no-deref", "json-schema-2020-12-preservation", "sep-2322-client-request-state",
        *SIGN_IN, "auth/resource-mismatch", "auth/offline-access-scope", "auth/offline-access-not-supported",
        "auth/authorization-server-migration", "auth/iss-supported", "auth/iss-not-advertised",
        "auth/iss-supported-missing", "auth/iss-wrong-issuer", "auth/iss-unexpected", "auth/iss-normalized",
        "auth/metadata-issuer-mismatch",
    ),
}  # fmt: skip
"""Those that chatcore's client passes."""

Serve = Callable[..., Awaitable[Any]]


async def run(*command: object, cwd: Path) -> tuple[int, str, str]:
    """The exit code of a command, what it has written, and what it has complained of."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


def modules() -> Path:
    """The packages of `npm/`: once for every lock file, in the user's cache."""
    lock = (NPM / "package-lock.json").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chatcore-tests"
    return cache / f"npm-{hashlib.sha256(lock).hexdigest()[:16]}" / "node_modules"


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """They are installed, which takes its time before the first test."""
    npm = shutil.which("npm")
    if npm is None:
        assert os.environ.get("CI") != "true", "npm is missing: install Node.js 20 or newer"
        pytest.skip("npm is missing: install Node.js 20 or newer")
    directory = modules().parent
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f"{directory.name}.lock").open("w") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX)  # one process installs, others wait for it
        if not directory.exists():
            install(npm, directory)


def install(npm: str, directory: Path) -> None:
    """Installs all packages or, if that breaks off, none. Networks fail now and then, so it is tried three times."""
    making = directory.with_name(f"{directory.name}.making")
    for _ in range(3):
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(NPM, making)
        with suppress(subprocess.TimeoutExpired):
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=making, capture_output=True, text=True, timeout=INSTALL_TIME)
            # What is optional, as Node.js of this machine is, may be missing all the same.
            if done.returncode == 0 and (making / "node_modules" / NODE / "bin/node").exists():
                making.rename(directory)
                return
            print(done.stderr)
    pytest.fail(f"the packages of {NPM} cannot be installed")


async def suite(tmp_path: Path, *arguments: object) -> tuple[int, str, str]:
    """Runs a command of the suite."""
    program = modules() / "@modelcontextprotocol/conformance/dist/index.js"
    return await run(modules() / NODE / "bin/node", program, *arguments, cwd=tmp_path)


async def conformance(tmp_path: Path, *arguments: object) -> dict[str, list[str]]:
    """Runs scenarios. Gives what has failed of each."""
    results = tmp_path / "results"
    said = await suite(tmp_path, *arguments, "-o", results)
    failed: dict[str, list[str]] = {}
    for checks in results.glob("**/checks.json"):
        directory = str(checks.parent.relative_to(results))
        scenario = re.sub(r"^(server|client)-|-\d{4}-\d\d-\d\dT.*", "", directory)
        found = json.loads(checks.read_text())
        failed[scenario] = [f"{c['id']}: {c.get('errorMessage')}" for c in found if c["status"] == "FAILURE"]
    assert failed, said
    return failed


@pytest.mark.parametrize("revision", UNSUPPORTED)
async def test_the_endpoint_keeps_to_the_protocol(revision: str, serve: Serve, tmp_path: Path) -> None:
    """A server with everything, mounted as chatcore's own is: all that the revision requires, and most of the rest."""
    server = await serve("--disable", "mcp", "--plugins-dir", str(HERE / "everything"))
    failed = await conformance(tmp_path, "server", "--url", f"{server.url}/mcp", "--requirements", revision)
    assert len(failed) > 30
    unexpected = {name: checks for name, checks in failed.items() if checks and name not in UNSUPPORTED[revision]}
    assert unexpected == {}
    assert [name for name in UNSUPPORTED[revision] if not failed[name]] == []


@pytest.mark.parametrize("revision", OWN)
async def test_chatcore_itself_keeps_to_the_protocol(revision: str, serve: Serve, tmp_path: Path) -> None:
    """With the tools of a plugin, which are chatcore's own."""
    server = await serve("--plugins-dir", str(HERE / "samples"), CHATCORE_MCP_SHARE_TOOLS="true")
    failed = await conformance(tmp_path, "server", "--url", f"{server.url}/mcp", "--requirements", revision)
    assert {scenario: failed[scenario] for scenario in OWN[revision] if failed[scenario]} == {}


@pytest.mark.parametrize(
    ("revision", "scenario"), [(revision, scenario) for revision in CLIENT for scenario in CLIENT[revision]]
)
async def test_the_client_keeps_to_the_protocol(revision: str, scenario: str, tmp_path: Path) -> None:
    """As far as it goes: it signs in, connects, lists, calls, and asks a person what a tool wants to know."""
    command = f"{sys.executable} {HERE / 'conformance_client.py'}"
    arguments = ("--command", command, "--scenario", scenario, "--spec-version", revision)
    assert await conformance(tmp_path, "client", *arguments) == {scenario: []}


@pytest.mark.parametrize("revision", CLIENT)
async def test_the_client_lacks_nothing(revision: str, tmp_path: Path) -> None:
    """Of what is required."""
    _, listed, _ = await suite(tmp_path, "list", "--requirements", revision)
    required = listed.partition("Client scenarios")[2].partition("Run and reported")[0]
    names = re.findall(r"^  - (\S+)$", required, re.MULTILINE)
    assert len(names) > 10
    assert set(names) - set(CLIENT[revision]) == set()


async def inspected(tmp_path: Path, *arguments: object) -> Any:
    """What the inspector gives as JSON."""
    program = modules() / ".bin/mcp-inspector"
    said = await run(modules() / NODE / "bin/node", program, "--cli", *arguments, cwd=tmp_path)
    assert said[0] == 0, said
    return json.loads(said[1])


async def test_the_inspector_finds_the_tools_and_calls_them(serve: Serve, tmp_path: Path) -> None:
    """The program with which people look at servers, over HTTP and on standard input and output."""
    server = await serve("--plugins-dir", str(HERE / "samples"), CHATCORE_MCP_SHARE_TOOLS="true")
    chatcore = ["-m", "chatcore", "--data", str(tmp_path / "data"), "mcp", "--server", server.url]
    toolkit = ["-m", "chatcore_mcp.bundled.toolkit"]
    entries = {"chatcore": chatcore, "toolkit": toolkit}
    servers = {name: {"command": sys.executable, "args": arguments} for name, arguments in entries.items()}
    (tmp_path / "servers.json").write_text(json.dumps({"mcpServers": servers}))
    over_http = (f"{server.url}/mcp", "--transport", "http")
    for way in (over_http, ("--config", "servers.json", "--server", "chatcore")):
        listed = await inspected(tmp_path, *way, "--method", "tools/list")
        assert {tool["name"] for tool in listed["tools"]} >= {"chat.completions", "llm_chat", "test_simple_text"}
        call = ("--method", "tools/call", "--tool-name", "llm_chat", "--tool-arg", "message=hello")
        assert (await inspected(tmp_path, *way, *call))["content"] == [{"type": "text", "text": "hello"}]
    echo = ("--method", "tools/call", "--tool-name", "test_echo", "--tool-arg", "message=hi")
    called = await inspected(tmp_path, "--config", "servers.json", "--server", "toolkit", *echo)
    assert called["structuredContent"] == {"message": "hi", "uppercase": False}
