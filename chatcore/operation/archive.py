"""The file of a backup: a zip archive that any program opens, whose manifest names everything in it.

manifest.json    what this is, and of every other entry the size and the SHA-256
chatcore.db      the database
plugins/NAME/…   the files of plugins, such as those of the store `disk`
"""

import errno
import hashlib
import re
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Self

import attrs

from chatcore import wire
from chatcore.errors import BackupError, RequestError

DATABASE = "chatcore.db"
PLUGINS = "plugins"

_FORMAT = 1
_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 256 * 2**20  # bytes: about a million files
_PIECE = 2**20
_PART = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]+")
# All that the standard library may raise of bytes that are no archive, or that were changed on purpose.
_UNREADABLE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
)


@attrs.frozen
class Entry:
    """A file in the archive."""

    name: str
    size: int
    sha256: str


@attrs.frozen(kw_only=True)
class Manifest:
    """What an archive says of itself. `migrations` are those of the database, by history."""

    format: int
    chatcore: str
    created_at: str
    migrations: Mapping[str, Sequence[str]]
    entries: Sequence[Entry]

    @property
    def size(self) -> int:
        """The bytes that its entries take when they are unpacked."""
        return sum(entry.size for entry in self.entries)


def is_name(name: str) -> bool:
    """Whether an entry may be called so: it leads nowhere but into the directory of plugins."""
    if name == DATABASE:
        return True
    first, *parts = name.split("/")
    return first == PLUGINS and bool(parts) and all(_PART.fullmatch(part) for part in parts)


class Writer:
    """An archive that is being written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.entries: list[Entry] = []
        self._zip = zipfile.ZipFile(file, "w")

    @classmethod
    @contextmanager
    def to(cls, file: IO[bytes]) -> Iterator[Self]:
        """Writes to a file that is open. Without `finish` it becomes no archive."""
        writer = cls(file)
        try:
            yield writer
        finally:
            with suppress(OSError):  # it fails again when it failed for want of space
                writer._zip.close()

    def add(self, name: str, path: Path, *, compress: bool = False) -> None:
        """Adds a file. Raises OSError before anything is written if it cannot be opened."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as source, self._zip.open(_info(name, path, compress=compress), "w") as target:
            while piece := source.read(_PIECE):
                digest.update(piece)
                size += len(piece)
                target.write(piece)
        self.entries.append(Entry(name, size, digest.hexdigest()))

    def finish(self, *, version: str, created_at: str, migrations: Mapping[str, Sequence[str]]) -> Manifest:
        """Writes the manifest, and the end of the file."""
        manifest = Manifest(
            format=_FORMAT, chatcore=version, created_at=created_at, migrations=migrations, entries=self.entries
        )
        self._zip.writestr(_MANIFEST, wire.dumps(manifest), zipfile.ZIP_DEFLATED)
        self._zip.close()
        return manifest


def _info(name: str, path: Path, *, compress: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, time.localtime()[:6])
    info.file_size = path.stat().st_size  # so that it takes the form for large files if it needs to
    info.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    info.external_attr = (stat.S_IFREG | 0o600) << 16
    return info


class Archive:
    """An archive whose structure was checked; its bytes are when they are copied."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self._path = path
        self._zip = file
        self.manifest = self._checked()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Opens a backup.

        Raises:
            BackupError: it is none, it is cut off, or something in it is not as we write it.
        """
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe ends never, nor do some devices
                raise OSError(errno.EINVAL, "it is not a file")
            file = path.open("rb")
        except OSError as error:
            raise BackupError(f"{path}: {error.strerror}", hint="name the file of a backup") from error
        with file:
            with _blamed(path):
                archive = cls(path, zipfile.ZipFile(file))
            yield archive

    def copy(self, entry: Entry, target: IO[bytes] | None = None) -> None:
        """Reads an entry, and writes it to `target`.

        Raises:
            BackupError: it is not what was put into it.
            OSError: it cannot be written.
        """
        digest = hashlib.sha256()
        with _blamed(self._path):
            source = self._zip.open(entry.name)
        while piece := self._read(source):
            digest.update(piece)
            if target:
                target.write(piece)
        if digest.hexdigest() != entry.sha256:
            raise _unusable(self._path, f"{entry.name} was changed")

    def _read(self, source: IO[bytes]) -> bytes:
        # No more comes than was declared, and checked, whatever the compressed bytes would give.
        with _blamed(self._path):
            return source.read(_PIECE)

    def _checked(self) -> Manifest:
        infos = {info.filename: info for info in self._zip.infolist()}
        if _MANIFEST not in infos or infos[_MANIFEST].file_size > _LARGEST_MANIFEST:
            raise _unusable(self._path, "it has no manifest")
        manifest = self._manifest()
        declared = {entry.name: entry.size for entry in manifest.entries}
        if bad := next((name for name in declared if not is_name(name)), None):
            raise _unusable(self._path, f"it has an entry of the name {bad!r}")
        found = {name: info.file_size for name, info in infos.items() if name != _MANIFEST}
        if found != declared or len(declared) != len(manifest.entries) or len(self._zip.infolist()) != len(infos):
            raise _unusable(self._path, "its entries are not those of its manifest")
        if DATABASE not in declared:
            raise _unusable(self._path, "there is no database in it")
        if odd := next((name for name, info in infos.items() if not _is_plain(info)), None):
            raise _unusable(self._path, f"{odd} is not a plain file")
        if sum(info.compress_size for info in infos.values()) > self._path.stat().st_size:
            raise _unusable(self._path, "its entries overlap")
        return manifest

    def _manifest(self) -> Manifest:
        said = wire.loads(self._zip.read(_MANIFEST))
        match said:
            case {"format": int(number), "chatcore": str(version)} if number > _FORMAT:
                raise BackupError(f"{self._path} was made by chatcore {version}", hint="upgrade chatcore to restore it")
        return wire.structure(said, Manifest)


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """Neither a link nor a directory, not encrypted, and packed as we do it."""
    mode = info.external_attr >> 16
    packed = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return stat.S_IFMT(mode) in (0, stat.S_IFREG) and packed and not info.flag_bits & 1


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    try:
        yield
    except (*_UNREADABLE, RequestError) as error:
        raise _unusable(path, str(error) or type(error).__name__) from error


def _unusable(path: Path, why: str) -> BackupError:
    return BackupError(f"{path} is not a backup of chatcore, or damaged: {why}", hint="use another backup")
