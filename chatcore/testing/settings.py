"""What can be said about a settings class: for the documentation and READMEs of plugins."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import attrs

from chatcore.secrets import Secret
from chatcore.settings import item_type, show, without_none


@attrs.frozen
class Option:
    """What can be said about a field of a settings class: for `--help`, the documentation and READMEs.

    `type` and `default` are as a reader of a TOML file would write them; `default` is None where one must be given.
    """

    name: str
    type: str
    default: str | None
    env: tuple[str, ...]
    help: str


def options(cls: type) -> Sequence[Option]:
    """The options of a settings class, in the order of the class."""
    hints = get_type_hints(cls)
    return [
        Option(
            name=field.name,
            type=_type_name(hints[field.name]),
            default=None if field.default is attrs.NOTHING else show(_default(field)),
            env=field.metadata.get("env", ()),
            help=field.metadata.get("help", ""),
        )
        for field in attrs.fields(cls)
    ]


_NAMES: dict[object, str] = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "string",
    Path: "path",
    Secret: "secret",
}


def _type_name(type_: object) -> str:
    type_ = without_none(type_)
    if name := _NAMES.get(type_):
        return name
    if get_origin(type_) is Literal:
        return " or ".join(map(show, get_args(type_)))
    if get_origin(type_) in (tuple, list):
        return f"list of {_type_name(item_type(type_))}s"
    return "table"


def _default(field: "attrs.Attribute[Any]") -> object:
    factory = getattr(field.default, "factory", None)
    return factory() if factory else field.default
