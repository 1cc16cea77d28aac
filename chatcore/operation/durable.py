"""What makes sure that something is on the disk, and stays there when the power is lost."""

import os
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
