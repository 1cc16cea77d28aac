"""What `chatcore doctor` looks at. It changes nothing, and needs neither a server nor anything to be sound."""

import asyncio
import errno
import os
import platform
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from chatcore.config import Config, Loaded
from chatcore.database import sqlite_file
from chatcore.database.examine import examine, examine_server, history
from chatcore.errors import ChatcoreError, ConfigError, Conflict
from chatcore.operation.checks import Check, State, in_bytes
from chatcore.plugins import Plugins, Row, unknown_names
from chatcore.protocols import OAuth
from chatcore.serving.sockets import listen
from chatcore.settings import DEFAULT
from chatcore.terminal.client import is_chatcore, url_of
from chatcore.worker import alive

_LIBRARIES = ("quart", "hypercorn", "aiohttp", "httpx", "peewee", "pluggy")
_TOO_LITTLE, _LITTLE = 100 * 10**6, 10**9  # bytes of free disk
_LONG_LOG = 200 * 10**6  # bytes; SQLite begins again at its start as soon as no reader needs it
_OTHER_FILES = 100  # that a server has open, beside those of streams
_FILES_PER_STREAM = 2  # to the reader and to the model
_JUMP = 0.5  # seconds
_APART = 2.0  # seconds
_DAY = 86_400  # seconds


def look(configuration: Loaded | ConfigError, load_plugins: Callable[[Loaded], Plugins]) -> Sequence[Check]:
    """Looks at everything, whatever is wrong with the rest. A configuration that cannot be read is given as the error;
    then what depends on it is left out."""
    wall, monotonic = time.time(), time.monotonic()
    if isinstance(configuration, ConfigError):
        remedy = configuration.hint or "mend it; what depends on it was not looked at"
        return [Check("configuration", "fail", configuration.message, remedy), _clock(wall, monotonic), *_software()]
    loaded, config = configuration, configuration.config
    return [
        _configuration(loaded),
        *_guarded("address", lambda: [_address(config)]),
        *_guarded("data", lambda: _data(config.data)),
        *_guarded("database", lambda: _database(config.database_url)),
        *_guarded("plugins", lambda: _plugins(loaded, load_plugins(loaded))),
        _open_files(config),
        _clock(wall, monotonic),
        *_software(),
    ]


def _guarded(name: str, looking: Callable[[], Iterable[Check]]) -> Sequence[Check]:
    checks: list[Check] = []
    try:
        checks.extend(looking())
    except ChatcoreError as error:
        checks.append(Check(name, "fail", error.message, error.hint or ""))
    except OSError as error:
        checks.append(Check(name, "fail", str(error), "see that it is there, and that this user may use it"))
    return checks


def _configuration(loaded: Loaded) -> Check:
    origins = {origin for origin in loaded.origins.values() if origin != DEFAULT}
    if loaded.plugins:
        origins.add(str(loaded.file))
    found = f"from {', '.join(sorted(origins))}; the rest is the default" if origins else "nothing is set: all defaults"
    return Check("configuration", "ok", found)


def _address(config: Config) -> Check:
    if config.port == 0:
        return Check("address", "ok", f"{config.host}, at each start another port")
    try:
        listen(config).close()
    except ConfigError as error:
        url = url_of(config)
        if getattr(error.__cause__, "errno", None) == errno.EADDRINUSE and asyncio.run(is_chatcore(url)):
            return Check("address", "ok", f"a chatcore answers at {url}")
        return Check("address", "fail", error.message, error.hint or "")
    return Check("address", "ok", f"{config.host} port {config.port} is free")


# --- what is kept -----------------------------------------------------------------------------------------------------


def _data(directory: Path) -> Iterator[Check]:
    whole = directory.absolute()
    there = next(path for path in (whole, *whole.parents) if path.exists())
    if closed := next((place for place in _places(there, deep=there == whole) if not _is_open(place)), None):
        remedy = "make it a directory that the server's user may write, or choose another with --data"
        yield Check("data", "fail", f"{closed} is no directory that this user may write", remedy)
    else:
        yield Check("data", "ok", f"{directory}{'' if there == whole else ', to be made at the first start'}")
    free = shutil.disk_usage(there).free
    state: State = "fail" if free < _TOO_LITTLE else "warn" if free < _LITTLE else "ok"
    yield Check("disk", state, f"{in_bytes(free)} free", "" if state == "ok" else "make room, or move the data")
    count = alive(directory / "workers")
    yield Check("server", "ok", f"runs on this data, with {count} workers" if count else "none runs on this data")


def _places(there: Path, *, deep: bool) -> Sequence[Path]:
    return [there, *(path for path in there.iterdir() if path.is_dir())] if deep and there.is_dir() else [there]


def _is_open(place: Path) -> bool:
    return place.is_dir() and os.access(place, os.R_OK | os.W_OK | os.X_OK)


def _database(url: str) -> Iterator[Check]:
    path = sqlite_file(url)
    if path is None:
        yield from _database_server(url)
        return
    if not path.exists():
        yield Check("database", "ok", f"{path}, to be made at the first start")
        return
    examined = examine(path)
    found = f"SQLite, {path}, {in_bytes(examined.size)}, sound; log {in_bytes(examined.log_size)}"
    if not os.access(path, os.R_OK | os.W_OK):
        yield Check("database", "fail", f"{path} may not be written by this user", "give it to the server's user")
    elif examined.log_size > _LONG_LOG:
        yield Check(
            "database", "warn", found, "something reads without end: restart the server, and see whether it shrinks"
        )
    else:
        yield Check("database", "ok", found)
    yield _migrations(examined.migrations.get("chatcore", ()))


