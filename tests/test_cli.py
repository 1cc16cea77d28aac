"""The command line, in process where that shows the same, and as a user starts it where it does not."""

import asyncio
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import attrs
import httpx
import pytest
from click.testing import CliRunner

from chatcore.cli import command
from chatcore.config import Config
from chatcore.database import Database, Pins
from chatcore.errors import ConfigError
from chatcore.reserved import COMMANDS
from chatcore.testing.settings import options
from chatcore.tools import Tool

SETTINGS = ("CHATCORE_", "OPENROUTER_", "HOST", "PORT", "MODEL_NAME", "TITLE_MODEL", "CHAT_DATABASE")
TEMPLATE = Path(__file__).parents[1] / "examples" / "plugin-template"

HELLO = """
import click
from chatcore.hooks import NoSettings, Plugin, hookimpl

@click.command()
@click.argument("name")
def hello(name):
    '''Say hello.'''
    click.echo(f"hello {name}")

class Hello(Plugin[NoSettings]):
    '''Says hello.'''

    @hookimpl
    def register_commands(self):
        yield hello
"""

TOOL = """
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.tools import Tool

class Gives(Plugin[NoSettings]):
    '''Gives a tool.'''

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.search)

    async def search(self) -> str:
        '''Finds nothing.'''
        return ""
"""


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """Every command runs in an empty directory, without anybody's settings."""
    for name in os.environ:
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments, code=0):
    """Runs a command in this process and gives what it prints."""
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == code, result.output
    return result.output


def start(*arguments):
    """Runs a command as a user does."""
    return subprocess.run([sys.executable, "-m", "chatcore", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def plugin_files(directory):
    """Writes single-file plugins and gives the option for them."""

    def write(**texts):
        (directory / "own").mkdir()
        for name, text in texts.items():
            (directory / "own" / f"{name}.py").write_text(text)
        return "--plugins-dir", "own"

    return write


# --- help, and what it costs ------------------------------------------------------------------------------------------


def test_help_is_quick():
    """It takes little more than Python with the library that reads the command line. Counted in processor time, since
    other tests may use the machine, too."""

    def cost(*arguments):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    least = min(cost("-c", "import click") for _ in range(3))
    assert min(cost("-m", "chatcore", "--help") for _ in range(3)) < 3 * least


def test_help_imports_nothing_of_the_server():
    """That is why."""
    code = "import sys\nfrom chatcore.cli import command\ntry: command(['--help'])\nfinally: print(*sys.modules)"
    modules = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.split()
    )
    assert "chatcore.cli" in modules
    assert not modules & {
        "quart",
        "peewee",
        "httpx",
        "cryptography",
        "oauthlib",
        "aiohttp",
        "cattrs",
        "pluggy",
        "rich",
        "hypercorn",
        "chatcore.config",
    }


def test_help_lists_the_commands_in_their_own_words():
    """The list is kept apart from the commands, and says the same."""
    listed = run("--help")
    for name, text in COMMANDS.items():
        own = getattr(import_module(f"chatcore.commands.{name}"), name)
        assert (own.name, own.get_short_help_str(limit=200)) == (name, text)
        assert f"  {name} " in listed
        assert text in listed


def test_help_all_lists_the_commands_of_plugins(plugin_files):
    """They are not known without loading all plugins, so this takes longer."""
    assert "hello" not in run("--help")
    output = run(*plugin_files(hello=HELLO), "--help-all")
    assert re.search(r"hello +Say hello", output)
    assert re.search(r"tokens +", output)


@pytest.mark.parametrize("option", ["--version", "version"])
def test_the_version_is_printed(option):
    """As an option and as a command."""
    assert re.match(r"chatcore.* \d+\.\d+", run(option))


# --- errors -----------------------------------------------------------------------------------------------------------


def test_a_wrong_configuration_is_told_without_a_traceback(directory):
    """Exit code 2, everything that is wrong, on standard error."""
    (directory / "chatcore.toml").write_text("prot = 1\nworkers = 'two'\n")
    done = start("serve")
    assert done.returncode == 2
    assert not done.stdout
    assert "did you mean 'port'?" in done.stderr
    assert "workers" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["plugins", "hooks", "config", "tokens", "--help-all"])
