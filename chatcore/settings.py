"""Settings classes: how their fields are declared, and how they are read from a file, the environment and overrides.

A settings class is a frozen attrs class whose fields are made with `option`. An empty variable of the environment
counts as unset; a list is separated by commas there, and so is a table of texts, each `NAME=VALUE`. Relative paths in
the file are relative to the file.
"""

import difflib
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import attrs

from chatcore import wire
from chatcore.errors import ConfigError, ValidationFailed
from chatcore.secrets import MASK, Secret
from chatcore.tools import JsonObject
from chatcore.wire.hints import is_union

DEFAULT = "default"
"""The origin of a value that nobody set."""

S = TypeVar("S")
Validator: TypeAlias = Callable[[Any, "attrs.Attribute[Any]", Any], object]

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_FROM_TEXT: dict[object, tuple[Callable[[str], Any], str]] = {
    bool: (lambda text: _BOOLEANS[text.lower()], "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
}
# Up to the last @, in the URL of a database also behind a slash: whoever did not write %40 and %2F in the password must
# not find the rest of it in a log.
_PASSWORD = re.compile(
    r"(postgres(?:ql)?://[^/@:]*:).*(?=@)|(?<=://)([^/@:]*:)[^/]*(?=@)|([?&](?:ssl)?password=)[^&#]*"
)


def option(
    default: object = attrs.NOTHING,
    *,
    env: str | tuple[str, ...] = (),
    help: str = "",  # noqa: A002 - the word that click has for it
    validator: Validator | Sequence[Validator] | None = None,
) -> Any:
    """A field of a settings class.

    `env` names the environment variables that set it; the first that is set counts. `help` says what it is, in a
    sentence. `validator` is one of attrs'. Without `default` the user must set it. A field of type `Secret` or
    `Secret | None` never prints; in the file it is text, `{ env = "NAME" }` or `{ file = "path" }`.
    """
    names = (env,) if isinstance(env, str) else env
    metadata = {"env": names, "help": help}
    return attrs.field(default=default, validator=validator, kw_only=True, repr=show, metadata=metadata)


@attrs.frozen(kw_only=True)
class Sources:
    """Where the values of one settings class come from; each overrides the one before.

    `table` is its part of the file, `section` the table's name with a dot behind it (`plugins.weather.`, or empty).
    `environ` holds the environment and, for names that are not in it, `.env`; `dotenv` are the names from `.env`.
    """

    file: Path
    table: JsonObject = attrs.field(factory=dict, repr=False)
    section: str = ""
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    dotenv: Container[str] = ()
    overrides: JsonObject = attrs.field(factory=dict, repr=False)


@attrs.frozen
class _Given:
    """A value that somebody set. `place` is what an error names, `base` what its paths are relative to.

    `text` says that it is as the environment has it.
    """

    value: Any
    origin: str
    place: str
    text: bool = False
    base: Path = Path()


def read(cls: type[S], sources: Sources) -> tuple[S, dict[str, str]]:
    """An instance of a settings class, and the origin of each of its values.

    Raises:
        ConfigError: with everything that is wrong, one problem a line.
    """
    given = _gather(cls, sources)
    hints = get_type_hints(cls)
    problems = [*_unknown(cls, sources), *_missing(cls, given, sources)]
    values: dict[str, Any] = {}
    for name, item in given.items():
        try:
            value = _parse(item.value, hints[name]) if item.text else item.value
            values[name] = _resolve(value, hints[name], sources, item.base)
        except ValueError as error:
            problems.append(f"{item.place}: {error}")
    settings: S | None = None
    try:
        settings = wire.structure(values, cls)
    except ValidationFailed as error:
        problems += _located(error, values, given)
    if problems or settings is None:
        raise ConfigError("\n".join(problems))
    return settings, {f.name: given[f.name].origin if f.name in given else DEFAULT for f in wire.fields_of(cls)}


def show(value: object) -> str:
    """A value as a TOML file would have it, without secrets, and without the passwords of URLs."""
    match value:
        case None:
            return "none"
        case Secret():
            return MASK
        case bool():
            return str(value).lower()
        case str() | Path():
            return json.dumps(_PASSWORD.sub(rf"\1\2\3{MASK}", str(value)), ensure_ascii=False)
        case Mapping():
            return "{" + ", ".join(f"{_key(str(key))} = {show(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(show, value)) + "]"
    if attrs.has(type(value)):
        return show({field.name: getattr(value, field.name) for field in wire.fields_of(type(value))})
    return str(value)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


# --- who says what ----------------------------------------------------------------------------------------------------


def _gather(cls: type, sources: Sources) -> dict[str, _Given]:
    """The values of the fields that somebody set, each from the strongest source."""
    given = {}
    for field in wire.fields_of(cls):
        name = field.name
        if name in sources.overrides:
            flag = "--" + name.replace("_", "-")
            given[name] = _Given(sources.overrides[name], flag, flag)
        elif variable := next((v for v in field.metadata.get("env", ()) if sources.environ.get(v)), None):
            origin = f"{'.env' if variable in sources.dotenv else 'environment'} {variable}"
            given[name] = _Given(sources.environ[variable], origin, origin, text=True)
        elif name in sources.table:
            place = f"{sources.file}: {sources.section}{name}"
            given[name] = _Given(sources.table[name], str(sources.file), place, base=sources.file.parent)
    return given


def _unknown(cls: type, sources: Sources) -> Iterator[str]:
    names = [field.name for field in wire.fields_of(cls)]
    for key in [*sources.table, *sources.overrides]:
        if key not in names:
            close = difflib.get_close_matches(key, names, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(names) or 'none'}"
            yield f"{sources.file}: {sources.section}{key}: unknown; {advice}"


def _missing(cls: type, given: Mapping[str, _Given], sources: Sources) -> Iterator[str]:
    for field in wire.fields_of(cls):
        if field.default is attrs.NOTHING and field.name not in given:
            variables = " or ".join(field.metadata.get("env", ()))
            yield f"{sources.file}: {sources.section}{field.name}: required" + (variables and f", or set {variables}")


def _located(failed: ValidationFailed, values: Mapping[str, Any], given: Mapping[str, _Given]) -> Iterator[str]:
    """The converter's problems with the place that each value came from; what is missing was said already."""
    for problem in failed.problems:
        name, rest = re.findall(r"^\$\.?([^.\[]*)(.*)$", problem.path)[0]
        if name in values:
            yield f"{given[name].place}{rest}: {problem.message}"
        elif not name:
            yield problem.message


# --- from what was written to values ----------------------------------------------------------------------------------


def _parse(text: str, type_: object) -> object:
    """A variable of the environment as a value of a field's type."""
    type_ = without_none(type_)
    if known := _FROM_TEXT.get(type_):
        convert, wanted = known
        try:
            return convert(text.strip())
        except (KeyError, ValueError) as error:
            raise ValueError(f"want {wanted}, not {text!r}") from error
    plain = wire.plain_types(type_)
    if list in plain and str not in plain:
        return [_parse(item.strip(), item_type(type_)) for item in text.split(",") if item.strip()]
    if dict in plain and str not in plain:
        pairs = [item.partition("=") for item in text.split(",") if item.strip()]
        return {key.strip(): value.strip() for key, _, value in pairs}
    if get_origin(type_) is Literal:
        return next((choice for choice in get_args(type_) if str(choice).lower() == text.lower()), text)
    return text


def _resolve(value: object, type_: object, sources: Sources, base: Path) -> object:
    """A value with its secrets fetched and its paths put on `base`, at any depth."""
    type_ = without_none(type_)
    if type_ is Secret:
        return _secret(value, sources)
    if type_ is Path and isinstance(value, str):
        return base / Path(value).expanduser()
    if isinstance(value, Mapping):
        return {key: _resolve(item, _type_at(type_, key), sources, base) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, item_type(type_), sources, base) for item in value]
    return value


