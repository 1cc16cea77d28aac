"""Has an authenticator that is not asynchronous."""

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.types import Principal


class Door:
    """Lets everybody in."""

    name = "door"

    def authenticate(self, credentials) -> Principal:
        return Principal("everybody")


class SyncAuthenticator(Plugin[NoSettings]):
    """Would answer every request with an error."""

    @hookimpl
    def register_auth(self):
        yield Door()