def test_all_commands_that_read_the_configuration_tell_of_it(directory, name):
    """Those of plugins, too."""
    (directory / "chatcore.toml").write_text("prot = 1\n")
    assert isinstance(CliRunner().invoke(command, [name]).exception, ConfigError)


def test_a_hint_is_told_with_the_error():
    """So that one knows what to do."""
    done = start("serve", "--config", "nowhere.toml")
    assert (done.returncode, done.stderr) == (
        2,
        "chatcore: nowhere.toml: there is no such file\nhint: check --config\n",
    )


def test_an_error_gives_the_terminal_no_orders():
    """Whatever was written on the command line, or in a file."""
    done = start("serve", "--config", "no\x07where\x9b2J.toml")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        r"chatcore: no\x07where\x9b2J.toml: there is no such file",
    )


def test_a_plugin_that_stops_the_start_is_told_without_a_traceback(plugin_files):
    """Exit code 1, both distributions, and how to go on."""
    done = start("serve", "--port", "0", *plugin_files(one=TOOL, two=TOOL))
    assert done.returncode == 1
    last = done.stderr[done.stderr.index("chatcore: plugin two") :]
    for part in ("the tool 'search' is given by plugin one", "one.py", "two.py", 'disable = ["two"]', "hint: "):
        assert part in last
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_told():
    """With the usual exit code of a wrong usage."""
    assert "No such command 'nonsense'" in run("nonsense", code=2)


# --- the configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("--data", "kept", "config"), ("config", "--data", "kept")])
def test_options_stand_before_or_behind_the_command(arguments):
    """With the same meaning."""
    assert re.search(r'^data +"kept" +--data$', run(*arguments), re.MULTILINE)


def test_config_prints_every_setting_with_its_origin(directory, plugin_files, monkeypatch):
    """Of the core and of the plugins; secrets are masked."""
    (directory / "chatcore.toml").write_text("port = 1\n[plugins.openrouter]\napi_key = 'hidden'\n")
    monkeypatch.setenv("CHATCORE_HOST", "::1")
    output = run("config")
    assert re.search(r'^host +"::1" +environment CHATCORE_HOST$', output, re.MULTILINE)
    assert re.search(r"^port +1 +chatcore.toml$", output, re.MULTILINE)
    assert re.search(r"^workers +1 +default$", output, re.MULTILINE)
    assert re.search(r"^plugins.openrouter.api_key +\*\*\* +chatcore.toml$", output, re.MULTILINE)
    assert "hidden" not in output


def test_disabling_adds_to_the_configuration(directory):
    """What is disabled for a reason does not come back because something else is disabled now."""
    (directory / "chatcore.toml").write_text('disable = ["llama"]\n')
    rows = json.loads(run("plugins", "--json", "--disable", "echo", "--disable", "openrouter"))
    disabled = {row["name"] for row in rows if row["state"] == "disabled"}
    assert disabled == {"llama", "echo", "openrouter"}


def test_a_class_can_be_loaded_that_is_not_installed_as_a_plugin(directory):
    """By its place, beside those of the configuration; one that is not there is a row that says so."""
    (directory / "chatcore.toml").write_text('load = ["chatcore.testing.nowhere:Plugin"]\n')
    rows = json.loads(run("plugins", "--json", "--load", "chatcore.testing.chaos:Chaos", "--load", "chatcore.testing"))
    states = {row["name"]: (row["state"], row["distribution"], row["reason"]) for row in rows}
    assert states["chaos"] == ("on", "chatcore.testing.chaos:Chaos", "")
    assert states["plugin"][0] == "failed"
    assert "there is no module 'chatcore.testing.nowhere'" in states["plugin"][2]
    assert states["testing"][2] == "'chatcore.testing' is not the class of a plugin, written MODULE:CLASS"


