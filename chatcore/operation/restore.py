"""Verifies backups, and puts what is in them into a data directory."""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import attrs

from chatcore.database.examine import examine, history
from chatcore.errors import BackupError, ChatcoreError, DatabaseError
from chatcore.operation.archive import DATABASE, PLUGINS, Archive
from chatcore.operation.backup import CACHE_TAG, disk_told
from chatcore.operation.checks import Check, in_bytes
from chatcore.operation.durable import sync
from chatcore.worker import Presence, alive

# --- verify -----------------------------------------------------------------------------------------------------------


def verify(file: Path) -> Sequence[Check]:
    """Looks at everything that must hold for a backup to be of use, until something does not."""
    checks: list[Check] = []
    with ExitStack() as opened:
        verification = _Verification(file, opened)
        for name, step in verification.steps().items():
            try:
                checks.append(Check(name, "ok", step()))
            except ChatcoreError as error:
                return [*checks, Check(name, "fail", error.message, error.hint or "")]
    return checks


class _Verification:
    """The steps of `verify`: each needs those before it, and gives what it found."""

    def __init__(self, file: Path, opened: ExitStack) -> None:
        self._file = file
        self._opened = opened
        self._archive: Archive
        self._database: Path
        self._migrations: Sequence[str]

    def steps(self) -> Mapping[str, Callable[[], str]]:
        return {
            "archive": self._see_structure,
            "checksums": self._see_content,
            "database": self._see_database,
            "migrations": self._see_migrations,
        }

    def _see_structure(self) -> str:
        self._archive = self._opened.enter_context(Archive.open(self._file))
        manifest = self._archive.manifest
        return f"made by chatcore {manifest.chatcore} on {manifest.created_at}; {in_bytes(manifest.size)}"

    def _see_content(self) -> str:
        scratch = Path(self._opened.enter_context(tempfile.TemporaryDirectory(prefix="chatcore-")))
        self._database = scratch / DATABASE
        entries = self._archive.manifest.entries
        with disk_told(scratch):
            _see_room(scratch, sum(entry.size for entry in entries if entry.name == DATABASE))
            with self._database.open("xb") as database:
                for entry in entries:
                    self._archive.copy(entry, database if entry.name == DATABASE else None)
        return f"those of the database and of {len(entries) - 1} files"

    def _see_database(self) -> str:
        try:
            examined = examine(self._database, thorough=True)
        except DatabaseError as error:
            what = error.message.replace(str(self._database), DATABASE)
            raise BackupError(f"{self._file}: {what}", hint="use another backup") from error
        self._migrations = examined.migrations.get("chatcore", ())
        return f"{in_bytes(examined.size)}, sound"

    def _see_migrations(self) -> str:
        if unknown := [name for name in self._migrations if name not in history()]:
            raise BackupError(
                f"{self._file} was made by a newer version of chatcore: it has the migrations {', '.join(unknown)}",
                hint="upgrade chatcore",
            )
        if not self._migrations:
            raise BackupError(f"{self._file}: the database has no tables", hint="use another backup")
        return f"up to {self._migrations[-1]}"


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
