"""The configuration: where it comes from, what it may be, how it is shown."""

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from attrs import validators

from chatcore.config import Config, Loaded, Row, describe, load, plugin_settings
from chatcore.errors import ConfigError
from chatcore.secrets import Secret
from chatcore.settings import option
from chatcore.testing.settings import options
from chatcore.types import Limits


@attrs.frozen
class Weather:
    """A plugin's settings."""

    latitude: float = option(help="Degrees north.", validator=validators.le(90))
    api_key: Secret | None = option(None, env="WEATHER_KEY")
    cache: Path = option(Path("cache"))


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(toml: str = "", dotenv: str = "", environ: Mapping[str, str] | None = None, **overrides: object) -> Loaded:
    """What `load` makes of a file, a `.env`, an environment and a command line."""
    if toml:
        Path("chatcore.toml").write_text(toml)
    if dotenv:
        Path(".env").write_text(dotenv)
    return load(file=None, environ=environ or {}, overrides=overrides)


# --- sources ----------------------------------------------------------------------------------------------------------


def test_zero_configuration_works() -> None:
    """An empty directory and an empty environment give a server on loopback."""
    loaded = read()
    assert loaded.config == Config()
    assert (loaded.config.host, loaded.config.port) == ("127.0.0.1", 8000)
    assert loaded.plugins == {}
    assert set(loaded.origins.values()) == {"default"}


def test_each_source_overrides_the_one_before() -> None:
    """chatcore.toml, `.env`, the environment, the command line."""
    toml = "port = 1\nhops = 1\nworkers = 2\nhost = '::1'"
    loaded = read(
        toml, "CHATCORE_PORT=2\nCHATCORE_HOPS=2\nCHATCORE_WORKERS=3", {"PORT": "9", "CHATCORE_PORT": "3"}, hops=4
    )
    assert (loaded.config.port, loaded.config.hops, loaded.config.workers, loaded.config.host) == (3, 4, 3, "::1")
    assert {name: loaded.origins[name] for name in ("port", "hops", "workers", "host", "data")} == {
        "port": "environment CHATCORE_PORT",
        "hops": "--hops",
        "workers": ".env CHATCORE_WORKERS",
        "host": "chatcore.toml",
        "data": "default",
    }


def test_the_environment_counts_before_dotenv() -> None:
    """Also for a plugin's settings, which see both."""
    loaded = read("[plugins.weather]\nlatitude = 1", "WEATHER_KEY=a\nCHATCORE_PORT=1", {"WEATHER_KEY": "b"})
    assert plugin_settings(loaded, "weather", Weather).api_key == Secret("b")
    assert loaded.dotenv == {"CHATCORE_PORT"}


@pytest.mark.parametrize(
    ("name", "field", "text", "value"),
    [
        ("HOST", "host", "0.0.0.0", "0.0.0.0"),
        ("PORT", "port", "8001", 8001),
        ("OPENROUTER_DEFAULT_MODEL", "default_model", "openrouter/auto", "openrouter/auto"),
        ("MODEL_NAME", "default_model", "a/b", "a/b"),
        ("OPENROUTER_SYSTEM_PROMPT", "system_prompt", "Be kind.", "Be kind."),
        ("TITLE_MODEL", "title_model", "a/b", "a/b"),
        ("CHAT_DATABASE_PATH", "database", "data/chat_sessions.db", "data/chat_sessions.db"),
    ],
)
def test_names_of_former_servers_are_understood(name: str, field: str, text: str, value: object) -> None:
    """Their `.env` works as it is; our own name wins."""
    assert getattr(read(environ={name: text}).config, field) == value
    own = f"CHATCORE_{field.upper()}"
    assert read(environ={name: text, own: "1"}).origins[field] == f"environment {own}"


def test_every_setting_has_a_name_of_its_own_in_the_environment() -> None:
    """`CHATCORE_` and its key, first of all; no two settings share one."""
    names = [name for one in options(Config) for name in one.env]
    assert len(names) == len(set(names))
    for one in options(Config):
        assert one.env[0] == f"CHATCORE_{one.name.upper()}"


def test_what_the_command_line_does_not_say_does_not_count() -> None:
    """None and an empty tuple are what click gives for an option that is absent."""
    loaded = read("port = 1\ndisable = ['llama']", port=None, disable=())
    assert (loaded.config.port, loaded.config.disable) == (1, ("llama",))


