"""The configuration: `chatcore.toml`, `.env`, the environment and the command line, each overriding the one before.

Relative paths in the file are relative to the file, others to the working directory. Nothing has to be configured.
"""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import attrs
from attrs import validators
from attrs.validators import ge, gt, optional

from chatcore import dotenv
from chatcore.errors import ConfigError
from chatcore.settings import Sources, option, read, show
from chatcore.tools import JsonObject, Policy
from chatcore.types import Limits

__all__ = ["Config", "Loaded", "Row", "describe", "load", "plugin_settings"]

FILE = Path("chatcore.toml")
"""Read where no other file is named, if it is there."""
LOOPBACK_ORIGINS = "loopback"
"""In `cors_origins`: the pages of this machine, `http(s)://localhost`, `127.0.0.1` and `[::1]` with any port."""

S = TypeVar("S")


def _known_zone(instance: object, field: "attrs.Attribute[str]", value: str) -> None:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is no known time zone such as Europe/Vienna") from error


def _origin(instance: object, field: "attrs.Attribute[str]", value: str) -> None:
    parts = urlsplit(value)
    if value != LOOPBACK_ORIGINS and (not parts.hostname or value != f"{parts.scheme}://{parts.netloc}"):
        raise ValueError(f"{value!r} is neither an origin such as https://chat.example.com nor {LOOPBACK_ORIGINS!r}")


def _page(instance: object, field: "attrs.Attribute[Any]", value: str) -> None:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{value!r} is no address such as https://chat.example.com")


def _with_certfile(instance: "Config", field: "attrs.Attribute[Path | None]", value: Path | None) -> None:
    if (instance.certfile is None) != (value is None):
        raise ValueError("certfile and keyfile belong together: set both or neither")


def _named_by_the_environment(cls: type, fields: "list[attrs.Attribute[Any]]") -> "list[attrs.Attribute[Any]]":
    """Each setting of the core is also a variable: `CHATCORE_` and its name. What it names itself comes after that."""
    return [
        field.evolve(metadata={**field.metadata, "env": (f"CHATCORE_{field.name.upper()}", *field.metadata["env"])})
        for field in fields
    ]


