"""Whether an object can be what chatcore is to use it as: its members, and what its methods take and give.

Refused is only what certainly cannot work. What no one can tell without a call is taken as right: a proxy, a
`functools.partial`, a function that hands on what another one gives.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cache
from types import NoneType
from typing import Any, Protocol, get_args, get_origin, get_type_hints

import attrs

from chatcore.plugins.gives import alternatives, can_give
from chatcore.protocols import Activatable, Authenticator, GenerationLookup, Provider

_OPTIONAL: Mapping[type, type] = {Authenticator: Activatable, Provider: GenerationLookup}
"""Protocols of which an object may have the members, beside those that it must have."""

_USES = {
    "__await__": "it is awaited: write 'async def {name}', without 'yield'",
    "__aiter__": "it is to give an async iterator: write 'async def {name}' with 'yield' in it",
    "__aenter__": "it is to give an async context manager: write @asynccontextmanager above 'async def {name}'",
    "": "it is not awaited: write 'def {name}'",
}
"""By what chatcore uses that a method gives, with what to write instead of one that does not have it. Where it is empty
the value is used as it is."""


@attrs.frozen
class _Method:
    """How chatcore calls a member, and what by it uses what that gives. One that is `optional` may be None."""

    arguments: tuple[str, ...]
    use: str
    optional: bool = False


def is_one(value: object, wanted: type) -> bool:
    """Whether a value is of a class, or has the members of a protocol. A class itself is nothing of the kind."""
    if inspect.isclass(value):
        return False
    return not _missing(value, wanted) if _is_protocol(wanted) else isinstance(value, wanted)


def lacking(value: object, wanted: type) -> str:
    """What to tell of a value that has some of the members of a protocol, and not all."""
    missing = _missing(value, wanted)
    return f": it has no {', '.join(missing)}" if 0 < len(missing) < len(_members(wanted)) else ""


def faults(value: object, wanted: type) -> Sequence[str]:
    """Why a value cannot be used as what it is given for: each with class, method, file and remedy."""
    own = type(value).__name__
    return [
        f"{own}.{name}{f', {place(found)}' if callable(found) else ''}: {fault}"
        for name, found, fault in _faults(value, wanted)
    ]


def misfit(value: object, wanted: type) -> str:
    """All that keeps a value from being used as what it is given for; nothing where it can be."""
    if not is_one(value, wanted):
        return f"{type(value).__name__} is no {wanted.__name__}{lacking(value, wanted)}"
    return "; ".join(faults(value, wanted))


def unlike(value: Any, known: object = None) -> str:
    """The first field of an attrs value that is not what its class declares, with what is in it; empty if there is
    none. Fields that are those of `known`, one like it, are not looked at again."""
    declared: type = type(value)
    for name, hint in _hints(declared).items():
        given = getattr(value, name)
        if (known is None or given is not getattr(known, name)) and not _conforms(given, hint):
            return f"{name} {given!r:.100}, wanted {getattr(hint, '__name__', hint)}"
    return ""


def _conforms(value: object, hint: Any) -> bool:
    """Whether a value is as a hint says, with all that is in it. Any sequence does for a tuple, any set for a frozen
    one, and anything for a truth."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is None:
        return hint in (Any, bool) or isinstance(value, hint)
    if kind is tuple:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_conforms(v, parts[0]) for v in value)
    if kind is frozenset:
        return isinstance(value, Set) and all(_conforms(one, parts[0]) for one in value)
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and all(_conforms(v, parts[1]) for v in value.values())
    return any(_conforms(value, part) for part in alternatives(hint))


def place(function: Callable[..., Any]) -> str:
    """Where a function is defined: `file:line`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "a file that is not known"


# --- members ----------------------------------------------------------------------------------------------------------


def _is_protocol(wanted: type) -> bool:
    return Protocol in wanted.__bases__


def _missing(value: object, wanted: type) -> Sequence[str]:
    return [name for name in _members(wanted) if not _has(value, name)]


def _members(wanted: type) -> Mapping[str, object]:
    """What the body of a protocol names; nothing for what is no protocol."""
    named = vars(wanted) if _is_protocol(wanted) else {}
    return {name: member for name, member in named.items() if not name.startswith("_")}


def _has(value: object, name: str) -> bool:
    try:  # not by `hasattr` first: it would run a property
        inspect.getattr_static(value, name)
    except AttributeError:
        return hasattr(value, name)
    return True


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


@cache
def _methods(wanted: type) -> Mapping[str, _Method]:
    if attrs.has(wanted):
        found = {field.name: _declared(field.type) for field in attrs.fields(wanted)}
        return {name: method for name, method in found.items() if method}
    return {name: _specified(member) for name, member in _members(wanted).items() if inspect.isfunction(member)}


def _specified(function: Callable[..., Any]) -> _Method:
    signature = inspect.signature(function)
    use = "__await__" if inspect.iscoroutinefunction(function) else _use_of(signature.return_annotation)
    return _Method(tuple(signature.parameters)[1:], use)


def _declared(hint: Any) -> _Method | None:
    parts = alternatives(hint)
    for part in parts:
        if get_origin(part) is Callable:
            arguments, given = get_args(part)
            return _Method(tuple(argument.__name__ for argument in arguments), _use_of(given), NoneType in parts)
    return None


def _use_of(hint: Any) -> str:
    return next(use for use in _USES if not use or hasattr(get_origin(hint) or hint, use))


# --- what is wrong ----------------------------------------------------------------------------------------------------


def _faults(value: object, wanted: type) -> Iterator[tuple[str, object, str]]:
    """The members that are wrong: name, what is there, and the remedy."""
    needed, also = _methods(wanted), _OPTIONAL.get(wanted)
    for name, method in {**(_methods(also) if also else {}), **needed}.items():
        found = getattr(value, name, None)
        if found is not None or (name in needed and not method.optional):
            yield from ((name, found, fault) for fault in _faults_of(name, found, method))
    for name, member in _members(wanted).items():
        found = inspect.getattr_static(value, name, None)
        if isinstance(member, property) and inspect.isfunction(found):
            yield name, found, "it is a value, not a method: write @property above it"
    if attrs.has(wanted):
        yield from _faults_of_parts(value, wanted)


def _faults_of_parts(value: object, wanted: type) -> Iterator[tuple[str, object, str]]:
    """What is wrong with the values in a value: those that are declared to be of certain attrs classes."""
    for field in attrs.fields(wanted):
        parts = [part for part in alternatives(field.type) if inspect.isclass(part)]
        if any(map(attrs.has, parts)):
            part = getattr(value, field.name)
            if not isinstance(part, tuple(parts)):
                wanted_parts = " or ".join(one.__name__ for one in parts)
                yield field.name, part, f"it is {part!r:.200}, wanted {wanted_parts}"
            yield from ((f"{field.name}.{name}", found, fault) for name, found, fault in _faults(part, type(part)))


def _faults_of(name: str, found: object, method: _Method) -> Iterator[str]:
    if not callable(found):
        yield f"it is {found!r:.200}, wanted a method"
        return
    try:
        signature = inspect.signature(found, follow_wrapped=False)
    except (TypeError, ValueError):  # one that is written in C, or pretends to be everything
        signature = inspect.Signature([inspect.Parameter("any", inspect.Parameter.VAR_POSITIONAL)])
    try:
        signature.bind(*method.arguments)
    except TypeError:
        yield f"its arguments are {signature}, wanted ({', '.join(method.arguments)})"
    if not can_give(found, method.use):
        yield _USES[method.use].format(name=getattr(found, "__name__", name))
