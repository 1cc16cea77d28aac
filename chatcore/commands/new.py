"""`chatcore new`: a plugin from the template, which is itself a plugin with tests, and so never out of date."""

import keyword
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path

import click

import chatcore
from chatcore.builtin import BUILTINS
from chatcore.plugins.find import GROUP
from chatcore.testing.scripted import ScriptedProvider

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MADE_BY_TOOLS = re.compile(r"__pycache__|\..*_cache|\.venv|dist|build|.*\.egg-info")


@click.command()
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path), help="The directory to make; plugins/NAME or NAME by default.")
def new(name: str, into: Path | None) -> None:
    """Make a plugin of your own from the template."""
    template = template_directory()
    renamed = _renames(name, template)
    workspace = _workspace(Path.cwd())
    target = into or (workspace / "plugins" if workspace else Path.cwd()) / name
    if target.exists():
        raise click.ClickException(f"{target} exists: choose another directory with --into, or remove it")
    try:
        _copy(template, target, renamed)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)  # half a plugin, which would be in the way of the next try
        where = error.filename or target
        raise click.ClickException(f"{where}: {error.strerror}: choose a directory with --into") from error
    click.echo(f"made {target}; next:")
    for step in _next_steps(target, in_workspace=workspace is not None and workspace in target.resolve().parents):
        click.echo(f"  {step}")


def _copy(template: Path, target: Path, renamed: Mapping[str, str]) -> None:
    for source in _files(template):
        copy = target / _rename(str(source.relative_to(template)), renamed)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(_rename(source.read_text(encoding="utf-8"), renamed), encoding="utf-8")


def template_directory() -> Path:
    """Where the template is: in the wheel beside the code, in a checkout among the examples."""
    package = Path(chatcore.__file__).parent
    for directory in (package / "_template", package.parent / "examples" / "plugin-template"):
        if directory.is_dir():
            return directory
    raise click.ClickException("this installation has no template: install chatcore from a wheel, or clone it")


def _renames(name: str, template: Path) -> Mapping[str, str]:
    """What the template's names become, those that hold others first."""
    if not _NAME.fullmatch(name):
        raise click.ClickException(f"{name!r} is not a name for a plugin: write it like 'weather' or 'my-weather'")
    taken = {entry.name for entry in entry_points(group=GROUP)} | {builtin for builtin, _ in BUILTINS}
    if name in taken | {ScriptedProvider.name}:
        raise click.ClickException(f"there is a plugin {name!r} already: choose another name")
    cls = "".join(part.capitalize() for part in name.split("-"))
    if keyword.iskeyword(cls) or cls.startswith("Test"):
        raise click.ClickException(
            f"Python or pytest would take the class {cls} for something else: choose another name"
        )
    if any(re.search(rf"\b{cls}\b", path.read_text(encoding="utf-8")) for path in template.rglob("*.py")):
        raise click.ClickException(f"{name!r} would hide the template's own {cls}: choose another name")
    return {
        "chatcore-plugin-template": f"chatcore-{name}",
        "chatcore_plugin_template": f"chatcore_{name.replace('-', '_')}",
        "plugin-template": name,
        "plugin_template": name.replace("-", "_"),
        "Template": cls,
    }


def _rename(text: str, renamed: Mapping[str, str]) -> str:
    pattern = "|".join(renamed)
    return re.sub(pattern, lambda match: renamed[match.group()], text)


def _files(template: Path) -> Iterator[Path]:
    for path in sorted(template.rglob("*")):
        if path.is_file() and not any(_MADE_BY_TOOLS.fullmatch(part) for part in path.relative_to(template).parts):
            yield path


def _workspace(directory: Path) -> Path | None:
    """The uv workspace around a directory whose members are in plugins/, if there is one."""
    for parent in (directory, *directory.parents):
        try:
            project = tomllib.loads((parent / "pyproject.toml").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # there is none, or one that cannot be read: then uv has no workspace there, either
        match project:
            case {"tool": {"uv": {"workspace": {"members": [*members]}}}} if "plugins/*" in members:
                return parent
    return None


def _next_steps(target: Path, *, in_workspace: bool) -> Iterator[str]:
    here = Path.cwd().resolve()
    directory = target.resolve()
    shown = f"./{directory.relative_to(here)}" if directory.is_relative_to(here) else str(directory)
    if in_workspace:
        yield f"uv run pytest {shown}"
        yield f"uv add --dev {shown}"
        yield "uv run chatcore plugins"
    else:
        yield f"pip install -e {shown}"
        yield f"pytest {shown}"
        yield "chatcore plugins"