@attrs.frozen(kw_only=True, field_transformer=_named_by_the_environment)
class Config:
    """The core's own settings. Plugins have theirs under `[plugins.<name>]`."""

    host: str = option("127.0.0.1", env="HOST", help="The address to listen on.")
    port: int = option(
        8000, env="PORT", help="The port to listen on; 0 takes a free one.", validator=[ge(0), validators.le(65535)]
    )
    workers: int = option(1, help="How many processes serve requests.", validator=[ge(1), validators.le(512)])
    hang_timeout: float = option(
        20.0,  # less than others wait for a lock that it may hold
        help="How many seconds one of several workers may give no sign of life until another takes its place.",
        validator=gt(0),
    )
    certfile: Path | None = option(None, help="The TLS certificate (PEM); turns HTTPS on.")
    keyfile: Path | None = option(None, help="The TLS certificate's private key (PEM).", validator=_with_certfile)
    public_url: str | None = option(
        None,
        help="The address under which browsers reach the server, such as https://chat.example.com; other services "
        "send them back there after a sign-in.",
        validator=optional(_page),
    )
    insecure: bool = option(False, help="Serve everybody who can reach the server, without tokens.")
    cors_origins: tuple[str, ...] = option(
        (LOOPBACK_ORIGINS,),
        help="The origins of pages that may call the server; 'loopback' stands for the pages of this machine.",
        validator=validators.deep_iterable(_origin),
    )
    max_streams: int = option(2000, help="How many answers may stream at once in each process.", validator=ge(1))
    max_body: int = option(26_214_400, help="The largest request body, in bytes.", validator=ge(1))
    max_conversation: int = option(
        104_857_600,
        help="How large a conversation may be that goes on, in bytes, with all its branches and files.",
        validator=ge(1),
    )
    body_timeout: float = option(60.0, help="How many seconds a request's body may take to come.", validator=gt(0))
    keep_alive: float = option(
        5.0,
        help="How many seconds a connection may take to send the next request; behind a proxy, more than the proxy "
        "keeps it.",
        validator=gt(0),
    )
    reload: bool = option(False, help="Restart when the code changes; for development.")

    data: Path = option(Path("data"), help="The directory of everything that is kept.")
    database: str | None = option(
        None,
        env="CHAT_DATABASE_PATH",
        help="A SQLite file, as a path or as sqlite:///PATH, or postgresql://USER:PASSWORD@HOST/NAME; without it "
        "chatcore.db in the data directory.",
    )
    durability: Literal["relaxed", "strict"] = option(
        "relaxed",
        help="Whether an answer is sent at once and kept within 25 ms (relaxed), or kept before it is sent (strict).",
    )
    log_retention: float = option(
        24.0, help="For how many hours after a run its events can be read again as they were.", validator=ge(0)
    )
    blob_store: str = option("disk", help="The name of the place for files.")
    image_hosts: tuple[str, ...] = option(
        (),
        env="IMAGE_DOWNLOAD_ALLOWED_HOSTS",
        help="The hosts from which images of models are fetched to be kept; of others the URL is kept.",
    )

    plugins_dir: Path | None = option(None, help="A directory of plugins that are one file each.")
    load: tuple[str, ...] = option(
        (), help="Plugins to load that are not installed as such: their classes, as MODULE:CLASS."
    )
    disable: tuple[str, ...] = option((), help="Plugins that are not loaded.")
    order: tuple[str, ...] = option((), help="Plugins in the order in which they are asked; the others follow by name.")
    strict: bool = option(False, help="Do not start if a plugin is off or has failed.")

    default_model: str | None = option(
        None, env=("OPENROUTER_DEFAULT_MODEL", "MODEL_NAME"), help="The model to use where nobody named one."
    )
    default_provider: str | None = option(None, help="The provider whose default model is used where none is set.")
    title_model: str | None = option(None, env="TITLE_MODEL", help="The model that writes the titles of conversations.")
    system_prompt: str | None = option(
        None, env="OPENROUTER_SYSTEM_PROMPT", help="What every model is told before the conversation."
    )
    timezone: str = option("America/New_York", help="The time zone of the times in messages.", validator=_known_zone)
    disconnect_grace: float = option(
        5.0,
        help="For how many seconds a run without a reader goes on, where leaving means stopping.",
        validator=ge(0),
    )
    hops: int = option(40, help="How often a turn may call the model.", validator=ge(1))
    tool_errors: int = option(10, help="How many tools may fail in a row.", validator=ge(1))
    tool_timeout: float = option(120.0, help="How many seconds a tool may take.", validator=gt(0))
    tool_output: int = option(
        100_000, help="How many characters of a tool's answer the model is given.", validator=ge(1)
    )
    max_answer: int = option(
        2**28,
        help="How much models and tools may say in one turn, in bytes, with the chunks in which it comes.",
        validator=ge(1),
    )
    tool_policy: Mapping[str, Policy] = option(
        attrs.Factory(dict),
        help='Which tools may be called: a table of names or patterns, each "allow", "ask" or "deny".',
    )
    approval_timeout: float = option(
        3600.0, help="How many seconds a tool call waits for somebody's consent.", validator=gt(0)
    )
    hook_timeout: float = option(
        60.0, help="How many seconds a plugin may take before a turn, and after it.", validator=gt(0)
    )
    cost: float | None = option(
        None, help="How many US dollars a turn may cost, where the provider tells.", validator=optional(gt(0))
    )

    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info", help="The least important lines that are logged."
    )
    log_format: Literal["console", "json"] = option("console", help="Log lines for people, or as JSON.")

    @property
    def database_url(self) -> str:
        """Where the data is: as configured, else a file in the data directory."""
        return self.database or str(self.data / "chatcore.db")

    @property
    def browser_url(self) -> str | None:
        """The address under which browsers reach the server, as far as it is known: it listens on this machine only,
        or it was told."""
        if self.public_url is None and self.host in ("127.0.0.1", "localhost") and self.port:
            return f"{'https' if self.certfile else 'http'}://{self.host}:{self.port}"
        return self.public_url

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the times in messages."""
        return ZoneInfo(self.timezone)

    @property
    def limits(self) -> Limits:
        """Where a turn stops by itself."""
        return Limits(**{field.name: getattr(self, field.name) for field in attrs.fields(Limits)})


@attrs.frozen(kw_only=True)
class Loaded:
    """The configuration as it was read.

    `origins` names for every field of `config` where its value came from. `plugins` holds the tables `[plugins.<name>]`
    of `file`, as they were written. `environ` is the environment and, for names that it lacks, `.env`; the names from
    there are `dotenv`. Neither prints: they hold secrets.
    """

    config: Config = attrs.field(factory=Config)
    origins: Mapping[str, str] = attrs.field(factory=dict)
    plugins: Mapping[str, JsonObject] = attrs.field(factory=dict, repr=False)
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    dotenv: frozenset[str] = frozenset()
    file: Path = FILE


def load(*, file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> Loaded:
    """Reads the configuration. `overrides` is what the command line gave, None or () for what it did not.

    Raises:
        ConfigError: with everything that is wrong, one problem a line.
    """
    table = _read_file(file)
    plugins = table.pop("plugins", {})
    if not isinstance(plugins, dict) or not all(isinstance(section, dict) for section in plugins.values()):
        raise ConfigError(f"{file or FILE}: plugins: want tables, written as [plugins.NAME]")
    kept = dotenv.read(Path(".env"))
    from_there = frozenset(kept.keys() - environ.keys())
    sources = Sources(
        file=file or FILE,
        table=table,
        environ={**kept, **environ},
        dotenv=from_there,
        overrides={name: value for name, value in overrides.items() if value not in (None, ())},
    )
    config, origins = read(Config, sources)
    return Loaded(
        config=config,
        origins=origins,
        plugins=plugins,
        environ=sources.environ,
        dotenv=from_there,
        file=sources.file,
    )


def _read_file(file: Path | None) -> dict[str, Any]:
    try:
        with (file or FILE).open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError as error:
        if file is None:
            return {}
        raise ConfigError(f"{file}: there is no such file", hint="check --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file or FILE}: {error}", hint="make it a readable UTF-8 text file") from error
    except tomllib.TOMLDecodeError as error:
        hint = "text needs quotes, tables are written [plugins.NAME]; see https://toml.io"
        raise ConfigError(f"{file or FILE}: {error}", hint=hint) from error


def plugin_settings(loaded: Loaded, name: str, settings_class: type[S]) -> S:
    """A plugin's settings, from `[plugins.<name>]` and the environment names that its settings declare.

    Raises:
        ConfigError: with everything that is wrong in them, one problem a line.
    """
    return read(settings_class, _sources(loaded, name))[0]


def _sources(loaded: Loaded, name: str) -> Sources:
    return Sources(
        file=loaded.file,
        table=loaded.plugins.get(name, {}),
        section=f"plugins.{name}.",
        environ=loaded.environ,
        dotenv=loaded.dotenv,
    )


@attrs.frozen
class Row:
    """One setting: its key in the file, its value as the file would have it (secrets as `***`), where it came from."""

    key: str
    value: str
    origin: str


def describe(loaded: Loaded, settings: Mapping[str, type[Any]]) -> Sequence[Row]:
    """Every setting with its origin: the core's, then those of the plugins whose settings classes are given by name.

    A plugin whose settings are wrong gives one row, with the problems as its origin.
    """
    rows = [
        Row(field.name, show(getattr(loaded.config, field.name)), loaded.origins.get(field.name, "default"))
        for field in attrs.fields(Config)
    ]
    for name, settings_class in settings.items():
        rows += _describe_plugin(loaded, name, settings_class)
    return rows


def _describe_plugin(loaded: Loaded, name: str, settings_class: type[Any]) -> list[Row]:
    try:
        values, origins = read(settings_class, _sources(loaded, name))
    except ConfigError as error:
        return [Row(f"plugins.{name}", "wrong", "; ".join(error.message.splitlines()))]
    except Exception as error:  # noqa: BLE001  a plugin's class: the other settings are to be seen all the same
        return [Row(f"plugins.{name}", "wrong", f"its settings_class raised {type(error).__name__}: {error}")]
    return [Row(f"plugins.{name}.{key}", show(getattr(values, key)), origin) for key, origin in origins.items()]
