"""The README of a plugin's distribution."""

import inspect
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from chatcore.hooks import Plugin
from chatcore.plugins.find import GROUP
from chatcore.testing.settings import options

HEADINGS = ("What it adds", "Install", "Settings", "Try it", "Remove it")
"""The sections of every README, in this order."""


def find(cls: type[Plugin[Any]]) -> str | None:
    """The README of the distribution that a plugin is in; None for a plugin that is one file, or built in.

    Beside the code it is the newest; installed without it, the distribution's metadata have it.
    """
    package = Path(inspect.getfile(cls)).parent
    for directory in (package, *package.parents):
        project = directory / "pyproject.toml"
        if project.is_file():
            return _beside(project, cls)
    return next((_of_metadata(d) for d in distributions() if _gives(d, cls)), None)


def _beside(project: Path, cls: type[Plugin[Any]]) -> str | None:
    """The README of a project, if the plugin is one of its entry points."""
    table = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
    modules = [value.partition(":")[0] for value in table.get("entry-points", {}).get(GROUP, {}).values()]
    if not any(_within(cls, module) for module in modules):
        return None
    readme = project.with_name("README.md")
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


def _gives(distribution: Distribution, cls: type[Plugin[Any]]) -> bool:
    return any(_within(cls, entry.module) for entry in distribution.entry_points if entry.group == GROUP)


def _within(cls: type[Plugin[Any]], module: str) -> bool:
    return f"{cls.__module__}.".startswith(f"{module}.")


def _of_metadata(distribution: Distribution) -> str:
    text = distribution.read_text("METADATA") or ""
    return text.partition("\n\n")[2]


def missing_headings(text: str) -> Sequence[str]:
    """The sections that a README lacks, or has in another order."""
    headings = [line.removeprefix("## ").strip() for line in text.splitlines() if line.startswith("## ")]
    rest = iter(headings)
    return [heading for heading in HEADINGS if heading not in rest]


def missing_settings(text: str, cls: type) -> Iterator[str]:
    """What the table of settings in a README lacks."""
    for option in options(cls):
        row = next((line for line in text.splitlines() if line.startswith(f"| `{option.name}`")), None)
        if row is None:
            yield f"there is no row for {option.name!r}"
            continue
        yield from (f"the row of {option.name!r} lacks {name}" for name in option.env if f"`{name}`" not in row)
