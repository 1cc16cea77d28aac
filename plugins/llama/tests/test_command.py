"""`chatcore llama fetch`, against a hub on real ports."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chatcore_llama.command import make_group
from chatcore_llama.settings import Settings
from click.testing import CliRunner, Result

SOURCE = "someone/Tiny-GGUF/tiny-Q4_0.gguf"
PROGRAM = """
import resource, sys
from pathlib import Path
from chatcore_llama.command import make_group
from chatcore_llama.settings import Settings
hub, directory, source, limit = sys.argv[1:]
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
make_group(Settings(hub=hub), Path(directory))(["fetch", source])
"""


def run(url: str, directory: Path, source: str = SOURCE) -> Result:
    return CliRunner().invoke(make_group(Settings(hub=url), directory), ["fetch", source])


def start(url: str, directory: Path, limit: str = "") -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, url, str(directory), SOURCE, limit]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_downloads_and_says_where_to(hub: Any, tmp_path: Path) -> None:
    """Standard output has the path, so that a script can use it; the bar is on standard error."""
    result = run(hub.url, tmp_path)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == str(tmp_path / "tiny-Q4_0.gguf")
    assert "100%" in result.stderr or "tiny-Q4_0.gguf" in result.stderr
    assert (tmp_path / "tiny-Q4_0.gguf").read_bytes() == hub.content


def test_a_failure_is_told_with_its_remedy(hub: Any, tmp_path: Path) -> None:
    """In two lines, without a traceback."""
    result = run(hub.url, tmp_path, "someone/Tiny-GGUF/other.gguf")
    assert result.exit_code == 1
    assert "Error: someone/Tiny-GGUF has no file other.gguf\n" in result.stderr
    assert "tree/main" in result.stderr


def test_a_wrong_source_is_told_before_anything_is_asked(hub: Any, tmp_path: Path) -> None:
    """With an example."""
    result = run(hub.url, tmp_path, "tiny.gguf")
    assert result.exit_code == 1
    assert "OWNER/NAME/FILE.gguf" in result.stderr
    assert hub.requests == []


def test_ctrl_c_keeps_what_there_is(hub: Any, tmp_path: Path) -> None:
    """It says that the next call goes on, and the next call does."""
    hub.hold_at = 400_000
    process = start(hub.url, tmp_path)
    assert hub.held.wait(20)
    part = None
    while part is None or part.stat().st_size == 0:
        assert process.poll() is None
        part = next(tmp_path.glob("*.part"), None)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Stopped; run the command again: it goes on where it stopped." in stderr
    assert "Traceback" not in stderr
    have = part.stat().st_size

    hub.hold_at = None
    assert run(hub.url, tmp_path).exit_code == 0
    assert hub.ranges_asked[-1] == f"bytes={have}-"
    assert (tmp_path / "tiny-Q4_0.gguf").read_bytes() == hub.content


@pytest.mark.skipif(sys.platform == "win32", reason="it has no limits on the size of files")
@pytest.mark.parametrize("limit", [200_000, 768_000], ids=["in the middle", "at the last bytes"])
def test_a_full_disk_is_told_and_what_there_is_is_kept(hub: Any, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands for the full disk. The last bytes are written when the file is closed."""
    process = start(hub.url, tmp_path, limit=str(limit))
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"{tmp_path} cannot be written: File too large" in stderr.replace("\n", " ")
    assert "Traceback" not in stderr
    (part,) = tmp_path.glob("tiny*")
    assert 0 < part.stat().st_size <= limit
    assert run(hub.url, tmp_path).exit_code == 0
    assert (tmp_path / "tiny-Q4_0.gguf").read_bytes() == hub.content
