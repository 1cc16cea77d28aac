"""Commands under the names that scripts know from before chatcore: `openrouter-server` and `openrouter-mcp`."""

import runpy
import sys


def serve() -> None:
    """`openrouter-server …` is `chatcore serve …`."""
    _run("serve")


def speak_mcp() -> None:
    """`openrouter-mcp …` is `chatcore mcp …`."""
    _run("mcp")


def _run(command: str) -> None:
    sys.argv.insert(1, command)
    runpy.run_module("chatcore")