def test_serve_has_the_options_of_the_design():
    """Each with the words of the setting that it overrides."""
    output = " ".join(run("serve", "--help").split())
    names = "host port workers data config plugins-dir load disable strict insecure reload certfile keyfile"
    assert all(f"--{name}" in output for name in names.split())
    texts = {option.name: option.help for option in options(Config)}
    assert all(texts[name] in output for name in ("host", "port", "strict", "insecure", "certfile"))


# --- plugins and hooks ------------------------------------------------------------------------------------------------


def test_plugins_prints_a_table(plugin_files, monkeypatch):
    """Name, distribution, version, load time, state, and what each contributes or why it does not."""
    output = run("plugins", *plugin_files(one=TOOL, broken="1 / 0"))
    head, *lines = output.splitlines()
    assert head.split("  ")[0] == "NAME"
    by_name = {line.split()[0]: line for line in lines}
    assert re.search(r"echo +chatcore +\d+\.\d+\.\d+ +\d+ ms +on +provider echo", by_name["echo"])
    assert re.search(r"one +own/one.py +- +\d+ ms +on +tool search", by_name["one"])
    assert re.search(
        r"broken +own/broken.py +- +\d+ ms +failed +importing it raised ZeroDivisionError", by_name["broken"]
    )
    assert "off     set OPENROUTER_API_KEY" in by_name["openrouter"]


def test_plugins_works_where_duplicates_stop_the_start(plugin_files):
    """It is the tool that one needs then."""
    output = run("plugins", *plugin_files(one=TOOL, two=TOOL))
    assert re.search(r"^two .* failed +the tool 'search' is given by plugin one", output, re.MULTILINE)


def test_plugins_as_json(plugin_files):
    """For programs, with everything that is known."""
    (row,) = (row for row in json.loads(run("plugins", "--json", *plugin_files(one=TOOL))) if row["name"] == "one")
    assert row.pop("load_ms") > 0
    assert row == {
        "name": "one",
        "distribution": "own/one.py",
        "version": "",
        "builtin": False,
        "state": "on",
        "reason": "",
        "summary": "Gives a tool.",
        "contributes": ["tool search"],
    }


def test_hooks_prints_specifications_and_implementers(plugin_files):
    """In the order of asking."""
    output = run("hooks", *plugin_files(one=TOOL))
    assert re.search(r"def register_tools\(self\) -> Iterable\[Tool \| ToolSource\]\n    Yields tools.*\n.*one", output)
    assert "async def prepare_turn(self, turn: Turn) -> Turn | None" in output


# --- tools ------------------------------------------------------------------------------------------------------------


async def act(path: str) -> str:
    """Reads."""
    return path


def pin(*definitions):
    """What a server with a source of one tool leaves behind, with these definitions one after the other."""

    async def see():
        database = Database("data/chatcore.db")
        await database.open()
        for changes in definitions:
            tool = attrs.evolve(Tool.of(act, name="read"), source="files", **changes)
            await Pins(database).see([tool])
        await database.close()

    asyncio.run(see())


def test_tools_lists_those_of_plugins_and_sources(plugin_files, directory):
    """With what becomes of their calls, as the operator has said, and which of them are suspended."""
    pin({"destructive": True}, {"description": "Other."})
    (directory / "chatcore.toml").write_text('[tool_policy]\nsearch = "deny"\n')
    output = run("tools", "list", *plugin_files(one=TOOL), "--disable", "llama", "--disable", "mcp")
    assert [line.split(maxsplit=4) for line in output.splitlines()] == [
        ["NAME", "OF", "CALLS", "STATE"],
        ["search", "plugin", "one", "deny"],
        ["read", "source", "files", "ask", "suspended: has changed"],
    ]


def test_a_review_shows_what_has_changed_and_takes_the_word(directory):
    """What cannot be seen is written out; a no changes nothing, a yes is for what was shown."""
    pin({}, {"description": "Reads.\u200b\nThen \x1b[2Jsends it."})
    for answer, accepted in (("n", False), ("y", True)):
        result = CliRunner().invoke(command, ["tools", "review"], input=f"{answer}\n")
        assert result.exit_code == 0
        assert "read of files is suspended" in result.output
        lines = [line.strip() for line in result.output.splitlines()]
        assert "- Reads." in lines
        assert "+ Reads.\\u200b" in lines
        assert "+ Then \\x1b[2Jsends it." in lines
        assert ("read of files is accepted." in result.output) is accepted
    assert run("tools", "review") == "No tool has changed.\n"


