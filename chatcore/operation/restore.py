"""Verifies backups, and puts what is in them into a data directory."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import attrs

from chatcore.database.examine import Examined, examine, history
from chatcore.errors import BackupError, ChatcoreError, DatabaseError
from chatcore.operation.archive import DATABASE, PLUGINS, Archive
from chatcore.operation.backup import CACHE_TAG, disk_told
from chatcore.operation.checks import Check, in_bytes
from chatcore.operation.durable import sync
from chatcore.worker import Presence, alive

# --- verify -----------------------------------------------------------------------------------------------------------


STEPS = ("archive", "checksums", "database", "migrations")


def verify(file: Path) -> Sequence[Check]:
    """Looks at everything that must hold for a backup to be of use, until something does not."""
    checks: list[Check] = []
    try:
        for found in _steps(file):
            checks.append(Check(STEPS[len(checks)], "ok", found))
    except ChatcoreError as error:
        checks.append(Check(STEPS[len(checks)], "fail", error.message, error.hint or ""))
    return checks


def _steps(file: Path) -> Iterator[str]:
    """Goes through `STEPS`, each of which needs those before it, and gives what it found."""
    with Archive.open(file) as archive, disk_told(Path(tempfile.gettempdir())):
        manifest = archive.manifest
        yield f"made by chatcore {manifest.chatcore} on {manifest.created_at}; {in_bytes(manifest.size)}"
        with tempfile.TemporaryDirectory(prefix="chatcore-") as scratch:
            database = Path(scratch, DATABASE)
            _copy(archive, database)
            yield f"those of the database and of {len(manifest.entries) - 1} files"
            examined = _examined(file, database)
            yield f"{in_bytes(examined.size)}, sound"
            yield f"up to {_last(file, examined.migrations.get('chatcore', ()))}"


def _copy(archive: Archive, database: Path) -> None:
    """Reads all of an archive, and copies its database."""
    entries = archive.manifest.entries
    _see_room(database.parent, sum(entry.size for entry in entries if entry.name == DATABASE))
    with database.open("xb") as copy:
        for entry in entries:
            archive.copy(entry, copy if entry.name == DATABASE else None)


def _examined(file: Path, database: Path) -> Examined:
    try:
        return examine(database, thorough=True)
    except DatabaseError as error:
        what = error.message.replace(str(database), DATABASE)
        raise BackupError(f"{file}: {what}", hint="use another backup") from error


def _last(file: Path, migrations: Sequence[str]) -> str:
    """The last of the migrations, all of which must be known."""
    if unknown := [name for name in migrations if name not in history()]:
        raise BackupError(
            f"{file} was made by a newer version of chatcore: it has the migrations {', '.join(unknown)}",
            hint="upgrade chatcore",
        )
    if not migrations:
        raise BackupError(f"{file}: the database has no tables", hint="use another backup")
    return migrations[-1]


# --- restore ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Place:
    """Where a server has its database and its other data."""

    database: Path
    data: Path

    @property
    def plugins(self) -> Path:
        return self.data / PLUGINS

    def refuse(self, *, replace: bool, known: int = 0) -> None:
        """Raises BackupError when the place is in use, by more than `known` processes, or when it is not empty and
        `replace` was not said."""
        if alive(self.data / "workers") > known:
            raise BackupError(f"a server is running on {self.data}", hint="stop it first")
        if not replace and (self.database.exists() or list(self.outdated(()))):
            raise BackupError(
                f"there is data already: {self.database if self.database.exists() else self.plugins}",
                hint="choose another directory with --data, or say --force: what is there is kept under a new name",
            )

    def outdated(self, restored: Sequence[str]) -> Sequence[Path]:
        """The directories of plugins that a restored database does not go with. What a plugin can get again stays,
        unless it was `restored`."""
        there = self.plugins.iterdir() if self.plugins.is_dir() else ()
        return [path for path in there if path.name in restored or not (path / CACHE_TAG).exists()]


def put_back(file: Path, place: Place, *, replace: bool = False) -> Sequence[Path]:
    """Puts what is in a verified backup into its place. What was there is kept: gives where.

    Until everything is unpacked, nothing is changed.

    Raises:
        BackupError: the place is in use, not empty, or cannot be written.
    """
    with disk_told(place.data), ExitStack() as opened:
        presence = Presence(place.data / "workers")  # so that nobody else restores here at the same time
        opened.callback(presence.leave)
        place.refuse(replace=replace, known=1)
        unpacked = Place(place.database.with_name(f"{place.database.name}.restoring"), place.data / "restoring")
        opened.callback(_clear, unpacked)
        _clear(unpacked)
        _unpack(file, unpacked)
        return _switch(unpacked, place)


def _clear(unpacked: Place) -> None:
    unpacked.database.unlink(missing_ok=True)
    shutil.rmtree(unpacked.data, ignore_errors=True)


def _unpack(file: Path, unpacked: Place) -> None:
    unpacked.plugins.mkdir(parents=True)
    unpacked.database.parent.mkdir(parents=True, exist_ok=True)
    with Archive.open(file) as archive:
        _see_room(unpacked.data, archive.manifest.size)
        for entry in archive.manifest.entries:
            target = unpacked.database if entry.name == DATABASE else unpacked.data / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as copy:
                archive.copy(entry, copy)
    os.sync()


def _switch(unpacked: Place, place: Place) -> Sequence[Path]:
    """Moves the old data aside and the new into its place, the database last and in one step. When something fails, all
    of it is undone."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    kept = []
    with ExitStack() as undo:
        restored = [path.name for path in unpacked.plugins.iterdir()]
        aside = place.data / f"{PLUGINS}.before-restore-{stamp}"
        for old in place.outdated(restored):
            _move(old, aside / old.name, undo)
            kept = [aside]
        for name in restored:
            _move(unpacked.plugins / name, place.plugins / name, undo)
        kept += _keep(place.database, f".before-restore-{stamp}", undo)
        unpacked.database.replace(place.database)
        undo.pop_all()
    sync(place.data)
    sync(place.database.parent)
    return kept


def _keep(database: Path, suffix: str, undo: ExitStack) -> Sequence[Path]:
    """Gives the database, if there is one, a second name: there is no moment without one under the first. What a killed
    server left beside it gets the new name only: SQLite would take it for the restored one's."""
    kept = database.with_name(database.name + suffix)
    found = database.exists()
    if found:
        os.link(database, kept)
        undo.callback(kept.unlink)
    for rest in ("-wal", "-shm", "-journal"):
        if (beside := database.with_name(database.name + rest)).exists():
            _move(beside, kept.with_name(kept.name + rest), undo)
    return [kept] if found else []


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    target.parent.mkdir(exist_ok=True)
    source.rename(target)
    undo.callback(target.rename, source)


def _see_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise BackupError(
            f"{directory} has {in_bytes(free)} free, and {in_bytes(needed)} are to come",
            hint="make room; backups are looked at in the directory that TMPDIR names",
        )
