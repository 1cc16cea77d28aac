"""Writes the parts of the documentation that the code knows better.

A page marks such a part with `<!-- generated: KIND ARGUMENT -->` and `<!-- /generated -->`; the kinds are those of
`KINDS`. `python docs/generate.py` brings all pages up to date; with `--check` it writes nothing and fails if it would.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import click
import generate_http
from generate_http import code, table

from chatcore.cli import command
from chatcore.errors import ChatcoreError
from chatcore.testing.settings import options

DOCS = Path(__file__).parent
PAGES = (DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md")))

_PART = re.compile(r"(<!-- generated: (\w+) (.+?) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def rendered(page: str) -> str:
    """The text of a page with its generated parts made anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{KINDS[part[2]](part[3]).strip()}\n\n{part[4]}", page)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; fail if a page is out of date.")
def main(check: bool) -> None:
    """Bring all pages up to date, and say which were not."""
    stale = {path: after for path in PAGES if (after := rendered(before := path.read_text())) != before}
    for path, text in stale.items():
        click.echo(path.relative_to(DOCS.parent))
        if not check:
            path.write_text(text)
    sys.exit(1 if check and stale else 0)


# --- Python: the public names of a module, as they stand in its source ------------------------------------------------


def module(name: str) -> str:
    """Every public class, function and value of a module."""
    source = inspect.getsource(import_module(name))
    chosen = [node for node in ast.parse(source).body if _is_public(node)]
    return "\n\n".join(_entry(node, source.splitlines(), _text_below(node, source)) for node in chosen)


def symbol(path: str) -> str:
    """One name, written `module:name`."""
    name, _, wanted = path.partition(":")
    source = inspect.getsource(import_module(name))
    node = next(node for node in ast.parse(source).body if _name(node) == wanted)
    return _entry(node, source.splitlines(), _text_below(node, source))


def hook(name: str) -> str:
    """The specification of a hook: its signature and what it says about itself."""
    source = inspect.getsource(import_module("chatcore.hooks"))
    plugin = next(node for node in ast.parse(source).body if _name(node) == "Plugin")
    function = next(node for node in getattr(plugin, "body", ()) if _name(node) == name)
    signature = "\n".join(_stub(function, source.splitlines(), documented=False)[1:]).replace('"', "")
    return f"```py\n{inspect.cleandoc(signature)}\n```\n\n{ast.get_docstring(function)}"


def _entry(node: ast.stmt, lines: Sequence[str], text: str) -> str:
    stub = re.sub(r"  # noqa.*", "", "\n".join(_stub(node, lines, documented=False)))
    return "\n\n".join(filter(None, [f"### {_name(node)}", text, f"```py\n{stub}\n```"]))


def _name(node: ast.stmt) -> str:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return name
    return ""


def _is_public(node: ast.stmt) -> bool:
    name = _name(node)
    return bool(name) and not name.startswith("_") and not re.fullmatch(r"[A-Z]|logger", name)


