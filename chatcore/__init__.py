"""A framework for self-hosted AI chat backends.

What the author of a plugin needs can be imported from here, or from the module or package that defines it: `hooks`,
`tools`, `types`, `protocols`, `accounts`, `errors`, `settings`, `secrets`, `wire`, `access`, `requests`, `openapi`,
`openai`, `http`, `addresses`, `sse`, `kept`, `answer`, `forms`, `database`, `commands.reach` and the modules of
`testing`. Everything else is chatcore's own and may change at any time.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatcore.access import authenticated, current_principal, public, requires
    from chatcore.errors import ChatcoreError, PluginOff, ProviderError, RequestError, ToolFailed
    from chatcore.hooks import Context, NoSettings, Plugin, hookimpl
    from chatcore.openai import OpenAIProvider
    from chatcore.protocols import Authenticator, BlobStore, Health, Lifespan, Provider, ToolSource
    from chatcore.secrets import Secret
    from chatcore.settings import option
    from chatcore.tools import Invocation, Question, QuestionAnswer, Tool, ToolCall, ToolResult
    from chatcore.types import Message, Model, ModelRequest, Principal, Turn, TurnResult

_MODULES = {
    "access": ("authenticated", "current_principal", "public", "requires"),
    "errors": ("ChatcoreError", "PluginOff", "ProviderError", "RequestError", "ToolFailed"),
    "hooks": ("Context", "NoSettings", "Plugin", "hookimpl"),
    "openai": ("OpenAIProvider",),
    "protocols": ("Authenticator", "BlobStore", "Health", "Lifespan", "Provider", "ToolSource"),
    "secrets": ("Secret",),
    "settings": ("option",),
    "tools": ("Invocation", "Question", "QuestionAnswer", "Tool", "ToolCall", "ToolResult"),
    "types": ("Message", "Model", "ModelRequest", "Principal", "Turn", "TurnResult"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022  the names that are imported when they are first used, in the order above
    "authenticated", "current_principal", "public", "requires",
    "ChatcoreError", "PluginOff", "ProviderError", "RequestError", "ToolFailed",
    "Context", "NoSettings", "Plugin", "hookimpl",
    "OpenAIProvider",
    "Authenticator", "BlobStore", "Health", "Lifespan", "Provider", "ToolSource",
    "Secret",
    "option",
    "Invocation", "Question", "QuestionAnswer", "Tool", "ToolCall", "ToolResult",
    "Message", "Model", "ModelRequest", "Principal", "Turn", "TurnResult",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used: the command line's `--help` needs none of them."""
    if name not in _HOME:
        raise AttributeError(f"module 'chatcore' has no attribute {name!r}")
    return getattr(import_module(f"chatcore.{_HOME[name]}"), name)
