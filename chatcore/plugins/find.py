"""Finds plugins without importing them: entry points of installed distributions, single files in a directory, and
classes that the configuration names."""

import importlib.util
import inspect
import re
import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Any, TypeAlias

import attrs

from chatcore.errors import ConfigError, PluginError
from chatcore.hooks import Plugin
from chatcore.plugins.registry import Provenance

GROUP = "chatcore"
"""The entry-point group. An entry's name is the plugin's name, its value `package:Class`."""

_MODULE_PREFIX = "_chatcore_file_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


Named: TypeAlias = tuple[str, type[Plugin[Any]]]
"""A plugin's class under the name that it is to have."""


@attrs.frozen
class Found:
    """A plugin that is there. `load` imports it and gives what should be its class."""

    provenance: Provenance
    load: Callable[[], object] = attrs.field(repr=False)

    @property
    def name(self) -> str:
        return self.provenance.plugin


def find(
    *,
    builtins: Iterable[Named] = (),
    given: Iterable[Named] = (),
    discover: bool = True,
    plugins_dir: Path | None = None,
    classes: Iterable[str] = (),
) -> Sequence[Found]:
    """The built-in plugins in their order, then the others by name.

    `given` are classes that somebody has in hand, `classes` are such as `MODULE:CLASS`, named like the class in lower
    case. `discover`: look among the installed distributions and in `plugins_dir`.

    Raises:
        ConfigError: `plugins_dir` is not a directory.
    """
    core = version("chatcore")
    found = [Found(Provenance(name, cls.__module__, ""), partial(_as_is, cls)) for name, cls in given]
    found += map(_class, classes)
    if discover:
        found += [*_installed(), *_files(plugins_dir)]
    return [
        *(Found(Provenance(name, "chatcore", core, builtin=True), partial(_as_is, cls)) for name, cls in builtins),
        *sorted(found, key=lambda one: one.name),
    ]


def check_name(name: str) -> None:
    """A plugin's name is also that of its section of the configuration and of its directory.

    Raises:
        PluginError: it cannot be.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(f"{name!r} is not a name for a plugin: use letters, digits, '-' and '_', a letter first")


def forget_module(cls: object) -> None:
    """Drops the module of a plugin that is a single file; those of installed ones stay, as Python wants it."""
    module = getattr(cls, "__module__", "")
    if module.startswith(_MODULE_PREFIX):
        sys.modules.pop(module, None)


def _as_is(cls: type[Plugin[Any]]) -> object:
    return cls


def _installed() -> Iterable[Found]:
    for entry in entry_points(group=GROUP):
        name, version_ = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
        yield Found(Provenance(entry.name, name, version_), entry.load)


def _class(place: str) -> Found:
    name = re.split(r"\W", place)[-1].lower()
    return Found(Provenance(name, place, ""), partial(_load_class, name, place))


def _load_class(name: str, place: str) -> object:
    if not re.fullmatch(r"[\w.]+:\w+", place):
        raise PluginError(f"{place!r} is not the class of a plugin, written MODULE:CLASS")
    module = place.partition(":")[0]
    try:
        return EntryPoint(name, place, GROUP).load()
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise PluginError(f"there is no module {error.name!r} where Python looks for modules") from None
    except AttributeError as error:
        if error.obj is not sys.modules.get(module):
            raise
        raise PluginError(f"the module {module} has no {error.name!r}") from None


def _files(directory: Path | None) -> Iterable[Found]:
    if directory is None:
        return
    if not directory.is_dir():
        raise ConfigError(f"plugins_dir: {directory} is not a directory", hint="make it, or name another")
    for path in directory.glob("*.py"):
        if not path.name.startswith(("_", ".")):
            yield Found(Provenance(path.stem, str(path), ""), partial(_load_file, path))


def _load_file(path: Path) -> object:
    """Runs a file as a module of a name that no other has, so that two apps in one process do not share it."""
    name = f"{_MODULE_PREFIX}{path.stem}_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        return _only_plugin(path, vars(module).values(), name)
    except BaseException:
        sys.modules.pop(name, None)
        raise


def _only_plugin(path: Path, values: Iterable[object], module: str) -> object:
    subclasses = [v for v in values if inspect.isclass(v) and issubclass(v, Plugin) and v.__module__ == module]
    classes = list(dict.fromkeys(subclasses))
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes) or "none"
        raise PluginError(f"{path}: a file in plugins_dir has exactly one subclass of Plugin; here: {names}")
    return classes[0]
