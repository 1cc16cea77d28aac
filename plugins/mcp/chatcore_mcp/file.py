"""The file of the servers: read, watched, and changed without losing what is not known here."""

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chatcore.errors import ConfigError
from chatcore_mcp.definitions import entry_of
from chatcore_mcp.definitions import written as entries

_TRIES = 10  # to change a file that somebody else changes at the same moment


class ServersFileError(ConfigError):
    """The file cannot be read or changed as it is, which is for a person to mend. Who asks may know why."""

    status = 409
    code = "mcp_servers_file"


class ServersFile:
    """One file, which need not be there. Its methods block: they are for a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = False
        self._seen: os.stat_result | None = None

    def changed(self) -> bool:
        """Whether it is another one than when it was read last, as far as its name, size and time tell."""
        return not self._read or _identity(self._stamp()) != _identity(self._seen)

    @property
    def changed_at(self) -> datetime | None:
        """When what was read last was written; None if there was no file."""
        return self._seen and datetime.fromtimestamp(self._seen.st_mtime, UTC)

    def read(self) -> Any:
        """The JSON of the file; an empty document if there is no file, or nothing in it.

        Raises:
            ServersFileError: with the place of what is wrong.
        """
        self._read, self._seen = True, self._stamp()
        return self._parse(self._text())

    def change(self, change: Callable[[Any], None]) -> Any:
        """Has `change` change the JSON of the file, and gives that as it is then.

        The new content is there whole or not at all. Its indentation and the file's permissions stay; a new file can be
        read by its owner only, for it may hold secrets.

        Raises:
            ServersFileError: it is not JSON, which is for a person to mend; or it cannot be written. It is as it was.
        """
        with self._alone():
            for _ in range(_TRIES):
                before, text = self._stamp(), self._text()
                document = self._parse(text)
                change(document)
                if document == self._parse(text):
                    return document
                new = json.dumps(document, indent=_indentation(text), ensure_ascii=False) + "\n"
                if written := self._replace(new, before):
                    self._read, self._seen = True, written
                    return document
        raise ServersFileError(f"{self.path} is changed all the time by somebody else")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other worker changes the file. Other programs do not know of it: those are noticed by its time."""
        directory = self.path.resolve().parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY)
        except OSError as error:
            raise ServersFileError(f"{self.path} cannot be changed: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _stamp(self) -> os.stat_result | None:
        try:
            return self.path.stat()
        except OSError:
            return None

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except (OSError, UnicodeDecodeError) as error:
            raise ServersFileError(f"{self.path} cannot be read: {error}") from error

    def _parse(self, text: str) -> Any:
        if not text.strip():
            return {"servers": []}
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ServersFileError(
                f"{self.path} is not JSON: {error}", hint="mend it; it is read again then"
            ) from error
        if not isinstance(document, dict | list):
            raise ServersFileError(f"{self.path} holds neither an object nor a list", hint="write {'servers': []}")
        return document

    def _replace(self, text: str, before: os.stat_result | None) -> os.stat_result | None:
        """Puts a text in place of the file. None: somebody else has changed it since `before`, and it stays so."""
        target = self.path.resolve()  # where it is a link, what it leads to is replaced, not the link
        try:
            descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            new = Path(name)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                if target.exists():
                    new.chmod(target.stat().st_mode & 0o777)
                if _identity(self._stamp()) != _identity(before):
                    return None
                written = new.stat()
                new.replace(target)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            raise ServersFileError(f"{self.path} cannot be written: {error}") from error
        return written


def _identity(status: os.stat_result | None) -> object:
    return status and (status.st_ino, status.st_size, status.st_mtime_ns)


def _indentation(text: str) -> int | str | None:
    """What the lines of a JSON text are indented with; two blanks for a text of one line, or none."""
    found = re.search(r"^([ \t]+)\S", text, re.MULTILINE)
    if found is None:
        return 2
    return "\t" if "\t" in found[1] else len(found[1])


# --- changes ----------------------------------------------------------------------------------------------------------


def set_fields(document: Any, key: str, fields: dict[str, Any]) -> None:
    """Sets fields of one server's entry, which is made if there is none."""
    own = entry_of(document, key)
    if own is None:
        add(document, key, fields)
    else:
        own.update(fields)


def add(document: Any, key: str, fields: dict[str, Any]) -> None:
    """Adds an entry to a document, in the form that the others have."""
    if isinstance(document, list):
        document.append({"id": key, **fields})
        return
    form = "mcpServers" if "mcpServers" in document and "servers" not in document else "servers"
    group = document.setdefault(form, [])
    if isinstance(group, dict):
        group[key] = fields
    else:
        group.append({"id": key, **fields})


def remove(document: Any, keys: Container[str]) -> None:
    """Takes out all entries with these ids; `#3` is the third of a list, if it has none."""
    groups = [document] if isinstance(document, list) else [document.get(form) for form in ("servers", "mcpServers")]
    for group in groups:
        if isinstance(group, dict):
            for key in [key for key in group if key in keys]:
                del group[key]
        elif isinstance(group, list):
            group[:] = [entry for key, entry in entries(group) if key not in keys]