def _database_server(url: str) -> Iterator[Check]:
    server = examine_server(url)
    yield Check("database", "ok", f"PostgreSQL {server.version}, {server.name}, {in_bytes(server.size)}")
    yield _migrations(server.migrations)
    found = f"the database's is {abs(server.ahead):.1f} s {'ahead of' if server.ahead > 0 else 'behind'} this one"
    if abs(server.ahead) > _APART:
        yield Check("clocks", "warn", found, "have both set from the network")
    else:
        yield Check("clocks", "ok", found)


def _migrations(applied: Sequence[str]) -> Check:
    known = history()
    if unknown := [name for name in applied if name not in known]:
        return Check("migrations", "fail", f"{', '.join(unknown)}: of a newer version of chatcore", "upgrade chatcore")
    if due := [name for name in known if name not in applied]:
        return Check("migrations", "ok", f"{', '.join(due)} to be run at the next start")
    return Check("migrations", "ok", f"up to {applied[-1]}")


def _plugins(loaded: Loaded, plugins: Plugins) -> Iterator[Check]:
    yield Check("plugins", "ok", f"on: {', '.join(row.name for row in plugins.rows if row.state == 'on')}")
    yield from (_plugin(row, strict=loaded.config.strict) for row in plugins.rows if row.state in ("off", "failed"))
    for problem in unknown_names(loaded, [row.name for row in plugins.rows]):
        yield Check("plugins", "warn", problem, "install it, or take the name out")
    yield from _accounts(plugins)
    stores = plugins.registry.blob_stores
    if loaded.config.blob_store not in stores:
        remedy = f"set blob_store to one of: {', '.join(stores)}"
        yield Check("blob store", "fail", f"there is none of the name {loaded.config.blob_store!r}", remedy)
    try:
        plugins.registry.provider_for(None)
    except ChatcoreError as error:  # who names no model gets this instead of an answer
        yield Check("default model", "warn", error.message, error.hint or "set default_model")


def _accounts(plugins: Plugins) -> Iterator[Check]:
    """What signing in to other services needs: an address to come back to, and a key that nobody else reads."""
    ways = {name: account.sign_in for name, account in plugins.registry.accounts.items()}
    names = ", ".join(ways)
    comes_back = any(isinstance(way, OAuth) and way.redirect_uri is None for way in ways.values())
    try:
        where = f"; services send browsers to {plugins.accounts.redirect_uri}" if comes_back else ""
        if ways:
            yield Check("accounts", "ok", names + where)
    except Conflict as error:
        yield Check("accounts", "warn", f"{names}; {error.message}", error.hint or "")
    key = plugins.accounts.vault.keys.file
    if key.exists() and key.stat().st_mode & 0o077:
        yield Check("account key", "warn", f"others than the server's user may read {key}", f"chmod 600 {key}")


def _plugin(row: Row, *, strict: bool) -> Check:
    if row.state == "off":
        return Check(row.name, "fail" if strict else "warn", "off", row.reason)
    return Check(row.name, "fail", row.reason, f'mend it, or write disable = ["{row.name}"]')


# --- the machine ------------------------------------------------------------------------------------------------------


def _open_files(config: Config) -> Check:
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)  # the server takes as much of it as it needs
    needed = config.max_streams * _FILES_PER_STREAM + _OTHER_FILES
    found = f"{limit} may be open; {config.max_streams} streams need {needed}"
    if resource.RLIM_INFINITY != limit < needed:
        return Check(
            "files", "warn", found, f"ulimit -n {needed} (systemd: LimitNOFILE={needed}), or lower max_streams"
        )
    return Check("files", "ok", found)


def _clock(wall: float, monotonic: float) -> Check:
    now = time.time()
    jump = (now - wall) - (time.monotonic() - monotonic)
    found = datetime.fromtimestamp(now).astimezone().isoformat(" ", "seconds")
    remedy = "have it set from the network, as with timedatectl set-ntp true: tokens and leases end by it"
    if now + _DAY < Path(__file__).stat().st_mtime:
        return Check("clock", "fail", f"{found}, which is before this chatcore was installed", remedy)
    if abs(jump) > _JUMP:
        return Check("clock", "warn", f"{found}; it was set by {jump:+.1f} s just now", remedy)
    return Check("clock", "ok", found)


def _software() -> Iterator[Check]:
    try:
        import uvloop  # noqa: F401, PLC0415  not there on every platform

        yield Check("event loop", "ok", f"uvloop {version('uvloop')}")
    except ImportError as error:
        yield Check("event loop", "warn", f"asyncio's own, which is slower: {error}", "pip install uvloop")
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    found = [
        f"chatcore {version('chatcore')}",
        f"Python {platform.python_version()}",
        f"SQLite {sqlite3.sqlite_version}",
    ]
    yield Check("versions", "ok", ", ".join([*found, *libraries, platform.platform()]))
