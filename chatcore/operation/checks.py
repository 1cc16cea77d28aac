"""Rows of what was looked at, and what to do where it is not well."""

from typing import Literal, TypeAlias

import attrs

State: TypeAlias = Literal["ok", "warn", "fail"]


@attrs.frozen
class Check:
    """One thing that was looked at: how it is, what was found, and what to do about it."""

    name: str
    state: State
    found: str
    remedy: str = ""


def in_bytes(count: float) -> str:
    """A number of bytes for people: `3.2 MB`."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"