def _text_below(node: ast.stmt, source: str) -> str:
    """The docstring of a class or function, or the text that stands below a value."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return _markdown(ast.get_docstring(node) or "")
    body = ast.parse(source).body
    following = [other for other in body if other.lineno > node.lineno][:1]
    match following:
        case [ast.Expr(value=ast.Constant(value=str(text)))]:
            return _markdown(inspect.cleandoc(text))
    return ""


def _markdown(docstring: str) -> str:
    """A docstring as Markdown: its sections (`Args:`, `Raises:`) as lists."""
    text, *sections = re.split(r"^(Args|Raises):\n", docstring, flags=re.MULTILINE)
    pieces = [text.strip()]
    for head, body in zip(sections[::2], sections[1::2], strict=True):
        indented, _, rest = re.sub(r"\n(?=\S)", "\0", body, count=1).partition("\0")
        items = re.sub(r"\n {5,}", " ", indented).strip().splitlines()
        listed = "\n".join(re.sub(r"^\s*(\w+):", r"* `\1`:", item) for item in items if item.strip())
        pieces.append(f"{'Arguments' if head == 'Args' else head}:\n\n{listed}\n\n{rest.strip()}".strip())
    return "\n\n".join(filter(None, pieces))


def _stub(node: ast.stmt, lines: Sequence[str], *, documented: bool) -> list[str]:
    """The source of a statement without the bodies of functions and without what is private."""
    if isinstance(node, ast.ClassDef):
        return _class_stub(node, lines)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return list(lines[node.lineno - 1 : node.end_lineno])
    if node.body[0].lineno == node.lineno:  # `def name(self): ...`
        return list(lines[_first_line(node) - 1 : node.lineno])
    head = list(lines[_first_line(node) - 1 : _first_line(node.body[0]) - 1])
    return head + (_docstring_lines(node, lines) if documented else [])


def _first_line(node: ast.stmt) -> int:
    """The number of the line on which a statement begins, with its decorators."""
    decorators: Sequence[ast.expr] = getattr(node, "decorator_list", ())
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, lines: Sequence[str]) -> list[str]:
    if ast.get_docstring(node) is None:
        return []
    return list(lines[node.body[0].lineno - 1 : node.body[0].end_lineno])


def _class_stub(node: ast.ClassDef, lines: Sequence[str]) -> list[str]:
    stub = list(lines[_first_line(node) - 1 : node.lineno])
    first_member = len(stub)
    spaced = False
    for member in node.body:
        if not _name(member) or (_name(member).startswith("_") and _name(member) != "__init__"):
            continue
        if node.name == "Plugin" and "hookspec" in map(ast.unparse, getattr(member, "decorator_list", ())):
            continue
        is_function = isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
        if stub[first_member:] and (is_function or spaced):
            stub.append("")
        spaced = is_function
        stub += _stub(member, lines, documented=True)
    return stub


def contract(path: str) -> str:
    """A suite of tests, written `module:Class`: what to give it, and the rules that it tests."""
    name, _, cls = path.partition(":")
    suite = getattr(import_module(name), cls)
    rules = [inspect.getdoc(test) or "" for key, test in vars(suite).items() if key.startswith("test_")]
    head, _, rest = (inspect.getdoc(suite) or "").partition("\n\n")
    example = re.sub(r"((?:^ {4}.*\n?|^\n)+)", lambda code: _example(code[1]), rest, flags=re.MULTILINE)
    return "\n\n".join(
        [f"### {cls}", head, example.strip(), "\n".join(f"* {' '.join(rule.split())}" for rule in rules)]
    )


def _example(indented: str) -> str:
    """An indented example as a block of code, with the blank lines that docstrings do without."""
    code = re.sub(r"(?<!:)\n(?= +@)", "\n\n", textwrap.dedent(indented).strip())
    return f"```py\n{code}\n```\n\n"


def models(name: str) -> str:
    """The models that a module lists: their ids, and what their server does."""
    rows = [(code(f"chaos/{model}"), description) for model, description in import_module(name).listed()]
    return table(("model", "what its server does"), rows)


# --- settings, commands, errors ---------------------------------------------------------------------------------------


def settings(path: str) -> str:
    """The options of a settings class, written `module:Class`."""
    name, _, cls = path.partition(":")
    rows = [
        (
            code(option.name),
            option.type,
            "must be set" if option.default is None else code(option.default),
            ", ".join(map(code, option.env)),
            option.help,
        )
        for option in options(getattr(import_module(name), cls))
    ]
    return table(("setting", "type", "default", "environment", "what it is"), rows)


def commands(name: str) -> str:
    """The help of `chatcore` and all its commands: of the core, or of one plugin."""
    chosen = _core_commands(command) if name == "core" else _plugin_commands(name)
    return "\n\n".join(f"### {title}\n\n```text\n{_help(title, cmd)}\n```" for title, cmd in chosen)


def _core_commands(group: click.Group) -> Iterator[tuple[str, click.Command]]:
    yield "chatcore", group
    context = click.Context(group)
    for name in group.list_commands(context):
        yield from _with_subcommands(f"chatcore {name}", group.get_command(context, name))


def _plugin_commands(plugin: str) -> Iterator[tuple[str, click.Command]]:
    for contribution in generate_http.app().extensions["chatcore"].registry.by(plugin):
        if contribution.kind == "command":
            yield from _with_subcommands(f"chatcore {contribution.name}", contribution.value)


def _with_subcommands(title: str, command: click.Command | None) -> Iterator[tuple[str, click.Command]]:
    if command is not None:
        yield title, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _with_subcommands(f"{title} {name}", inner)


def _help(title: str, command: click.Command) -> str:
    settings = {**command.context_settings, "help_option_names": ["-h", "--help"], "terminal_width": 100}
    with click.Context(command, info_name=title, **{**settings, "max_content_width": 100}) as context:
        return command.get_help(context).rstrip()


def metrics(name: str) -> str:
    """The metrics that are listed in a module."""
    rows = [
        (code(metric.name), metric.kind, ", ".join(map(code, metric.labels)), metric.help)
        for metric in import_module(name).METRICS
    ]
    return table(("metric", "kind", "labels", "what it is"), rows)


def errors(module_name: str) -> str:
    """The tree of errors, and of each its status, its code, and what it says about itself."""
    module = import_module(module_name)
    tree = (module.__doc__ or "").split("\n\n")[1]
    classes = [cls for cls in vars(module).values() if inspect.isclass(cls) and issubclass(cls, ChatcoreError)]
    entries = [
        f"### {cls.__name__}\n\nStatus {cls.status}, code `{cls.code}`.\n\n{_markdown(inspect.getdoc(cls) or '')}"
        for cls in classes
    ]
    return "\n\n".join([f"```text\n{inspect.cleandoc(tree)}\n```", *entries])


KINDS: Mapping[str, Callable[[str], str]] = {
    "module": module,
    "symbol": symbol,
    "hook": hook,
    "contract": contract,
    "models": models,
    "settings": settings,
    "commands": commands,
    "errors": errors,
    "metrics": metrics,
    "route": generate_http.route,
    "objects": generate_http.objects,
}

if __name__ == "__main__":
    main()
