"""The ports on which servers are looked for (chatcore_mcp/ports.py)."""

import logging
from pathlib import Path

import pytest
from chatcore_mcp.ports import PORTS_FILE, Ports

LOG = logging.getLogger("chatcore.plugin.mcp")


def ports(directory: Path, text: str | bytes | None = None, first: int | None = None, last: int | None = None) -> range:
    path = directory / PORTS_FILE
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Ports(path, LOG, first, last).range()


def test_nobody_has_set_them(tmp_path: Path):
    """9001 to 9017, and with half of a file the other half of that."""
    assert ports(tmp_path) == range(9001, 9018)
    assert ports(tmp_path, "# nothing\n") == range(9001, 9018)
    assert ports(tmp_path, "MCP_PORT_END=9005") == range(9001, 9006)


def test_the_file_says_them(tmp_path: Path):
    """Whatever else is in it; the last line of a name counts; what is set beside it counts more."""
    text = "# ports\nOTHER=x y\nexport MCP_PORT_START=7000\r\n MCP_PORT_END = '7003' # the last\nMCP_PORT_START=7001\n"
    assert ports(tmp_path, text) == range(7001, 7004)
    assert ports(tmp_path, None, first=7003) == range(7003, 7004)
    assert ports(tmp_path, None, first=1, last=2) == range(1, 3)


@pytest.mark.parametrize(
    "text", ["MCP_PORT_START=9018", "MCP_PORT_END=65536", "MCP_PORT_START=0", "MCP_PORT_END=999999999"]
)
def test_what_makes_no_sense_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str):
    """And nothing is looked at."""
    assert not ports(tmp_path, text)
    assert "no such range" in caplog.text


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """It counts as if it were not there; so do lines that are no numbers."""
    assert ports(tmp_path, b"\xff\xfe") == range(9001, 9018)
    assert "cannot be read" in caplog.text
    assert ports(tmp_path, "MCP_PORT_START=many\nMCP_PORT_END=") == range(9001, 9018)
