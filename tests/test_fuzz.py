"""Requests that nobody would write, made from the server's own OpenAPI document."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def test_no_request_breaks_the_server(start_server: Callable[..., Awaitable[Any]], tmp_path: Path) -> None:
    """Every answer is of the announced kind, none is a 5xx, and nothing unexpected is in the log."""
    server = await start_server("--disable", "llama", "--disable", "openrouter")
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json",
        "--checks", "not_a_server_error,content_type_conformance,response_schema_conformance",
        "--max-examples", "15", "--request-timeout", "20", "--generation-deterministic",
        "--suppress-health-check", "too_slow",  # how busy this machine is
        "--exclude-path-regex", "test-stream|/events$|^/mcp$",  # whose errors are its protocol's
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert b"Traceback" not in server.log, server.log.decode()
