"""Plain values to attrs values, strictly, and with the path of everything that is wrong.

One cattrs converter. cattrs' own hooks convert where they can (5 becomes "5", a text becomes a list of letters); the
hooks here refuse instead, so that a caller learns of a mistake.
"""

import difflib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from uuid import UUID

import attrs
from cattrs import AttributeValidationNote, ClassValidationError, Converter
from cattrs.gen import make_dict_structure_fn, override

from chatcore.errors import Problem, ValidationFailed
from chatcore.wire import values
from chatcore.wire.hints import ARRAYS, OBJECTS, REST, Hint, fields_of, is_enum, is_union, origin, plain_types
from chatcore.wire.text import JsonValue
from chatcore.wire.values import Hook, Wrong

T = TypeVar("T")

MAX_PROBLEMS = 100
"""How many problems of one array or object are told, so that a body full of them does not get a longer answer."""

_LONGEST_KEY = 64

_SCALARS: Mapping[Hint, Hook] = {
    int: values.integer,
    float: values.number,
    datetime: values.time,
    UUID: values.uuid,
    **{type_: values.instance(type_) for type_ in (str, bool, bytes, Path)},
}


def rest() -> Any:
    """An attrs field that takes the keys of an object for which the class has no field, as a JSON object.

    A class without such a field refuses unknown keys. On the way out it is a field like any other.
    """
    return attrs.field(factory=dict, metadata={REST: True})


def structure(value: JsonValue, type_: type[T]) -> T:
    """A plain value, as `loads` gives it, as a value of the type.

    Nothing is converted: 5 is not "5", 1.0 is not 1, 1 is not true; only an integer is also a float. A datetime is
    ISO-8601 with an offset. What has no form in JSON, such as a `Path`, passes if it is an instance of its type.

    Raises:
        ValidationFailed: has a problem for every path that is wrong.
        TypeError: the type has no form in JSON.
    """
    try:
        result: T = _hook(type_, _converter)(value, type_)
    except Wrong as wrong:
        raise ValidationFailed(wrong.below("$")) from None
    return result


def _hook(type_: Hint, converter: Converter) -> Hook:
    # For a class, cattrs first looks for a hook of a base class. An Enum of strings is not a string.
    return values.enum(type_) if is_enum(type_) else converter.get_structure_hook(type_)


# --- arrays and objects -----------------------------------------------------------------------------------------------


def _array(type_: Hint, converter: Converter) -> Hook:
    make = ARRAYS[origin(type_)]
    item, *more = get_args(type_) or (Any,)
    if more not in ([], [Ellipsis]):
        raise TypeError(f"{type_!r} has no form in JSON: the items must be of one type")
    hook = _hook(item, converter)

    def structure_array(value: JsonValue, _: Hint) -> object:
        if not isinstance(value, (list, tuple)):
            raise Wrong.unless("an array", value)
        return make(_each(hook, item, enumerate(value), "[{}]".format))

    return structure_array


def _object(type_: Hint, converter: Converter) -> Hook:
    item = (get_args(type_) or (str, Any))[1]
    hook = _hook(item, converter)

    def structure_object(value: JsonValue, _: Hint) -> object:
        if not isinstance(value, dict):
            raise Wrong.unless("an object", value)
        if item is Any:
            return value
        return dict(zip(value, _each(hook, item, value.items(), _step), strict=True))

    return structure_object


def _each(
    hook: Hook, type_: Hint, items: Iterable[tuple[Any, JsonValue]], path: Callable[[Any], str]
) -> list[JsonValue]:
    results: list[Any] = []
    problems: list[Problem] = []
    for key, value in items:
        try:
            results.append(hook(value, type_))
        except Wrong as wrong:
            problems += wrong.below(path(key))
            if len(problems) >= MAX_PROBLEMS:
                break
    if problems:
        raise Wrong(problems[:MAX_PROBLEMS])
    return results


def _step(key: str) -> str:
    if len(key) > _LONGEST_KEY:
        key = key[:_LONGEST_KEY] + "…"
    return f".{key}" if key.isidentifier() else f"[{key!r}]"


# --- attrs classes ----------------------------------------------------------------------------------------------------


def _class(cls: Hint, converter: Converter) -> Hook:
    fields = fields_of(cls)
    catch_all = next((field.name for field in fields if REST in field.metadata), None)
    known = frozenset(field.name for field in fields) - {catch_all}

    # Made when first used: a field may be of the same class.
    @functools.cache
    def make() -> Hook:
        hooks: dict[str, Any] = {field.name: override(struct_hook=_field(field, converter)) for field in fields}
        return make_dict_structure_fn(cls, converter, _cattrs_detailed_validation=True, **hooks)

    def structure_class(value: JsonValue, type_: Hint) -> object:
        if not isinstance(value, dict):
            raise Wrong.unless("an object", value)
        problems: list[Problem] = []
        if not value.keys() <= known:
            if catch_all:
                value = _with_rest(value, known, catch_all)
            else:
                problems = _unknown(value, known)
        try:
            result = make()(value, type_)
        except ClassValidationError as error:
            raise Wrong([*problems, *_of_fields(error)]) from None
        if problems:
            raise Wrong(problems)
        return result

    return structure_class


def _with_rest(value: Mapping[str, Any], known: frozenset[str], catch_all: str) -> dict[str, Any]:
    unknown = {key: inner for key, inner in value.items() if key not in known}
    return {key: inner for key, inner in value.items() if key in known} | {catch_all: unknown}


