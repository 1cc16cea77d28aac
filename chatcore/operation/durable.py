"""What makes sure that something is on the disk, and stays there when the power is lost."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until the content of a file is on the disk, or what was made, renamed or deleted in a directory."""
    if os.name == "nt" and path.is_dir():  # pragma: no cover - it cannot be opened there, and need not be
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(path: Path, content: Callable[[], bytes]) -> None:
    """Makes a file that only its user may read, unless it is there. Several processes may come at once: one wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    descriptor, draft = tempfile.mkstemp(prefix="draft-", dir=path.parent)  # of mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content())
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)
        sync(path.parent)
    except FileExistsError:
        pass
    finally:
        Path(draft).unlink()