def test_another_file_can_be_named(directory: Path) -> None:
    """Paths in it are relative to it; chatcore.toml is not read then."""
    other = directory / "etc" / "chat.toml"
    other.parent.mkdir()
    other.write_text("data = 'kept'\nport = 5")
    Path("chatcore.toml").write_text("hops = 3")
    loaded = load(file=other, environ={}, overrides={})
    assert loaded.config.data == directory / "etc" / "kept"
    assert (loaded.config.port, loaded.config.hops) == (5, 40)
    assert loaded.origins["port"] == str(other)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_named_file_must_be_there(directory: Path) -> None:
    """A misspelt --config is not an empty configuration."""
    with pytest.raises(ConfigError, match=r"none\.toml: there is no such file"):
        load(file=directory / "none.toml", environ={}, overrides={})


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"port = \n", "line 1"),
        (b"port = 1\nhost = localhost\n", "line 2"),
        (b"port = 1\nport = 2\n", "line 2"),
        (b"\xff", "chatcore.toml"),
    ],
)
def test_a_malformed_file_is_named_with_the_line(content: bytes, where: str) -> None:
    """And with a remedy."""
    Path("chatcore.toml").write_bytes(content)
    with pytest.raises(ConfigError) as wrong:
        read()
    assert "chatcore.toml" in wrong.value.message
    assert where in wrong.value.message
    assert wrong.value.hint


@pytest.mark.parametrize("toml", ["plugins = 1", "plugins = []", "[plugins]\nweather = 1", "[[plugins]]\nname = 'x'"])
def test_plugins_are_tables(toml: str) -> None:
    """The message shows how they are written."""
    with pytest.raises(ConfigError, match=r"\[plugins.NAME\]"):
        read(toml)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """Each with its origin."""
    toml = "prot = 1\nport = 'x'\nworkers = 0\ncors_origins = ['http://a', 'b']\nkeyfile = 5"
    with pytest.raises(ConfigError) as wrong:
        read(toml, "CHATCORE_HOPS=z", {"CHATCORE_TIMEZONE": "Mars/Crater", "HOST": "::"}, max_body=0)
    assert sorted(line.partition(": ")[0] for line in wrong.value.message.splitlines()) == sorted(
        ["chatcore.toml"] * 5 + [".env CHATCORE_HOPS", "environment CHATCORE_TIMEZONE", "--max-body"]
    )
    assert "prot: unknown; did you mean 'port'?" in wrong.value.message


@pytest.mark.parametrize(
    "settings",
    [
        {"port": -1},
        {"port": 65536},
        {"workers": 0},
        {"workers": 513},
        {"max_streams": 0},
        {"max_body": 0},
        {"log_retention": -1.0},
        {"disconnect_grace": -0.1},
        {"hops": 0},
        {"tool_errors": 0},
        {"tool_timeout": 0.0},
        {"hook_timeout": 0.0},
        {"tool_output": 0},
        {"cost": 0.0},
        {"timezone": "Vienna"},
        {"timezone": ""},
        {"timezone": "../../etc/passwd"},
        {"cors_origins": ["*"]},
        {"cors_origins": ["https://a.example/"]},
        {"cors_origins": ["https://a.example/path"]},
        {"cors_origins": ["a.example"]},
        {"cors_origins": ["https://"]},
        {"cors_origins": [""]},
        {"cors_origins": ["null"]},
        {"cors_origins": ["https://[a"]},
        {"certfile": "a.pem"},
        {"keyfile": "a.pem"},
        {"durability": "maybe"},
        {"log_level": "loud"},
    ],
)
def test_limits(settings: dict[str, object]) -> None:
    """A value that cannot work is refused at the start, not found out later."""
    with pytest.raises(ConfigError):
        read(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 0},
        {"port": 65535},
        {"log_retention": 0},
        {"disconnect_grace": 0.0},
        {"cost": 0.01},
        {"timezone": "UTC"},
        {"cors_origins": ["loopback", "https://a.example", "http://a.example:81", "capacitor://localhost"]},
        {"certfile": "a.pem", "keyfile": "b.pem"},
    ],
)
def test_edges(settings: dict[str, object]) -> None:
    """The last values that work."""
    config = read(**settings).config
    assert all(getattr(config, name) is not None for name in settings)


# --- the core's own ---------------------------------------------------------------------------------------------------


