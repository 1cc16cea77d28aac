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
from chatcore.plugins.registry import Contribution, Kind, Provenance
from chatcore.protocols import Account, Authenticator, BlobStore, Lifespan, Provider, ToolSource
from chatcore.tools import Tool

if TYPE_CHECKING:
    from quart import Blueprint, Quart

Options: TypeAlias = Mapping[str, object]
"""What pluggy notes of a `@hookimpl`."""

TURN_HOOKS: dict[str, Kind] = {"prepare_turn": "prepare_turn", "finish_turn": "finish_turn"}
"""The hooks that are called for every turn, with their kinds. The others are called once, and contribute."""

_GIVES: dict[str, tuple[tuple[Kind, type], ...]] = {
    "register_providers": (("provider", Provider),),
    "register_tools": (("tool", Tool), ("tool source", ToolSource)),
    "register_storage": (("blob store", BlobStore),),
    "register_auth": (("authenticator", Authenticator),),
    "register_accounts": (("account", Account),),
    "register_lifespans": (("lifespan", Lifespan),),
}
_PROVIDER_NAME = re.compile(r"[^/\s]+")


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


def place(function: Callable[..., Any]) -> str:
    """Where a function is defined: `file:line`."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else "a file that is not known"


# --- contributions ----------------------------------------------------------------------------------------------------


def contributions(hook: str, given: object, provenance: Provenance) -> Sequence[Contribution]:
    """What a hook has given, checked and named. Runs a generator to its end.

    Raises:
        PluginError: it is not what the hook wants.
    """
    kinds = _kinds(hook)
    wanted = " or ".join(type_.__name__ for _, type_ in kinds)
    if not isinstance(given, Iterable):
        raise PluginError(f"{hook} gave {given!r}, wanted an iterable: write 'yield' before each {wanted}")
    return [made for value in given for made in _contributions(hook, kinds, value, provenance)]


def _kinds(hook: str) -> tuple[tuple[Kind, type], ...]:
    if hook == "register_routes":
        from quart import Blueprint  # noqa: PLC0415  half a second that only a plugin with routes costs

        return (("blueprint", Blueprint),)
    if hook == "register_commands":
        from click import Command  # noqa: PLC0415  only the command line has commands

        return (("command", Command),)
    return _GIVES[hook]


def _contributions(
    hook: str, kinds: tuple[tuple[Kind, type], ...], value: object, provenance: Provenance
) -> Iterator[Contribution]:
    kind = next((kind for kind, type_ in kinds if isinstance(value, type_) and not inspect.isclass(value)), None)
    if kind is None:
        wanted = " or ".join(type_.__name__ for _, type_ in kinds)
        raise PluginError(f"{hook} gave {value!r}, wanted {wanted}")
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not name:
        raise PluginError(f"{hook} gave {value!r}, whose name is {name!r}, wanted a text")
    if kind == "provider" and not _PROVIDER_NAME.fullmatch(name):
        raise PluginError(f"{hook} gave the provider {name!r}: a name has no '/' and no spaces, ids are NAME/MODEL")
    yield Contribution(kind, f"{provenance.plugin}.{name}" if kind == "lifespan" else name, value, provenance)
    if kind == "blueprint":
        for route in check_routes(cast("Blueprint", value)):
            yield Contribution("route", route, name, provenance)


# --- routes -----------------------------------------------------------------------------------------------------------


def check_routes(blueprint: "Blueprint") -> Sequence[str]:
    """The routes of a blueprint as `METHOD /path/<>`.

    Only an application can tell them, so it is registered with one that is thrown away.

    Raises:
        PluginError: a view has no policy, or the blueprint reaches into requests that are not its own.
    """
    from quart import Quart  # noqa: PLC0415  as above

    from chatcore.access import policy_of  # noqa: PLC0415  it needs quart
    from chatcore.routing import Rule  # noqa: PLC0415  as above

    app = Quart("chatcore.check", static_folder=None)
    app.url_rule_class = Rule
    app.register_blueprint(blueprint)
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