def _secret(value: object, sources: Sources) -> Secret | None:
    match value:
        case str():
            return Secret(value)
        case {"env": str(name), **rest} if not rest:
            if not sources.environ.get(name):
                raise ValueError(f"the environment has no {name}")
            return Secret(sources.environ[name])
        case {"file": str(name), **rest} if not rest:
            try:
                return Secret((sources.file.parent / Path(name).expanduser()).read_text().strip())
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(f"{name} cannot be read: {error}") from error
        case Secret() | None:
            return value
    raise ValueError('want text, { env = "NAME" } or { file = "path" }')


# --- types ------------------------------------------------------------------------------------------------------------


def without_none(type_: object) -> object:
    """`T` for `T | None`, and any other type as it is."""
    if is_union(type_):
        rest = [arg for arg in get_args(type_) if arg is not NoneType]
        return rest[0] if len(rest) == 1 else type_
    return type_


def _type_at(type_: object, key: str) -> object:
    """The type of a table's value: of a field of an attrs class, or of any value of a mapping."""
    if isinstance(type_, type) and attrs.has(type_):
        return get_type_hints(type_).get(key, Any)
    arguments = get_args(type_)
    return arguments[1] if len(arguments) == 2 else Any


def item_type(type_: object) -> object:
    return next(iter(get_args(type_)), Any)