def test_limits_of_a_turn_are_those_of_the_types() -> None:
    """The same defaults in both places."""
    assert Config().limits == Limits()
    assert Config(hops=2, cost=0.5).limits == Limits(hops=2, cost=0.5)


def test_the_time_zone_is_one() -> None:
    """As the standard library has them."""
    assert Config(timezone="Europe/Vienna").zone.key == "Europe/Vienna"


def test_every_setting_is_explained() -> None:
    """In a sentence."""
    for one in options(Config):
        assert one.help.endswith("."), one.name


# --- plugins ----------------------------------------------------------------------------------------------------------


def test_a_plugin_has_a_table_of_its_own(directory: Path) -> None:
    """`[plugins.<name>]`, and the environment names that its settings declare."""
    loaded = read("[plugins.weather]\nlatitude = 48.2\ncache = 'kept'", environ={"WEATHER_KEY": "k"})
    assert plugin_settings(loaded, "weather", Weather) == Weather(
        latitude=48.2, api_key=Secret("k"), cache=Path("kept")
    )


def test_a_plugins_mistakes_are_its_own() -> None:
    """They do not stop the configuration from loading; all of them are in one report."""
    loaded = read("[plugins.weather]\nlatitude = 91\ncahce = 'x'")
    with pytest.raises(ConfigError) as wrong:
        plugin_settings(loaded, "weather", Weather)
    assert wrong.value.message.splitlines() == [
        "chatcore.toml: plugins.weather.cahce: unknown; did you mean 'cache'?",
        "chatcore.toml: plugins.weather.latitude: must be <= 90: 91.0",
    ]


def test_a_plugin_without_a_table_has_its_defaults() -> None:
    """Or says what it needs."""
    with pytest.raises(ConfigError, match=r"chatcore.toml: plugins.weather.latitude: required"):
        plugin_settings(read(), "weather", Weather)


def test_what_was_read_prints_no_secret() -> None:
    """Neither the environment, nor a plugin's table, nor a password in a URL."""
    loaded = read(
        "database = 'postgresql://anna:hunter2@db/chat'\n[plugins.weather]\napi_key = 'hunter2'",
        "TOKEN=hunter2",
        {"OTHER": "hunter2"},
    )
    assert "hunter2" not in f"{loaded} {loaded!r}"


# --- showing ----------------------------------------------------------------------------------------------------------


def test_describe_gives_every_value_with_its_origin() -> None:
    """The core's first, then each plugin's; secrets are masked."""
    loaded = read("[plugins.weather]\nlatitude = 1.5", "WEATHER_KEY=hunter2", {"HOST": "::1"}, port=5)
    rows = describe(loaded, {"weather": Weather})
    assert [row.key for row in rows[: len(attrs.fields(Config))]] == [field.name for field in attrs.fields(Config)]
    assert rows[-3:] == [
        Row("plugins.weather.latitude", "1.5", "chatcore.toml"),
        Row("plugins.weather.api_key", "***", ".env WEATHER_KEY"),
        Row("plugins.weather.cache", '"cache"', "default"),
    ]
    assert Row("host", '"::1"', "environment HOST") in rows
    assert Row("port", "5", "--port") in rows
    assert Row("default_model", "none", "default") in rows


def test_describe_shows_a_plugin_whose_settings_are_wrong() -> None:
    """One row, with what is wrong: the command that helps must not fail itself."""
    (row,) = describe(read("[plugins.weather]\nlatitude = 'x'"), {"weather": Weather})[len(attrs.fields(Config)) :]
    assert (row.key, row.value) == ("plugins.weather", "wrong")
    assert "latitude" in row.origin


def test_describe_shows_a_plugin_whose_settings_class_is_wrong() -> None:
    """As one row, too: it is not the user's fault."""

    @attrs.frozen
    class Unreadable:
        pair: tuple[int, str] = option((1, "a"))

    row = describe(read("[plugins.weather]\npair = [1, 'a']"), {"weather": Unreadable})[-1]
    assert (row.key, row.value) == ("plugins.weather", "wrong")
    assert row.origin.startswith("its settings_class raised TypeError")


def test_a_configuration_can_be_made_by_hand() -> None:
    """As tests do, without a file or an environment."""
    loaded = Loaded(config=Config(port=0), plugins={"weather": {"latitude": 1, "api_key": Secret("k")}})
    assert plugin_settings(loaded, "weather", Weather).api_key == Secret("k")
    assert describe(loaded, {})[1] == Row("port", "0", "default")
