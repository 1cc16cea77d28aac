"""Every error that chatcore raises.

    ChatcoreError                     500
    ├── ConfigError                   the configuration is wrong; nothing was started
    ├── PluginError                   a plugin is wrong; it is a row in `chatcore plugins`
    │   ├── PluginOff                 not an error of the plugin: something is not configured yet
    │   └── DuplicateName             two plugins contribute the same name
    ├── RequestError                  400, the caller can mend it
    │   ├── ValidationFailed          422, names every path that is wrong
    │   ├── Unauthenticated           401
    │   ├── Forbidden                 403
    │   ├── NotFound                  404, also for what belongs to somebody else
    │   ├── Conflict                  409
    │   │   └── RunLost               what a worker says of a run that another has taken
    │   └── TooLarge                  413
    ├── Overloaded                    503 with Retry-After, nothing was started
    ├── ToolFailed                    a tool cannot do what it was asked; the model reads the text
    ├── DatabaseError                 500, the data could not be read or written
    │   └── DatabaseUnavailable       503 with Retry-After: not now, for a reason outside of chatcore
    ├── VaultError                    500, what people have with other services cannot be decrypted
    ├── AccountError                  502, what somebody has with another service cannot be used
    │   ├── SignInNeeded              409, the owner has to sign in there first, or again
    │   ├── SignInFailed              400, a sign-in was refused, denied, forged, or came too late
    │   └── AccountUnavailable        the service does not answer: worth another try
    ├── BackupError                   a backup could not be made, or cannot be used
    └── ProviderError                 502, the model's server failed or refused
        ├── ProviderRefused           4xx of the upstream: asking again will not help
        ├── ProviderUnavailable       connection, 429, 5xx: worth another try before the first token
        └── StreamBroken              the stream ended too early or was not readable

The text says what is wrong; `hint` says what to do about it. Both are for whoever can mend it: clients are `told`
nothing more of what is the server's own fault than that, since the text may name files, statements and hosts.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import attrs


class ChatcoreError(Exception):
    """The root. `status` is the HTTP status with which a route answers it, `code` its stable name on the wire.

    What has status 500, or is `private`, is the server's own fault: its text is for the log.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    neutral: ClassVar[str] = "The server has a fault and cannot do that."
    private: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def in_full(self) -> str:
        """The text, with the hint behind it: for lists, logs and terminals."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    @property
    def told(self) -> str:
        """The text for clients. Of the server's own fault it is a neutral one: whoever tells it logs the error."""
        return self.neutral if self._is_ours else self.message

    @property
    def told_hint(self) -> str | None:
        """The hint for clients."""
        return "the reason is in the server's log" if self._is_ours else self.hint

    @property
    def _is_ours(self) -> bool:
        return self.private or self.status == 500


class ConfigError(ChatcoreError):
    """The configuration cannot be used. The text lists every problem at once."""

    code = "config"


class PluginError(ChatcoreError):
    """A plugin cannot be used. The text names plugin, hook, file and remedy as far as they are known."""

    code = "plugin"


class PluginOff(PluginError):
    """Raised by a plugin that lacks something of its user's: a key, a file. Its text is the remedy.

    The plugin is listed as off; the server starts without it.
    """

    code = "plugin_off"


class DuplicateName(PluginError):
    """Two plugins contribute the same name of one kind. The text names both distributions."""

    code = "duplicate_name"


class RequestError(ChatcoreError):
    """The request cannot be served as it is."""

    status = 400
    code = "bad_request"


@attrs.frozen
class Problem:
    """One thing that is wrong in a value: where (`$.messages[0].role`), and what."""

    path: str
    message: str


class ValidationFailed(RequestError):
    """The JSON is well-formed and has the wrong shape. `problems` has one entry per wrong path."""

    status = 422
    code = "invalid"

    def __init__(self, problems: Sequence[Problem], *, hint: str | None = None) -> None:
        super().__init__("; ".join(f"{p.path}: {p.message}" for p in problems), hint=hint)
        self.problems = tuple(problems)


class Unauthenticated(RequestError):
    """Nobody is known to be asking."""

    status = 401
    code = "unauthenticated"


class Forbidden(RequestError):
    """Somebody is asking who may not."""

    status = 403
    code = "forbidden"


class NotFound(RequestError):
    """There is no such thing, or it belongs to somebody else: a stranger cannot tell which."""

    status = 404
    code = "not_found"


class Conflict(RequestError):
    """The request contradicts the present state."""

    status = 409
    code = "conflict"


class RunLost(Conflict):
    """A worker writes to a run that is not its own any more: it was silent for too long, and another has taken it."""

    code = "run_lost"


class TooLarge(RequestError):
    """The body, or the conversation, is over the limit."""

    status = 413
    code = "too_large"


class Overloaded(ChatcoreError):
    """The server is full or on its way out; nothing was started. `retry_after` is in seconds."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, *, retry_after: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class ToolFailed(ChatcoreError):
    """Raised by a tool that cannot do what it was asked. The model reads the text and may try something else."""

    code = "tool_failed"


class DatabaseError(ChatcoreError):
    """The database could not be opened, read or written."""

    code = "database"
    neutral = "The server's data cannot be read or written."


class DatabaseUnavailable(DatabaseError):
    """The database cannot be used now: it is away, locked, full, not ours to use, or damaged. Nothing was changed, and
    when that is mended the same works. `retry_after` is in seconds."""

    status = 503
    code = "database_unavailable"
    private = True
    retry_after: ClassVar[int] = 5


class VaultError(ChatcoreError):
    """The key file of the accounts is missing, wrong, or cannot be read."""

    code = "vault"


class AccountError(ChatcoreError):
    """What somebody has with another service cannot be used: it said no, for a reason that its owner cannot mend."""

    status = 502
    code = "account"


class SignInNeeded(AccountError):
    """The owner has not signed in to the service, or has to do it again: it takes the old token no more."""

    status = 409
    code = "sign_in_needed"


class SignInFailed(AccountError):
    """A sign-in did not come to its end. The text says why, and may be shown to who tried."""

    status = 400
    code = "sign_in_failed"


class AccountUnavailable(AccountError):
    """The service did not answer, or was too busy to. What is stored stays good."""

    code = "account_unavailable"


class BackupError(ChatcoreError):
    """A backup could not be made, or what is to be restored is none, is damaged, or may not be put where it should."""

    code = "backup"


class ProviderError(ChatcoreError):
    """The server that runs the model failed or refused.

    `upstream_status` is its HTTP status where it gave one, `kind` its own stable name for the cause,
    `details` whatever else it said.
    """

    status = 502
    code = "provider"

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int | None = None,
        kind: str | None = None,
        details: Any = None,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.upstream_status = upstream_status
        self.kind = kind
        self.details = details
        self.retry_after = retry_after

    @property
    def told_status(self) -> int:
        """The HTTP status that a client is told: the upstream's, if that was an error."""
        upstream = self.upstream_status
        return upstream if upstream is not None and upstream >= 400 else self.status


class ProviderRefused(ProviderError):
    """The upstream understood and said no (400, 401, 402, 403, 404 …). Another try gives the same answer."""

    code = "provider_refused"


class ProviderUnavailable(ProviderError):
    """No connection, a time-out, 429 or 5xx. `retry_after` is in seconds where the upstream gave it."""

    code = "provider_unavailable"


class StreamBroken(ProviderError):
    """The answer began and then broke: cut off, unreadable, or an error inside the stream."""

    code = "stream_broken"