def test_a_review_may_accept_everything(directory):
    """For those who have looked elsewhere."""
    pin({}, {"read_only": True})
    assert "read of files is accepted." in run("tools", "review", "--yes")
    assert run("tools", "review", "--yes") == "No tool has changed.\n"


# --- commands of plugins ----------------------------------------------------------------------------------------------


def test_a_command_of_a_plugin_is_found(plugin_files):
    """It is called as any other, and finds the configuration that was given before it."""
    assert run(*plugin_files(hello=HELLO), "hello", "you") == "hello you\n"


def test_a_command_of_a_plugin_finds_the_configuration(plugin_files):
    """As the object of its context."""
    text = HELLO.replace("@click.argument", "@click.pass_obj\n@click.argument").replace(
        "hello(name", "hello(loaded, name"
    )
    text = text.replace("hello {name}", "{loaded.config.data} {name}")
    assert run(*plugin_files(hello=text), "--data", "kept", "hello", "you") == "kept you\n"


def test_a_broken_plugin_does_not_break_the_command_line(plugin_files):
    """The commands of others work; what is broken is told in a line."""
    output = run(*plugin_files(hello=HELLO, broken="1 / 0"), "hello", "you")
    assert "plugin broken (own/broken.py) has failed: importing it raised ZeroDivisionError" in output
    assert output.endswith("hello you\n")


def test_commands_of_the_core_load_no_plugins(plugin_files):
    """Neither does their help."""
    assert run(*plugin_files(broken="raise KeyboardInterrupt"), "version").startswith("chatcore ")


# --- new --------------------------------------------------------------------------------------------------------------


def test_new_makes_a_plugin_whose_tests_are_green_at_once():
    """Renamed throughout: distribution, package, class, entry point, tool, README, tests."""
    output = run("new", "my-joke")
    assert "made " in output
    assert "pip install -e ./my-joke" in output
    made = Path("my-joke")
    texts = {path: path.read_text() for path in made.rglob("*") if path.is_file()}
    assert made / "chatcore_my_joke" / "py.typed" in texts
    assert not any("template" in f"{path}{text}".lower() for path, text in texts.items())
    project = texts[made / "pyproject.toml"]
    assert 'my-joke = "chatcore_my_joke:MyJoke"' in project
    assert 'name = "chatcore-my-joke"' in project
    assert "class MyJoke(Plugin[Settings])" in texts[made / "chatcore_my_joke" / "__init__.py"]
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", made],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout
    assert " passed" in tests.stdout


def test_new_copies_only_what_somebody_wrote():
    """Not what tools have left in the template's directory."""
    run("new", "joke")
    made = {path.relative_to("joke").as_posix() for path in Path("joke").rglob("*") if path.is_file()}
    assert made == {
        "README.md",
        "pyproject.toml",
        "chatcore_joke/__init__.py",
        "chatcore_joke/dice.py",
        "chatcore_joke/py.typed",
        "tests/test_contracts.py",
        "tests/test_dice.py",
        "tests/test_plugin.py",
    }


