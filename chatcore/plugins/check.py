"""The checks that a plugin must pass: its class, its hooks, and what its hooks give."""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs

from chatcore.errors import PluginError
from chatcore.hooks import API_VERSION, Plugin
from chatcore.plugins.fit import is_one, lacking, misfit, place
from chatcore.plugins.gives import can_give
from chatcore.plugins.registry import Contribution, Kind, Provenance
from chatcore.protocols import Account, Authenticator, BlobStore, Lifespan, Provider, ToolSource
from chatcore.tools import Tool

if TYPE_CHECKING:
    from click import Command
    from quart import Blueprint, Quart

Options: TypeAlias = Mapping[str, object]
"""What pluggy notes of a `@hookimpl`."""

Kinds: TypeAlias = tuple[tuple[Kind, type], ...]
"""What a hook may give."""

TURN_HOOKS: dict[str, Kind] = {"prepare_turn": "prepare_turn", "finish_turn": "finish_turn"}
"""The hooks that are called for every turn, with their kinds. The others are called once, and contribute."""

_GIVES: Mapping[str, Kinds] = {
    "register_providers": (("provider", Provider),),
    "register_tools": (("tool", Tool), ("tool source", ToolSource)),
    "register_storage": (("blob store", BlobStore),),
    "register_auth": (("authenticator", Authenticator),),
    "register_accounts": (("account", Account),),
    "register_lifespans": (("lifespan", Lifespan),),
}
_LONGEST_NAME = 100
_NAMES: Mapping[Kind, tuple[re.Pattern[str], str]] = {
    "provider": (re.compile(r"[^/\s]+"), "has no '/' and no spaces, ids are NAME/MODEL"),
    "command": (re.compile(r"[^-\s]\S*"), "has no spaces and no '-' before it, or nobody could call it"),
}
"""What names must be like where not every text can be used as one."""


def check_class(cls: object) -> type[Plugin[Any]]:
    """The plugin's class, if it is one that this chatcore can use.

    Raises:
        PluginError: it is not, or it is written for hooks of the future.
    """
    if not inspect.isclass(cls) or not issubclass(cls, Plugin):
        raise PluginError(f"{cls!r} is not a subclass of chatcore.Plugin; an entry point is written 'package:Class'")
    if not isinstance(cls.api_version, int) or cls.api_version < 1:
        raise PluginError(f"api_version is {cls.api_version!r}, wanted a number from 1 to {API_VERSION}")
    if cls.api_version > API_VERSION:
        raise PluginError(
            f"it is written for version {cls.api_version} of the hooks; this chatcore knows them up to version "
            f"{API_VERSION}: install a newer chatcore, or an older release of the plugin"
        )
    if not inspect.isclass(cls.settings_class) or not attrs.has(cls.settings_class):
        given = getattr(cls.settings_class, "__name__", cls.settings_class)
        raise PluginError(f"settings_class is {given}, wanted a class with @attrs.frozen above it")
    return cls


def migrations_of(cls: type[Plugin[Any]]) -> Path | None:
    """The directory of the migrations that make a plugin's tables, if it has any.

    Raises:
        PluginError: there is no such directory beside the tables, or they are no tables.
    """
    if not cls.tables:
        return None
    if wrong := [table for table in cls.tables if not inspect.isclass(table)]:
        raise PluginError(f"tables has {wrong[0]!r}, wanted classes: peewee models")
    directory = Path(inspect.getfile(cls.tables[0])).with_name("migrations")
    if not directory.is_dir():
        raise PluginError(f"it has tables, but nothing makes them: {directory} is no directory of migrations")
    return directory


# --- hooks ------------------------------------------------------------------------------------------------------------


def check_hooks(cls: type[Plugin[Any]], specs: Sequence[str], options_of: Callable[[str], Options | None]) -> None:
    """Compares every hook of a plugin with its specification: name, arguments, async or not.

    `options_of` gives the options of the `@hookimpl` on an attribute of the class, None where there is none.

    Raises:
        PluginError: with everything that is wrong.
    """
    problems = [
        f"{cls.__name__}.{name}, {place(getattr(cls, name))}: {problem}"
        for name in dir(cls)
        for problem in _hook_problems(cls, name, specs, options_of(name))
    ]
    if problems:
        raise PluginError("; ".join(problems))


def _hook_problems(cls: type[Plugin[Any]], name: str, specs: Sequence[str], options: Options | None) -> Iterator[str]:
    if options is None:
        if name in specs and inspect.getattr_static(cls, name) is not inspect.getattr_static(Plugin, name):
            yield "it is a hook: write @hookimpl above it"
        return
    if name not in specs:
        close = difflib.get_close_matches(name, specs, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(specs)}"
        yield f"there is no such hook; {advice}"
        return
    if any(options.values()):
        yield "@hookimpl takes no options: the order of plugins is that of 'order' in chatcore.toml"
    if not inspect.isfunction(inspect.getattr_static(cls, name)):
        yield "a hook is a plain method"
        return
    yield from _signature_problems(getattr(Plugin, name), getattr(cls, name))


def _signature_problems(spec: Callable[..., Any], hook: Callable[..., Any]) -> Iterator[str]:
    if inspect.iscoroutinefunction(spec) and not inspect.iscoroutinefunction(hook):
        yield f"the hook is async: write 'async def {spec.__name__}'" + _without_yield(hook)
    elif not inspect.iscoroutinefunction(spec) and (
        inspect.iscoroutinefunction(hook) or inspect.isasyncgenfunction(hook)
    ):
        yield f"the hook is not async: write 'def {spec.__name__}'; what it yields may have async methods"
    wanted = list(inspect.signature(spec).parameters)
    if list(inspect.signature(hook).parameters) != wanted:
        yield f"its arguments are {inspect.signature(hook)}, wanted ({', '.join(wanted)})"