def _unknown(keys: Iterable[str], known: frozenset[str]) -> list[Problem]:
    unknown = itertools.islice((key for key in keys if key not in known), MAX_PROBLEMS)
    return [Problem(_step(key), "is not known" + _suggestion(key, known)) for key in unknown]


def _suggestion(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key[:_LONGEST_KEY], known, n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def _field(field: "attrs.Attribute[Any]", converter: Converter) -> Hook:
    """The hook of a field, which runs the field's validator too, so that its error gets the field's path."""
    hook = _hook(field.type, converter)
    validate: Callable[[Any, Any, Any], None] | None = field.validator
    if validate is None:
        return hook

    def structure_field(value: JsonValue, type_: Hint) -> object:
        result = hook(value, type_)
        try:
            validate(None, field, result)
        except AttributeError:
            # It looks at other fields: it runs again when there is a whole object, and its error has that one's path.
            pass
        except (ValueError, TypeError) as error:
            # The texts of attrs begin with the field's name, which is in the path.
            raise Wrong.because(_text(error).removeprefix(f"'{field.name}' ")) from None
        return result

    return structure_field


def _of_fields(group: ClassValidationError) -> Iterator[Problem]:
    for error in group.exceptions:
        # Without a note it comes from the class itself, when it was made.
        notes = getattr(error, "__notes__", ())
        note = next((note for note in notes if isinstance(note, AttributeValidationNote)), None)
        path = _step(note.name) if note else ""
        if isinstance(error, Wrong):
            yield from error.below(path)
        elif note and isinstance(error, KeyError):
            yield Problem(path, "is missing")
        elif isinstance(error, (ValueError, TypeError)):
            yield Problem(path, _text(error))
        else:
            raise error


def _text(error: Exception) -> str:
    # The errors of attrs carry the field and the value after the text.
    return str(error.args[0]) if error.args else type(error).__name__


# --- unions -----------------------------------------------------------------------------------------------------------


def _union(type_: Hint, converter: Converter) -> Hook:
    """Chooses a member by what the value is in JSON."""
    members: dict[type, list[Hint]] = {}
    for member in get_args(type_):
        for plain in plain_types(member):
            members.setdefault(plain, []).append(member)
    hooks = {plain: _first_of(candidates, converter) for plain, candidates in members.items()}
    expected = " or ".join(dict.fromkeys(values.name_of(plain) for plain in members))

    def structure_union(value: JsonValue, _: Hint) -> object:
        hook = hooks.get(type(value)) or next((hooks[plain] for plain in hooks if isinstance(value, plain)), None)
        if hook is None:
            raise Wrong.unless(expected, value)
        return hook(value, type_)

    return structure_union


def _first_of(members: list[Hint], converter: Converter) -> Hook:
    """The hook of members that look the same in JSON: of classes with a tag by that, else the first that fits."""
    hooks = [(_hook(member, converter), member) for member in members]
    if len(members) == 1:
        return hooks[0][0]
    if tag := _tag(members):
        return _tagged(tag, hooks)

    def structure_first(value: JsonValue, _: Hint) -> object:
        problems: dict[Problem, None] = {}
        for hook, member in hooks:
            try:
                return hook(value, member)
            except Wrong as wrong:
                problems |= dict.fromkeys(wrong.problems)
        raise Wrong(list(problems))

    return structure_first


def _tag(members: list[Hint]) -> str | None:
    """The name of the field that is a `Literal` in all members."""
    if not all(attrs.has(member) for member in members):
        return None
    names = [{field.name for field in fields_of(cls) if origin(field.type) is Literal} for cls in members]
    return min(set.intersection(*names), default=None)


def _tagged(tag: str, hooks: list[tuple[Hook, Hint]]) -> Hook:
    by_tag = {value: (hook, cls) for hook, cls in hooks for value in get_args(getattr(attrs.fields(cls), tag).type)}
    check = values.literal(Literal[tuple(by_tag)])

    def structure_tagged(value: JsonValue, _: Hint) -> object:
        if tag not in value:
            raise Wrong.because("is missing", _step(tag))
        try:
            hook, cls = by_tag[check(value[tag], None)]
        except Wrong as wrong:
            raise Wrong(wrong.below(_step(tag))) from None
        return hook(value, cls)

    return structure_tagged


def _make_converter() -> Converter:
    converter = Converter()
    for type_, hook in _SCALARS.items():
        converter.register_structure_hook(type_, hook)

    def register(matches: Callable[[Hint], bool], factory: Callable[[Hint, Converter], Hook]) -> None:
        converter.register_structure_hook_factory(matches, lambda type_: factory(type_, converter))

    # Of those that match, cattrs takes the one that was registered last.
    register(lambda type_: isinstance(type_, type), lambda type_, _: values.instance(type_))
    register(lambda type_: origin(type_) is Literal, lambda type_, _: values.literal(type_))
    register(lambda type_: origin(type_) in OBJECTS, _object)
    register(lambda type_: origin(type_) in ARRAYS, _array)
    register(lambda type_: type_ in (None, type(None)), lambda *_: values.instance(type(None)))
    register(lambda type_: type_ is Any, lambda *_: values.anything)
    register(attrs.has, _class)
    register(is_union, _union)
    return converter


_converter = _make_converter()