def test_new_makes_plugins_of_a_workspace_in_its_plugins_directory(directory, monkeypatch):
    """From anywhere in it."""
    (directory / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["plugins/*"]\n')
    (directory / "src").mkdir()
    monkeypatch.chdir(directory / "src")
    output = run("new", "joke")
    assert (directory / "plugins" / "joke" / "pyproject.toml").is_file()
    assert "uv run pytest " in output


def test_new_makes_it_where_it_is_told():
    """Also inside directories that there are not yet."""
    run("new", "joke", "--into", "a/b")
    assert Path("a/b/pyproject.toml").is_file()


@pytest.mark.parametrize(
    "name", ["Joke", "my joke", "1joke", "my_joke", "-joke", "joke-", "a--b", "../joke", "jöke", ""]
)
def test_new_refuses_what_is_not_a_name(name, directory):
    """And writes nothing."""
    assert "is not a name for a plugin" in run("new", "--", name, code=1)
    assert not list(directory.iterdir())


@pytest.mark.parametrize("name", ["echo", "openrouter", "scripted"])
def test_new_refuses_names_of_plugins_that_there_are(name):
    """The server would not start with both, nor would that of its tests."""
    assert f"there is a plugin '{name}' already" in run("new", name, code=1)


@pytest.mark.parametrize("text", ["x = [", '[tool]\nuv = "x"', "[tool.uv.workspace]\nmembers = 'plugins/*'"])
def test_new_takes_no_notice_of_somebody_elses_project(text, directory):
    """Whatever is wrong with it."""
    (directory / "pyproject.toml").write_text(text)
    assert "pip install -e ./joke" in run("new", "joke")


@pytest.mark.parametrize("name", ["none", "test", "testing-ground"])
def test_new_refuses_names_whose_class_is_none_for_python_or_pytest(name):
    """pytest takes what is called Test for tests."""
    assert "would take the class" in run("new", name, code=1)


@pytest.mark.parametrize("name", ["plugin", "settings", "tool"])
def test_new_refuses_names_whose_class_would_hide_an_import(name):
    """Its tests would not be green."""
    assert "would hide the template's own" in run("new", name, code=1)


def test_new_does_not_write_over_anything(directory):
    """A directory that exists stays as it is."""
    (directory / "joke").mkdir()
    assert "exists: choose another directory with --into" in run("new", "joke", code=1)
    assert not list((directory / "joke").iterdir())
    (directory / "file").write_text("")
    assert "Not a directory: choose a directory with --into" in run("new", "joke", "--into", "file/joke", code=1)


def test_new_leaves_nothing_half_made(directory):
    """As on a disk that is full; the next try is not in its own way."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limit[1]))
    try:
        told = run("new", "joke", code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert f"{directory / 'joke'}: File too large: choose a directory with --into" in told
    assert list(directory.iterdir()) == []


# --- serve ------------------------------------------------------------------------------------------------------------


async def test_a_server_starts_in_spite_of_a_broken_plugin(start_server, plugin_files):
    """It is a row of the list that the server gives, and the log has its traceback once."""
    plugin_files(broken="1 / 0", one=TOOL)
    server = await start_server("--plugins-dir", "own", "--disable", "llama")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        rows = {row["name"]: row for row in (await client.get("/api/plugins")).json()["plugins"]}
    assert rows["one"]["state"] == "on"
    assert rows["broken"]["state"] == "failed"
    assert "broken.py:1" in rows["broken"]["reason"]
    assert rows["llama"]["state"] == "disabled"
    assert server.log.count(b"Traceback") == 1


def test_strict_serving_refuses_to_start_without_a_plugin(plugin_files):
    """What is off is said with its remedy."""
    done = start("serve", "--port", "0", "--strict", "--disable", "llama")
    assert done.returncode == 1
    assert re.search(r"chatcore: plugin openrouter \(.*\) is off: set OPENROUTER_API_KEY", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_whose_standard_streams_are_closed(tmp_path: Path, workers: int):
    """As some scripts start it: it serves, gives their numbers to nothing that it opens, and ends in order."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["-m", "chatcore", "serve", f"--workers={workers}", f"--port={port}", f"--data={tmp_path}"]
    closing = ["bash", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, *arguments]
    server = subprocess.Popen(closing, cwd=tmp_path)
    try:
        with httpx.Client(transport=httpx.HTTPTransport(retries=9), trust_env=False) as client:  # it waits between them
            assert client.get(f"http://127.0.0.1:{port}/health").status_code == 200
        streams = {Path(f"/proc/{server.pid}/fd/{number}").readlink() for number in range(3)}
    finally:
        server.terminate()
        code = server.wait(30)
    assert (code, streams) == (0, {Path(os.devnull)})
