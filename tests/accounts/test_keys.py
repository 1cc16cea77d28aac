"""The key file: made when needed, private, loud when it is missing or wrong."""

import stat
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from chatcore.accounts.keys import Keys
from chatcore.errors import VaultError


def keys(file: Path, sample: str | None = None) -> Keys:
    async def sampled() -> str | None:
        return sample

    return Keys(file, sampled)


async def test_the_file_is_made_when_it_is_first_needed_and_is_private(key_file):
    """Nobody but the server's user reads it, and it has one key."""
    assert await keys(key_file).seal({"a": 1})
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert len(key_file.read_bytes().split()) == 1
    assert [path.name for path in key_file.parent.iterdir()] == ["accounts.key"]


async def test_what_was_sealed_is_opened_by_whoever_has_the_file(key_file):
    """Also after a restart; and it is not the text itself."""
    sealed = await keys(key_file).seal({"token": "planted"})
    assert "planted" not in sealed
    assert await keys(key_file, sealed).unseal(sealed) == {"token": "planted"}


async def test_the_first_line_encrypts_and_every_line_decrypts(key_file):
    """So a key is changed by writing a new one above it."""
    old = await keys(key_file).seal({"n": 1})
    key_file.write_bytes(Fernet.generate_key() + b"\n" + key_file.read_bytes())
    rotated = keys(key_file, old)
    new = await rotated.seal({"n": 2})
    assert [await rotated.unseal(sealed) for sealed in (old, new)] == [{"n": 1}, {"n": 2}]
    key_file.write_bytes(key_file.read_bytes().split()[0])
    assert await keys(key_file, new).unseal(new) == {"n": 2}


async def test_a_missing_file_is_not_made_anew(key_file):
    """What is in the database could never be read again, and nobody would know why."""
    sealed = await keys(key_file).seal({})
    key_file.unlink()
    with pytest.raises(VaultError, match="is not there") as caught:
        await keys(key_file, sealed).seal({})
    assert "forget --all" in (caught.value.hint or "")
    assert not key_file.exists()


async def test_another_key_is_refused(key_file):
    """Else some accounts would be readable with one file and some with the other."""
    sealed = await keys(key_file).seal({})
    key_file.write_bytes(Fernet.generate_key())
    with pytest.raises(VaultError, match="does not have the key"):
        await keys(key_file, sealed).seal({})


@pytest.mark.parametrize("content", [b"", b"\n \n", b"not a key\n"])
async def test_a_file_without_keys_is_refused(key_file, content: bytes):
    """It was damaged, or is something else."""
    key_file.parent.mkdir()
    key_file.write_bytes(content)
    with pytest.raises(VaultError, match="no key"):
        await keys(key_file).seal({})


async def test_a_file_that_cannot_be_read_is_told(key_file):
    """Such as one that is a directory."""
    key_file.mkdir(parents=True)
    with pytest.raises(VaultError, match="Is a directory"):
        await keys(key_file).seal({})


@pytest.mark.parametrize("forged", ["", "gAAAA", "ü", "a" * 5000])
async def test_what_was_not_sealed_here_opens_as_nothing(key_file, forged: str):
    """Whatever it is."""
    assert await keys(key_file).unseal(forged) is None


async def test_what_is_too_old_opens_as_nothing(key_file, monkeypatch: pytest.MonkeyPatch):
    """The time is in it, and cannot be changed."""
    sealed = await keys(key_file).seal({"a": 1})
    assert await keys(key_file).unseal(sealed, seconds=60) == {"a": 1}
    import time

    later = time.time() + 61
    monkeypatch.setattr("time.time", lambda: later)
    assert await keys(key_file).unseal(sealed, seconds=60) is None
    assert await keys(key_file).unseal(sealed) == {"a": 1}
