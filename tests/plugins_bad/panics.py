"""Has a library that panics."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class Panic(BaseException):
    """As libraries in Rust raise it."""


class Panics(Plugin[NoSettings]):
    """Raises what is no Exception."""

    @hookimpl
    def register_tools(self):
        raise Panic("index out of bounds")
