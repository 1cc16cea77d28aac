"""What makes sure that something is on the disk (chatcore/operation/durable.py)."""

from pathlib import Path

import pytest

from chatcore.operation.durable import make_private


def test_a_private_file_is_made_once(tmp_path: Path) -> None:
    """Only its user may read it, and what is there stays."""
    path = tmp_path / "new" / "key"
    make_private(path, lambda: b"first")
    make_private(path, lambda: b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_private_file_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    """Neither half of it, nor its draft."""

    def fail() -> bytes:
        raise OSError("no entropy")

    with pytest.raises(OSError, match="no entropy"):
        make_private(tmp_path / "key", fail)
    assert not list(tmp_path.iterdir())