def _without_yield(hook: Callable[..., Any]) -> str:
    return ", without 'yield'" if inspect.isasyncgenfunction(hook) else ""


# --- contributions ----------------------------------------------------------------------------------------------------


def contributions(hook: str, given: object, provenance: Provenance) -> Sequence[Contribution]:
    """What a hook has given, checked and named. Runs a generator to its end.

    Raises:
        PluginError: it is not what the hook wants.
    """
    kinds = _kinds(hook)
    if inspect.iscoroutine(given):
        given.close()  # or Python would complain of it, too
    if not isinstance(given, Iterable):
        raise PluginError(f"{hook} gave {given!r:.200}, wanted an iterable: write 'yield' before each {_wanted(kinds)}")
    return [made for value in given for made in _contributions(hook, kinds, value, provenance)]


def _kinds(hook: str) -> Kinds:
    if hook == "register_routes":
        from quart import Blueprint  # noqa: PLC0415  half a second that only a plugin with routes costs

        return (("blueprint", Blueprint),)
    if hook == "register_commands":
        from click import Command  # noqa: PLC0415  only the command line has commands

        return (("command", Command),)
    return _GIVES[hook]


def _wanted(kinds: Kinds) -> str:
    return " or ".join(type_.__name__ for _, type_ in kinds)


def _contributions(hook: str, kinds: Kinds, value: object, provenance: Provenance) -> Iterator[Contribution]:
    found = next(((kind, type_) for kind, type_ in kinds if is_one(value, type_)), None)
    if found is None:
        raise PluginError(f"{hook} gave {value!r:.200}, wanted {_wanted(kinds)}{lacking(value, kinds[-1][1])}")
    kind, type_ = found
    name = _name(hook, kind, value)
    if wrong := misfit(value, type_):
        raise PluginError(f"{hook}: {wrong}")
    yield Contribution(kind, f"{provenance.plugin}.{name}" if kind == "lifespan" else name, value, provenance)
    if kind == "command" and (unheard := _unawaited(cast("Command", value))):
        raise PluginError(f"{hook}: the command {name}: {unheard}")
    if kind == "blueprint":
        for route in check_routes(cast("Blueprint", value)):
            yield Contribution("route", route, name, provenance)


def _name(hook: str, kind: Kind, value: object) -> str:
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not name:
        raise PluginError(f"{hook} gave {value!r:.200}, whose name is {name!r:.200}, wanted a text")
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise PluginError(
            f"{hook} gave the {kind} {name!r:.200}: a name is a line of {_LONGEST_NAME} characters at most"
        )
    rule = _NAMES.get(kind)
    if rule and not rule[0].fullmatch(name):
        raise PluginError(f"{hook} gave the {kind} {name!r}: a name {rule[1]}")
    return name


def _unawaited(command: "Command") -> str:
    """What to tell of a command, or one below it, whose function click would call and nobody await."""
    from click import Command, Group  # noqa: PLC0415  as above

    own = command.callback
    if own and type(command).invoke in (Command.invoke, Group.invoke) and not can_give(own, ""):
        return f"{own.__name__}, {place(own)}: click does not await it: write 'def', and asyncio.run within"
    return next(filter(None, map(_unawaited, command.commands.values())), "") if isinstance(command, Group) else ""


# --- routes -----------------------------------------------------------------------------------------------------------


def check_routes(blueprint: "Blueprint") -> Sequence[str]:
    """The routes of a blueprint as `METHOD /path/<>`.

    Only an application can tell them, so it is registered with one that is thrown away.

    Raises:
        PluginError: a view has no policy, two have the same endpoint, or the blueprint reaches into requests that are
            not its own.
    """
    from quart import Quart  # noqa: PLC0415  as above

    from chatcore.access import policy_of  # noqa: PLC0415  it needs quart
    from chatcore.routing import Rule  # noqa: PLC0415  as above

    app = Quart("chatcore.check", static_folder=None)
    app.url_rule_class = Rule
    try:
        app.register_blueprint(blueprint)
    except Exception as error:  # Quart's word on it, of which no line is the plugin's
        raise PluginError(f"the blueprint {blueprint.name} cannot be used: {error}") from error
    if reaching := [name for name, functions in _app_wide(app) if functions]:
        raise PluginError(
            f"the blueprint {blueprint.name} adds {', '.join(reaching)} to the whole app: "
            "only its own requests are its business; 'prepare_turn' and authenticators serve all"
        )
    for endpoint, view in app.view_functions.items():
        if policy_of(view) is None:
            raise PluginError(
                f"the view {endpoint}, {place(view)}, does not say who may call it: "
                "write @public or @authenticated (from chatcore.access) between its route and its 'def'"
            )
    return [
        f"{'WEBSOCKET' if rule.websocket else method} {re.sub('<[^>]*>', '<>', rule.rule)}"
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
    ]


def _app_wide(app: "Quart") -> Iterator[tuple[str, Any]]:
    for when in ("before", "after", "teardown"):
        for what in ("request", "websocket"):
            yield f"@{when}_app_{what}", getattr(app, f"{when}_{what}_funcs").get(None)
    yield "@app_url_value_preprocessor", app.url_value_preprocessors.get(None)
    yield "@app_url_defaults", app.url_default_functions.get(None)
    yield "@app_context_processor", app.template_context_processors[None][1:]  # the first is Quart's own
    yield "@before_app_serving", app.before_serving_funcs
    yield "@after_app_serving", app.after_serving_funcs
    yield "@while_app_serving", app.while_serving_gens
    yield "@app_errorhandler", {k: v for k, v in app.error_handler_spec.get(None, {}).items() if v}
