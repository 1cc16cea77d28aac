"""Archives: what is taken for a backup, and what is not."""

import io
import json
import os
import random
import stat
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from chatcore.errors import BackupError
from chatcore.operation.archive import Archive, Writer, is_name

CONTENT = {"chatcore.db": b"pages " * 5000, "plugins/disk/files/a": b"\x89PNG" * 100, "plugins/disk/empty": b""}


def made(directory: Path) -> Path:
    """An archive as we write it."""
    path = directory / "backup.zip"
    with path.open("xb") as file, Writer.to(file) as writer:
        for name, content in CONTENT.items():
            source = directory / "source"
            source.write_bytes(content)
            writer.add(name, source, compress=name == "chatcore.db")
        writer.finish(
            version="1.2.3", created_at="2026-01-02T03:04:05+00:00", migrations={"chatcore": ["0001_initial"]}
        )
    return path


def content(path: Path) -> dict[str, bytes]:
    """Everything in an archive, read as one reads it."""
    found = {}
    with Archive.open(path) as archive:
        for entry in archive.manifest.entries:
            target = io.BytesIO()
            archive.copy(entry, target)
            found[entry.name] = target.getvalue()
    return found


def refused(path: Path) -> str:
    """What an archive is refused with."""
    with pytest.raises(BackupError) as caught:
        content(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value.message


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every entry, byte for byte, and what the manifest says."""
    path = made(tmp_path)
    assert content(path) == CONTENT
    with Archive.open(path) as archive:
        manifest = archive.manifest
    assert (manifest.chatcore, manifest.migrations) == ("1.2.3", {"chatcore": ("0001_initial",)})
    assert manifest.size == sum(map(len, CONTENT.values()))


def test_other_programs_read_it(tmp_path: Path) -> None:
    """It is a plain zip archive; the manifest has the SHA-256 of every entry. The database is compressed."""
    with zipfile.ZipFile(made(tmp_path)) as file:
        assert file.testzip() is None
        manifest = json.loads(file.read("manifest.json"))
        assert {entry["name"]: entry["sha256"] for entry in manifest["entries"]} == {
            name: sha256(data).hexdigest() for name, data in CONTENT.items()
        }
        assert file.getinfo("chatcore.db").compress_size < 1000
        assert stat.S_IMODE(file.getinfo("chatcore.db").external_attr >> 16) == 0o600


@pytest.mark.parametrize(
    "name", ["chatcore.db", "plugins/disk/files/ab/data", "plugins/x", "plugins/x/..data", "plugins/x/日本 – ü"]
)
def test_names_that_an_entry_may_have(name: str) -> None:
    """Those of the database and of files of plugins."""
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "x", "/chatcore.db", "../chatcore.db", "plugins", "plugins/", "plugins/../x", "plugins/a/../../x",
     "/plugins/a", "plugins/./x", "plugins//x", "plugins/a/", "plugins/..", "plugins\\a", "plugins/a\\..\\b",
     "plugins/a\0", "plugins/a\nb", "workers/x.lock", "C:/x", "Plugins/x", "chatcore.db/x"],
)  # fmt: skip
def test_names_that_no_entry_may_have(tmp_path: Path, name: str) -> None:
    """Those that lead, or might lead, out of the directory of plugins. An archive with one is refused."""
    assert not is_name(name)
    path = tmp_path / "bad.zip"
    forged(path, {**CONTENT, name: b"evil"})
    if "\0" not in name and name:  # the library that writes them cuts such a name
        assert f"an entry of the name {name!r}" in refused(path)


def forged(path: Path, entries: dict[str, bytes], /, **changes: object) -> None:
    """An archive by somebody who knows the format. `changes` are made to the manifest."""
    manifest = {
        "format": 1,
        "chatcore": "0.1.0",
        "created_at": "",
        "migrations": {},
        "entries": [{"name": n, "size": len(d), "sha256": sha256(d).hexdigest()} for n, d in entries.items()],
        **changes,
    }
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {**entries, "manifest.json": json.dumps(manifest).encode()}.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # as it is: the class would mend it
            file.writestr(info, data)


def test_a_changed_entry(tmp_path: Path) -> None:
    """One that is not what the manifest has the checksum of is told by name."""
    path = tmp_path / "bad.zip"
    forged(path, {**CONTENT, "plugins/a": b"what it was"})
    path.write_bytes(rezipped(path, "plugins/a", b"what it is "))
    assert "plugins/a was changed" in refused(path)


def rezipped(path: Path, changed: str, data: bytes) -> bytes:
    """The archive with other bytes in an entry, whose checksums of the zip format are right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w") as copy:
        for info in source.infolist():
            copy.writestr(info.filename, data if info.filename == changed else source.read(info))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("entries", "changes", "told"),
    [
        (CONTENT, {"format": 2, "chatcore": "9.0"}, "was made by chatcore 9.0"),
        (CONTENT, {"format": "1"}, "format"),
        (CONTENT, {"entries": []}, "its entries are not those of its manifest"),
        ({"plugins/a": b""}, {}, "there is no database in it"),
        (CONTENT, {"entries": [{"name": "chatcore.db", "size": -1, "sha256": ""}]}, "not those of its manifest"),
        (CONTENT, {"entries": None}, "entries"),
    ],
)
def test_a_manifest_that_does_not_fit(tmp_path: Path, entries: dict[str, bytes], changes: dict, told: str) -> None:
    """Entries that are missing, or that it does not have; a format of the future, or none."""
    path = tmp_path / "bad.zip"
    forged(path, entries, **changes)
    assert told in refused(path)


