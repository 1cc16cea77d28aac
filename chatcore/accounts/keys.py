"""The key file, and what is encrypted with it.

The file is beside the database, not in it, and in no backup: who has only one of the two has nothing. It has a key on
each line; the first encrypts, all decrypt. So a new key is put on top, and an old one may go when nothing needs it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chatcore import wire
from chatcore.errors import VaultError
from chatcore.operation.durable import make_private
from chatcore.tools import JsonObject

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class Keys:
    """Encrypts and decrypts JSON. The file is read once, when it is first needed."""

    def __init__(self, file: Path, sample: Callable[[], Awaitable[str | None]]) -> None:
        """`sample` gives something that was encrypted earlier, if there is anything: the keys must fit it."""
        self.file = file
        self._sample = sample
        self._fernet: MultiFernet | None = None

    async def seal(self, value: JsonObject) -> str:
        """The value, encrypted. The first time of all, this makes the key file.

        Raises:
            VaultError: the key file is missing, wrong, or cannot be read.
        """
        fernet = await self._ready()
        return fernet.encrypt(wire.dumps(value)).decode()

    async def unseal(self, sealed: str, *, seconds: int | None = None) -> JsonObject | None:
        """What was encrypted, or None if that was not done with these keys, or more than `seconds` ago.

        Raises:
            VaultError: the key file is missing, wrong, or cannot be read.
        """
        return _open(await self._ready(), sealed, seconds)

    async def _ready(self) -> "MultiFernet":
        if self._fernet is None:
            self._fernet = await asyncio.to_thread(self._load, await self._sample())
        return self._fernet

    def _load(self, sample: str | None) -> "MultiFernet":
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415  slow, and most servers have no accounts

        try:
            if sample is None:
                make_private(self.file, lambda: Fernet.generate_key() + b"\n")
            fernet = MultiFernet([Fernet(line) for line in self.file.read_bytes().split()])
        except FileNotFoundError as error:
            raise VaultError(
                f"{self.file} is not there, with which the accounts in the database were encrypted", hint=_REMEDY
            ) from error
        except OSError as error:
            raise VaultError(f"{self.file}: {error.strerror}", hint="see that the server's user may read it") from error
        except ValueError as error:
            raise VaultError(f"{self.file} has a line that is no key, or none at all", hint=_REMEDY) from error
        if sample is not None and _open(fernet, sample) is None:
            raise VaultError(
                f"{self.file} does not have the key with which the accounts in the database were encrypted",
                hint=_REMEDY,
            )
        return fernet


_REMEDY = (
    "put the key file back, from where it was kept or from the server's other host; without it, "
    "'chatcore accounts forget --all' clears the accounts, and everybody signs in again"
)


def _open(fernet: "MultiFernet", sealed: str, seconds: int | None = None) -> JsonObject | None:
    from cryptography.fernet import InvalidToken  # noqa: PLC0415  as above

    try:
        value: JsonObject = wire.loads(fernet.decrypt(sealed.encode(), seconds))
    except (InvalidToken, UnicodeEncodeError):
        return None
    return value
