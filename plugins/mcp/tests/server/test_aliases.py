"""The commands of before (chatcore_mcp/server/aliases.py)."""

import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

COMMANDS = {"openrouter-server": "chatcore serve", "openrouter-mcp": "chatcore mcp"}


@pytest.mark.parametrize(("name", "told"), COMMANDS.items())
def test_a_command_of_before_is_one_of_chatcore(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The scripts of the distribution lead there."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"][name].partition(":")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        getattr(import_module(module), function)()
    assert end.value.code == 0
    assert f"Usage: {told} [OPTIONS]" in capsys.readouterr().out