def test_an_entry_that_comes_twice(tmp_path: Path) -> None:
    """Two programs might each read another of them."""
    path = made(tmp_path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as file:
        file.writestr("chatcore.db", CONTENT["chatcore.db"])
    assert "not those of its manifest" in refused(path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFCHR])
def test_an_entry_that_is_no_file(tmp_path: Path, mode: int) -> None:
    """A link, a directory, a device."""
    path = tmp_path / "bad.zip"
    forged(path, {**CONTENT, "plugins/link": b"/etc/passwd"})
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w") as copy:
        for info in source.infolist():
            if info.filename == "plugins/link":
                info.external_attr = mode << 16
            copy.writestr(info, source.read(info.filename))
    path.write_bytes(buffer.getvalue())
    assert "plugins/link is not a plain file" in refused(path)


def test_an_entry_that_unpacks_to_more_than_it_says(tmp_path: Path) -> None:
    """A bomb gives no more than what was declared, and that is not what it should be."""
    path = tmp_path / "bad.zip"
    bomb = zipfile.ZipInfo("plugins/bomb")
    bomb.compress_type = zipfile.ZIP_DEFLATED
    manifest = {"format": 1, "chatcore": "", "created_at": "", "migrations": {}, "entries": [
        {"name": "chatcore.db", "size": 0, "sha256": sha256(b"").hexdigest()},
        {"name": "plugins/bomb", "size": 1000, "sha256": sha256(bytes(1000)).hexdigest()},
    ]}  # fmt: skip
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(bomb, bytes(50_000_000))
        bomb.file_size = 1000  # what the end of the archive will say
        file.writestr("chatcore.db", b"")
        file.writestr("manifest.json", json.dumps(manifest))
    assert path.stat().st_size < 100_000
    refused(path)


def test_entries_that_share_their_bytes(tmp_path: Path) -> None:
    """The other kind of bomb: many entries that are all the same place of the file."""
    path = tmp_path / "bad.zip"
    data = random.Random(1).randbytes(50_000)
    entries = {"chatcore.db": data, **{f"plugins/{number}": data for number in range(20)}}
    manifest = {"format": 1, "chatcore": "", "created_at": "", "migrations": {}, "entries": [
        {"name": n, "size": len(d), "sha256": sha256(d).hexdigest()} for n, d in entries.items()
    ]}  # fmt: skip
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("chatcore.db", data)
        first = file.getinfo("chatcore.db")
        for name in list(entries)[1:]:
            info = zipfile.ZipInfo(name)
            info.header_offset, info.CRC = first.header_offset, first.CRC
            info.file_size = info.compress_size = len(data)
            file.filelist.append(info)
        file.writestr("manifest.json", json.dumps(manifest))
    assert "overlap" in refused(path)


@pytest.mark.parametrize("data", [b"", b"PK", b"Dear diary", b"\x89PNG\r\n\x1a\n" + bytes(500)])
def test_a_file_that_is_no_archive(tmp_path: Path, data: bytes) -> None:
    """Whatever it is."""
    path = tmp_path / "other"
    path.write_bytes(data)
    assert "not a backup" in refused(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    """A zip archive without a manifest, or with one of another program."""
    path = tmp_path / "other.zip"
    for name, data in (("mimetype", b"application/epub+zip"), ("manifest.json", b'{"manifest_version": 3}')):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, data)
        assert "not a backup" in refused(path)


@pytest.mark.timeout(20)
def test_what_has_no_end_is_not_read(tmp_path: Path) -> None:
    """A device would fill the memory, a pipe be waited for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        assert "not a file" in refused(path)


def test_no_file(tmp_path: Path) -> None:
    """One that is not there, and a directory."""
    assert "No such file" in refused(tmp_path / "nowhere")
    assert "directory" in refused(tmp_path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """Wherever the file ends too early."""
    whole = made(tmp_path).read_bytes()
    path = tmp_path / "cut.zip"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert refused(path)


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path: Path) -> None:
    """What is read is what was written, or an error of ours: no other error, and never something else."""
    whole = made(tmp_path).read_bytes()
    path = tmp_path / "flipped.zip"
    noticed = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            assert content(path) == CONTENT
        except BackupError:
            noticed += 1
    assert noticed > len(whole) / 2
