"""Settings classes: how they are declared, read from their sources, shown and documented."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs
import pytest
from attrs import validators
from hypothesis import given
from hypothesis import strategies as st

from chatcore.errors import ConfigError
from chatcore.secrets import Secret
from chatcore.settings import Sources, option, read, show
from chatcore.testing.settings import Option, options

FILE = Path("chatcore.toml")


@attrs.frozen
class Server:
    """A table inside a table."""

    url: str
    key: Secret | None = None
    root: Path | None = None


@attrs.frozen
class Settings:
    """One field of each kind."""

    text: str = option("t", env="T_TEXT", help="A text.")
    number: int = option(1, env=("T_NUMBER", "T_OLD"), validator=[validators.ge(0), validators.le(9)])
    ratio: float | None = option(None, env="T_RATIO")
    flag: bool = option(False, env="T_FLAG")
    mode: Literal["slow", "fast"] = option("slow", env="T_MODE")
    names: tuple[str, ...] = option((), env="T_NAMES")
    ports: tuple[int, ...] = option((), env="T_PORTS")
    path: Path | None = option(None, env="T_PATH")
    key: Secret | None = option(None, env="T_KEY")
    servers: Mapping[str, Server] = option(attrs.Factory(dict))
    colours: Mapping[str, Literal["red", "blue"]] = option(attrs.Factory(dict), env="T_COLOURS")


@attrs.frozen
class Needy:
    """Fields without a default."""

    latitude: float = option()
    key: Secret = option(env=("N_KEY", "N_OLD_KEY"))


def from_environment(**environ: str) -> Settings:
    return read(Settings, Sources(file=FILE, environ=environ))[0]


def from_file(file: Path = FILE, /, **table: object) -> Settings:
    return read(Settings, Sources(file=file, table=table))[0]


def problems(cls: type, **sources: object) -> list[str]:
    with pytest.raises(ConfigError) as wrong:
        read(cls, Sources(**{"file": FILE, **sources}))
    return wrong.value.message.splitlines()


# --- sources ----------------------------------------------------------------------------------------------------------


def test_nothing_has_to_be_set() -> None:
    """Defaults are values like others; their origin says so."""
    settings, origins = read(Settings, Sources(file=FILE))
    assert settings == Settings()
    assert set(origins.values()) == {"default"}


def test_each_source_overrides_the_one_before() -> None:
    """File, `.env`, environment, command line; every value has the origin that a user can look up."""
    table = {"text": "file", "number": 1, "mode": "fast", "flag": True}
    environ = {"T_TEXT": "env", "T_NUMBER": "2", "T_MODE": "slow"}
    settings, origins = read(
        Settings, Sources(file=FILE, table=table, environ=environ, dotenv={"T_MODE"}, overrides={"text": "cli"})
    )
    assert (settings.text, settings.number, settings.mode, settings.flag) == ("cli", 2, "slow", True)
    assert origins["text"] == "--text"
    assert origins["number"] == "environment T_NUMBER"
    assert origins["mode"] == ".env T_MODE"
    assert origins["flag"] == "chatcore.toml"
    assert origins["names"] == "default"


def test_the_first_name_that_is_set_counts() -> None:
    """The others are names from former times."""
    assert from_environment(T_NUMBER="2", T_OLD="3").number == 2
    assert from_environment(T_OLD="3").number == 3


def test_an_empty_variable_is_an_unset_one() -> None:
    """Compose files and `.env` templates pass empty ones on."""
    assert from_environment(T_NUMBER="", T_OLD="3", T_KEY="", T_PATH="") == Settings(number=3)


# --- from text --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("1", True), ("yes", True), ("FALSE", False), ("0", False), ("no", False)],
)
def test_a_flag_from_the_environment(text: str, value: bool) -> None:
    """Six words and no more."""
    assert from_environment(T_FLAG=text).flag is value


@pytest.mark.parametrize("text", ["on", "off", "y", "2", "-1", "t", "enabled", "true,"])
def test_other_words_are_no_flags(text: str) -> None:
    """Taking them for false would turn a safeguard off without a word."""
    assert problems(Settings, environ={"T_FLAG": text}) == [f"environment T_FLAG: want true or false, not {text!r}"]


@given(st.integers(0, 9), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_from_the_environment(number: int, ratio: float) -> None:
    """As Python writes them."""
    settings = from_environment(T_NUMBER=f" {number} ", T_RATIO=str(ratio))
    assert (settings.number, settings.ratio) == (number, ratio)


@pytest.mark.parametrize("text", ["1.5", "1e3", "0x10", "one", "8000/tcp", "tcp://10.0.0.1:80", "--1"])
def test_what_is_no_whole_number(text: str) -> None:
    """Nothing is rounded or guessed."""
    assert problems(Settings, environ={"T_OLD": text}) == [f"environment T_OLD: want a whole number, not {text!r}"]


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_a_number_is_finite(text: str) -> None:
    """A limit of NaN is none, and compares as false."""
    assert "finite" in problems(Settings, environ={"T_RATIO": text})[0]


@pytest.mark.parametrize(
    ("text", "names"),
    [("a", ("a",)), ("a,b", ("a", "b")), (" a , b c ,", ("a", "b c")), (",,", ())],
)
def test_a_list_from_the_environment(text: str, names: tuple[str, ...]) -> None:
    """Separated by commas; spaces and empty places do not count."""
    assert from_environment(T_NAMES=text).names == names


def test_a_list_of_numbers_from_the_environment() -> None:
    """What is no number is told as such."""
    assert from_environment(T_PORTS="80, 443").ports == (80, 443)
    assert problems(Settings, environ={"T_PORTS": "80,x"}) == ["environment T_PORTS: want a whole number, not 'x'"]


def test_a_table_of_texts_from_the_environment() -> None:
    """`NAME=VALUE`, separated by commas; a value that is none of the choices is told with its name."""
    assert from_environment(T_COLOURS="sky*=blue, a.b = red,").colours == {"sky*": "blue", "a.b": "red"}
    for wrong in ("sky=green", "sky", "sky="):
        with pytest.raises(ConfigError, match=r"T_COLOURS.*sky.*must be one of"):
            from_environment(T_COLOURS=wrong)


def test_any_array_and_object_from_the_environment() -> None:
    """Whatever Python has for them."""

    @attrs.frozen
    class Kinds:
        names: frozenset[str] = option(env="T_NAMES")
        ports: Sequence[int] | None = option(env="T_PORTS")
        colours: dict[str, str] = option(env="T_COLOURS")

    given = {"T_NAMES": "b,a", "T_PORTS": "80,443", "T_COLOURS": "sky=blue"}
    values, _ = read(Kinds, Sources(file=FILE, environ=given))
    assert (values.names, values.ports, values.colours) == ({"a", "b"}, (80, 443), {"sky": "blue"})


def test_a_choice_from_the_environment_may_be_in_capitals() -> None:
    """As in LOG_LEVEL=DEBUG. What is not among the choices is refused with them."""
    assert from_environment(T_MODE="FAST").mode == "fast"
    assert "'slow', 'fast'" in problems(Settings, environ={"T_MODE": "medium"})[0]


def test_text_stays_text() -> None:
    """Whatever it looks like."""
    assert from_environment(T_TEXT=" 5 ").text == " 5 "


# --- from the file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("text", 5),
        ("number", "5"),
        ("number", 5.0),
        ("number", True),
        ("ratio", "0.5"),
        ("flag", 1),
        ("flag", "true"),
        ("names", "a,b"),
        ("names", [1]),
        ("path", 5),
        ("key", 5),
        ("servers", []),
        ("servers", {"a": "b"}),
    ],
)
def test_the_file_has_types(key: str, value: object) -> None:
    """TOML can say what is meant: nothing is converted."""
    (problem,) = problems(Settings, table={key: value})
    assert problem.startswith(f"chatcore.toml: {key}")


def test_an_unknown_key_is_an_error_with_a_suggestion() -> None:
    """A misspelt setting is not silently without effect."""
    table = {"nummer": 1, "zzz": 2}
    first, second = problems(Settings, table=table, section="plugins.x.")
    assert first == "chatcore.toml: plugins.x.nummer: unknown; did you mean 'number'?"
    assert second.startswith("chatcore.toml: plugins.x.zzz: unknown; there are: text, number, ")


def test_unknown_keys_inside_tables_are_errors_too() -> None:
    """With the path to them."""
    (problem,) = problems(Settings, table={"servers": {"a": {"url": "x", "kee": 1}}})
    assert problem.startswith("chatcore.toml: servers.a.kee: ")
    assert "'key'" in problem


def test_paths_in_the_file_are_relative_to_it() -> None:
    """At any depth; the environment's and the command line's to the working directory."""
    settings = from_file(Path("/etc/chat/chatcore.toml"), path="x", servers={"a": {"url": "u", "root": "y"}})
    assert settings.path == Path("/etc/chat/x")
    assert settings.servers["a"].root == Path("/etc/chat/y")
    sources = Sources(file=Path("/etc/chat/chatcore.toml"), environ={"T_PATH": "x"})
    assert read(Settings, sources)[0].path == Path("x")
    assert read(Settings, attrs.evolve(sources, overrides={"path": Path("z")}))[0].path == Path("z")
    assert read(Settings, attrs.evolve(sources, overrides={"path": "z"}))[0].path == Path("z")


def test_absolute_paths_and_home_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the user's home everywhere."""
    monkeypatch.setenv("HOME", "/home/anna")
    assert from_file(Path("/etc/chatcore.toml"), path="/srv/x").path == Path("/srv/x")
    assert from_file(Path("/etc/chatcore.toml"), path="~/x").path == Path("/home/anna/x")
    assert from_environment(T_PATH="~/x").path == Path("/home/anna/x")


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_a_secret_may_be_text_a_variable_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file; from the environment it is the variable itself. The newline that ends a file is no part of it."""
    (tmp_path / "key").write_text("from-file\n")
    file = tmp_path / "chatcore.toml"

    def key(written: object) -> Secret | None:
        return read(Settings, Sources(file=file, table={"key": written}, environ={"NAME": "from-name"}))[0].key

    assert key("plain") == Secret("plain")
    assert key({"env": "NAME"}) == Secret("from-name")
    assert key({"file": "key"}) == Secret("from-file")
    assert key({"file": str(tmp_path / "key")}) == Secret("from-file")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key({"file": "~/key"}) == Secret("from-file")
    assert key(Secret("made")) == Secret("made")
    assert from_environment(T_KEY="x").key == Secret("x")


def test_a_secret_may_lie_deeper(tmp_path: Path) -> None:
    """In the tables of a table."""
    sources = Sources(file=FILE, table={"servers": {"a": {"url": "u", "key": {"env": "X"}}}}, environ={"X": "x"})
    assert read(Settings, sources)[0].servers["a"].key == Secret("x")


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"env": "NOT_THERE"}, "the environment has no NOT_THERE"),
        ({"file": "not-there"}, "not-there cannot be read"),
        ({"env": "A", "file": "b"}, "want text, { env"),
        ({"env": 5}, "want text, { env"),
        ({}, "want text, { env"),
        (5, "want text, { env"),
        (["a"], "want text, { env"),
    ],
)
def test_a_secret_that_cannot_be_had_is_a_problem(written: object, problem: str) -> None:
    """It is not the same as none: somebody meant there to be one."""
    (text,) = problems(Settings, table={"key": written})
    assert text.startswith(f"chatcore.toml: key: {problem}")


def test_a_problem_never_shows_a_secret() -> None:
    """Also where a validator repeats the value."""

    @attrs.frozen
    class Strict:
        key: Secret = option(env="S_KEY", validator=validators.in_([]))

    assert "hunter2" not in "".join(problems(Strict, environ={"S_KEY": "hunter2"}))
    assert "hunter2" not in "".join(problems(Settings, table={"key": ["hunter2"]}))


# --- one report -------------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """With the place where each value came from."""
    found = problems(
        Settings,
        table={"text": 5, "nummer": 1, "ports": [1, "x"], "key": {"env": "NO"}},
        environ={"T_FLAG": "on", "T_NUMBER": "10"},
        overrides={"mode": "medium"},
    )
    assert len(found) == 7
    assert {problem.split(":")[0] for problem in found} == {
        "chatcore.toml", "environment T_FLAG", "environment T_NUMBER", "--mode",
    }  # fmt: skip
    assert any(problem.startswith("chatcore.toml: ports[1]: ") for problem in found)


def test_what_is_required_is_named_with_its_variables() -> None:
    """So that the user can choose."""
    assert problems(Needy, section="plugins.n.", environ={"N_KEY": ""}) == [
        "chatcore.toml: plugins.n.latitude: required",
        "chatcore.toml: plugins.n.key: required, or set N_KEY or N_OLD_KEY",
    ]


def test_a_value_that_is_wrong_is_not_also_missing() -> None:
    """One mistake, one line."""
    assert problems(Needy, table={"latitude": "x", "key": {"env": "NO"}}) == [
        "chatcore.toml: key: the environment has no NO",
        "chatcore.toml: latitude: must be a number, not a string",
    ]


def test_a_validator_may_look_at_other_fields() -> None:
    """It is asked when all fields are known to be right."""

    def after_start(instance: "Span", field: object, value: int) -> None:
        if value < instance.start:
            raise ValueError("end is before start")

    @attrs.frozen
    class Span:
        start: int = option(0)
        end: int = option(0, validator=after_start)

    assert problems(Span, table={"start": 2, "end": 1}) == ["end is before start"]
    assert read(Span, Sources(file=FILE, table={"start": 1, "end": 2}))[0] == Span(start=1, end=2)


# --- showing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "true"),
        (5, "5"),
        (0.5, "0.5"),
        ('say "ä"', '"say \\"ä\\""'),
        (Path("a/b"), '"a/b"'),
        (("a", "b"), '["a", "b"]'),
        ({"a": 1, "b": [Secret("x")]}, "{a = 1, b = [***]}"),
        ({"mail_*": "ask"}, '{"mail_*" = "ask"}'),
        (Secret("x"), "***"),
        (Server("u", Secret("x")), '{url = "u", key = ***, root = none}'),
        ("postgresql://anna:hunter2@db.example/chat", '"postgresql://anna:***@db.example/chat"'),
        ("postgresql://anna:hun@ter/2@db.example/chat", '"postgresql://anna:***@db.example/chat"'),
        ("postgresql://db.example/chat?password=hunter2&x=y", '"postgresql://db.example/chat?password=***&x=y"'),
        ("redis://:hunter2@db.example/0", '"redis://:***@db.example/0"'),
        ("http://db.example:80/a@b", '"http://db.example:80/a@b"'),
    ],
)
def test_values_are_shown_as_the_file_has_them(value: object, text: str) -> None:
    """Without secrets, and without the passwords of URLs."""
    assert show(value) == text


def test_settings_print_without_secrets() -> None:
    """Also the passwords of URLs, which are in ordinary texts."""
    settings = Settings(text="postgresql://anna:hunter2@db/chat", key=Secret("hunter2"))
    assert "hunter2" not in f"{settings} {settings!r}"


# --- documentation ----------------------------------------------------------------------------------------------------


def test_options_say_all_that_documentation_needs() -> None:
    """Name, type, default, environment names and help, in the order of the class."""
    found = {one.name: one for one in options(Settings)}
    assert list(found) == [field.name for field in attrs.fields(Settings)]
    assert found["text"] == Option("text", "string", '"t"', ("T_TEXT",), "A text.")
    assert found["number"].env == ("T_NUMBER", "T_OLD")
    assert {name: one.type for name, one in found.items()} == {
        "text": "string",
        "number": "integer",
        "ratio": "number",
        "flag": "true or false",
        "mode": '"slow" or "fast"',
        "names": "list of strings",
        "ports": "list of integers",
        "path": "path",
        "key": "secret",
        "servers": "table",
        "colours": "table",
    }
    assert {name: one.default for name, one in found.items() if one.default not in ("none", "[]")} == {
        "text": '"t"', "number": "1", "flag": "false", "mode": '"slow"', "servers": "{}", "colours": "{}",
    }  # fmt: skip
    assert [one.default for one in options(Needy)] == [None, None]
