"""Reads `.env` files.

The form is what shells and Docker Compose share: lines `NAME=value`, with `export` before them or not. A value in
single quotes is taken as it is; in double quotes a backslash before `n`, `r`, `t`, `"`, `$` or itself is an escape;
both may span lines. Without quotes the value ends with the line or before ` #`. Names inside values (`$HOME`) are not
expanded.
"""

import re
from pathlib import Path

from chatcore.errors import ConfigError

_BLANK = re.compile(r"[^\S\n]*(?:#[^\n]*)?(?:\n|\Z)")
_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
_QUOTED = re.compile(r"""[ \t]*(?:'([^']*)'|"((?:[^"\\]|\\.)*)")[ \t]*(?:\#[^\n]*)?(?:\n|\Z)""", re.DOTALL)
_PLAIN = re.compile(r"(?![ \t]*['\"])([^\n]*)(?:\n|\Z)")
_COMMENT = re.compile(r"[ \t]#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "$": "$"}


def read(path: Path) -> dict[str, str]:
    """The names and values in a file; nothing if there is no such file.

    Raises:
        ConfigError: the file cannot be read, or a line of it is not understood.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", hint="make it a readable UTF-8 text file, or remove it") from error
    return parse(text, str(path))


def parse(text: str, where: str = ".env") -> dict[str, str]:
    """The names and values in a text; the last of equal names counts. `where` is the file's name in errors.

    Raises:
        ConfigError: a line is not understood. The text names the line, and not what is in it.
    """
    text = text.replace("\r\n", "\n")
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        if blank := _BLANK.match(text, position):
            position = blank.end()
            continue
        name = _NAME.match(text, position)
        value = name and (_QUOTED.match(text, name.end()) or _PLAIN.match(text, name.end()))
        if name is None or value is None:
            line = text.count("\n", 0, position) + 1
            raise ConfigError(f"{where}, line {line}: not of the form NAME=value", hint="check the name and the quotes")
        found[name[1]] = _value(value)
        position = value.end()
    return found


def _value(match: re.Match[str]) -> str:
    if match.re is _PLAIN:
        return _COMMENT.sub("", match[1]).strip()
    if match[1] is not None:
        return match[1]
    return _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[1], escape[0]), match[2])
