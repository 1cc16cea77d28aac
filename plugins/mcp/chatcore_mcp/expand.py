"""`${NAME}` in a configuration file: what is secret, or differs from machine to machine, stands in the environment."""

import re
from collections.abc import Mapping
from typing import TypeVar

_REFERENCE = re.compile(r"\$\{(?P<prefix>env:|input:)?(?P<name>[^}:]+)(?::-(?P<default>[^}]*))?\}")

T = TypeVar("T", str, tuple[str, ...], Mapping[str, str])


def expand(value: T, environ: Mapping[str, str]) -> T:
    """The value with `${NAME}`, `${NAME:-default}` and `${env:NAME}` replaced; what is empty counts as absent.

    Raises:
        ValueError: with the remedy, where the environment lacks a name that has no default.
    """

    def text(written: str) -> str:
        return _REFERENCE.sub(lambda found: _meant(found, environ), written)

    if isinstance(value, str):
        return text(value)
    if isinstance(value, tuple):
        return tuple(map(text, value))
    return {key: text(item) for key, item in value.items()}


def _meant(found: re.Match[str], environ: Mapping[str, str]) -> str:
    name = found["name"]
    if found["prefix"] == "input:":
        raise ValueError(f"{found[0]} asks for input, and nobody is there to give it: write ${{NAME}}, and set NAME")
    value = environ.get(name) or found["default"]
    if value is None:
        raise ValueError(f"the environment has no {name}: set it, or write ${{{name}:-default}}")
    return value
