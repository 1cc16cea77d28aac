"""The file of the servers."""

import json
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chatcore_mcp.file import ServersFile, remove, set_fields

from chatcore.errors import ConfigError


def setting(key: str, fields: dict[str, Any]) -> Callable[[Any], None]:
    return lambda document: set_fields(document, key, fields)


@pytest.fixture
def file(tmp_path: Path) -> ServersFile:
    return ServersFile(tmp_path / "mcp_servers.json")


def test_there_need_not_be_a_file(file: ServersFile):
    """Nor anything in it."""
    assert file.read() == {"servers": []}
    file.path.write_text("\n")
    assert file.read() == {"servers": []}


@pytest.mark.parametrize("text", ["{", '{"servers": [}', "5", '"x"', "\xff", "[" * 100_000])
def test_what_cannot_be_read_is_left_alone(file: ServersFile, text: str):
    """Reading and changing it fail, with the place; it is as it was."""
    file.path.write_text(text, encoding="latin-1")
    before = file.path.read_bytes()
    with pytest.raises(ConfigError, match=r"mcp_servers\.json"):
        file.read()
    with pytest.raises(ConfigError):
        file.change(setting("x", {"url": "http://x/"}))
    assert file.path.read_bytes() == before


def test_a_change_is_noticed(file: ServersFile):
    """When it is made, removed, or written by somebody else; not when it was written here."""
    assert file.changed()
    file.read()
    assert not file.changed()
    file.path.write_text("[]")
    assert file.changed()
    file.read()
    file.change(setting("x", {"url": "http://x/"}))
    assert not file.changed()
    file.path.unlink()
    assert file.changed()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"servers": [{"id": "x", "url": "u"}]}, {"servers": [{"id": "x", "url": "u", "enabled": False}]}),
        ([{"id": "x"}, {"id": "x", "n": 1}], [{"id": "x"}, {"id": "x", "n": 1, "enabled": False}]),
        ({"mcpServers": {"x": {"a": [1]}}}, {"mcpServers": {"x": {"a": [1], "enabled": False}}}),
        ({"mcpServers": {"y": {}}}, {"mcpServers": {"y": {}, "x": {"enabled": False}}}),
        ({"servers": {"y": {}}}, {"servers": {"y": {}, "x": {"enabled": False}}}),
        ({"other": 1}, {"other": 1, "servers": [{"id": "x", "enabled": False}]}),
        ([], [{"id": "x", "enabled": False}]),
    ],
)
def test_a_server_is_changed_where_it_stands(file: ServersFile, before: Any, after: Any):
    """In the form that the file has; everything else stays."""
    file.path.write_text(json.dumps(before))
    assert file.change(setting("x", {"enabled": False})) == after
    assert json.loads(file.path.read_text()) == after


def test_what_is_not_known_stays(file: ServersFile):
    """Fields of other programs, their order, and the indentation."""
    entry = '        "ä": {\n            "b": 1,\n            "a": null\n        }\n'
    text = '{\n    "$schema": "x",\n    "mcpServers": {\n' + entry + "    }\n}\n"
    file.path.write_text(text)
    file.change(setting("ä", {}))
    assert file.path.read_text() == text
    file.change(setting("ä", {"enabled": True}))
    assert file.path.read_text() == text.replace("null\n", 'null,\n            "enabled": true\n')


def test_permissions_stay_and_a_new_file_is_its_owners(file: ServersFile):
    """It may hold tokens."""
    file.change(setting("x", {"url": "http://x/"}))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    file.path.chmod(0o644)
    file.change(setting("x", {"enabled": False}))
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o644


def test_what_a_link_leads_to_is_changed(file: ServersFile, tmp_path: Path):
    """The link stays one."""
    real = tmp_path / "elsewhere" / "real.json"
    real.parent.mkdir()
    real.write_text("[]")
    file.path.symlink_to(real)
    file.change(setting("x", {"url": "http://x/"}))
    assert file.path.is_symlink()
    assert json.loads(real.read_text()) == [{"id": "x", "url": "http://x/"}]


def test_what_cannot_be_written_is_said(tmp_path: Path):
    """Nothing is left of the attempt."""
    (tmp_path / "file").write_text("")
    file = ServersFile(tmp_path / "file" / "mcp_servers.json")
    with pytest.raises(ConfigError, match="cannot be"):
        file.change(setting("x", {}))


def test_a_server_is_taken_out():
    """Under whichever form, as often as it is there."""
    document = {"servers": [{"id": "x"}, {"id": "y"}, {"id": "x"}], "mcpServers": {"x": {}, "z": {}}}
    remove(document, {"x"})
    assert document == {"servers": [{"id": "y"}], "mcpServers": {"z": {}}}
    nameless = [{"id": "x"}, {"url": "http://one/"}, 5, {"url": "http://two/"}]
    remove(nameless, {"#2", "#3"})  # as they are called where they are listed
    assert nameless == [{"id": "x"}, {"url": "http://two/"}]


def test_a_change_that_changes_nothing_writes_nothing(file: ServersFile):
    """Somebody's own way of writing it stays."""
    text = '[ {"id":"x","enabled":false} ]'
    file.path.write_text(text)
    file.change(setting("x", {"enabled": False}))
    assert file.path.read_text() == text


def test_two_who_change_it_at_once_lose_nothing(tmp_path: Path):
    """As two workers do: who comes second makes the change anew."""
    path = tmp_path / "mcp_servers.json"
    files = [ServersFile(path) for _ in range(4)]

    def work(number: int) -> None:
        for change in range(5):
            files[number].change(setting(f"{number}-{change}", {"url": "http://x/"}))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = {entry["id"] for entry in json.loads(path.read_text())["servers"]}
    print(len(kept))
    assert len(kept) == 20
    assert list(tmp_path.iterdir()) == [path]
