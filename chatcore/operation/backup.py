"""Makes backups: what a user would miss, in one file, while a server runs and writes.

A backup never has a conversation without a file that it refers to: first the files are copied, then, while nobody can
write to the database, those that have come meanwhile; the database is copied as it is at that moment. Files that a
plugin can get again are left out (in a directory with a `CACHEDIR.TAG`, see https://bford.info/cachedir), and so are
keys (`*.key`): what they protect is worth more to a thief who has both.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import attrs

from chatcore.database.examine import examine
from chatcore.database.sqlite import Sqlite
from chatcore.errors import BackupError
from chatcore.operation.archive import DATABASE, PLUGINS, Manifest, Writer, is_name
from chatcore.operation.durable import sync

CACHE_TAG = "CACHEDIR.TAG"

CopyTo: TypeAlias = Callable[[Path, Callable[[], None]], object]
"""Copies a database to a new SQLite file, as it is at the moment when it calls what it is given."""

_PASSING = ("draft-", "waste-")  # how names begin of what is being made or removed just now
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@attrs.frozen
class Written:
    """A backup that was made. `left_out` are links and files with names that no archive can have."""

    manifest: Manifest
    left_out: Sequence[Path]


def back_up(database: Path | CopyTo, data: Path, target: Path, *, replace: bool = False) -> Written:
    """Writes the database, a file or what copies one to a file, and the files of plugins under `data` to the file
    `target`. On failure nothing is left.

    Raises:
        BackupError: there is `target` already, and `replace` was not said; or it cannot be written.
        DatabaseError: there is no database, or it is damaged.
    """
    with disk_told(target.parent):
        if target.exists() and not (replace and target.is_file()):
            raise BackupError(f"{target} exists", hint="choose another name, or say --force to replace a file")
        if not target.parent.is_dir():
            raise BackupError(f"there is no directory {target.parent}", hint="make it, or choose another place")
        if isinstance(database, Path):
            examine(database)
            database = partial(_copy_file, database)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            draft = Path(scratch, "draft.zip")
            written = _write(draft, database, data)
            sync(draft)
            draft.replace(target)
            sync(target.parent)
    return written


def _write(draft: Path, copy_to: CopyTo, data: Path) -> Written:
    """Writes a backup to a new file, and beside it, for as long as it is needed, the copy of the database."""
    with draft.open("xb") as file, Writer.to(file) as writer:
        copying = _Copying(writer, data)
        copy = draft.with_name(DATABASE)
        copying.run(copy_to, copy)
        manifest = writer.finish(
            version=version("chatcore"),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            migrations=examine(copy).migrations,
        )
    draft.chmod(0o600)
    return Written(manifest, copying.left_out)


def _copy_file(database: Path, copy: Path, at_that_moment: Callable[[], None]) -> None:
    Sqlite(database, durable=False).copy_to(copy, at_that_moment=at_that_moment)


@attrs.define
class _Copying:
    """One backup under way. `left_out` is as in `Written`."""

    writer: Writer
    data: Path
    left_out: list[Path] = attrs.field(factory=list)
    _seen: set[Path] = attrs.field(factory=set)

    def run(self, copy_to: CopyTo, copy: Path) -> None:
        self._add_files()
        copy_to(copy, self._add_files)
        self.writer.add(DATABASE, copy, compress=True)

    def _add_files(self) -> None:
        """Adds the files that were not seen before."""
        for path in _files(self.data / PLUGINS):
            if path not in self._seen:
                self._seen.add(path)
                self._add(path)

    def _add(self, path: Path) -> None:
        name = path.relative_to(self.data).as_posix()
        if path.is_symlink() or not is_name(name):
            self.left_out.append(path)
        else:
            with suppress(FileNotFoundError):  # deleted meanwhile: the database will not refer to it
                self.writer.add(name, path)


def _files(root: Path) -> Iterator[Path]:
    """The files, and links to directories, that belong into a backup."""
    for directory, inner, names in os.walk(root, onerror=_unless_gone):
        if CACHE_TAG in names:
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(_PASSING)]
        links = [name for name in inner if Path(directory, name).is_symlink()]
        for name in (*links, *names):
            if not name.startswith(_PASSING) and not name.endswith(".key"):
                yield Path(directory, name)


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@contextmanager
def disk_told(directory: Path) -> Iterator[None]:
    """Around what reads and writes files: an OSError becomes a BackupError that says where and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise BackupError(
                f"{directory.absolute()}: the disk is full",
                hint="free some space, or choose another place; nothing was left",
            ) from error
        raise BackupError(
            f"{error.filename or directory}: {error.strerror or error}",
            hint="see that it is there, and that this user may read and write it",
        ) from error
